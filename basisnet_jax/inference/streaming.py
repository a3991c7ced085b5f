"""Two processing units, as in the paper: the next frame's preview beside this one's specialist."""

import collections
from collections.abc import Iterable, Iterator
import functools
from typing import Any

import jax
import numpy as np

from basisnet_jax.inference import fixed
from basisnet_jax.models import BasisNet, basisnet


class StreamingPredictor:
  """A two-stage model on two devices, for frames that come one after another."""

  def __init__(
    self,
    model: BasisNet,
    variables: Any,
    *,
    lightweight_device: jax.Device,
    specialist_device: jax.Device,
    depth: int = 2,
  ):
    """Puts each stage's variables onto its device.

    Args:
      model: of two stages.
      variables: of the model.
      lightweight_device, specialist_device: where the stages run.
      depth: frames that may be under way; a caller that is slow holds the stream up.
    """
    self._devices, self._depth = (lightweight_device, specialist_device), depth
    preview = functools.partial(model.apply, method='preview')
    specialize = functools.partial(model.apply, method='specialize')
    light, special = basisnet.of_stages(variables)
    self._preview = fixed.fix(preview, light, lightweight_device)
    self._specialize = fixed.fix(specialize, special, specialist_device)

  def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Yields (first logits, final logits), `[b, classes]`, of each frame, in order.

    Calls return before their work is done, so the preview of a frame runs while the specialist
    still has the frames before it.

    Args:
      frames: batches of images in [-1, 1], `[b, h, w, 3]`.
    """
    light, special = self._devices
    under_way = collections.deque()
    for frame in frames:
      first, coefficients = self._preview(jax.device_put(frame, light))
      handed = jax.device_put((frame, coefficients, first), special)
      under_way.append((first, self._specialize(*handed)))
      if len(under_way) > self._depth:
        yield jax.block_until_ready(under_way.popleft())
    while under_way:
      yield jax.block_until_ready(under_way.popleft())
