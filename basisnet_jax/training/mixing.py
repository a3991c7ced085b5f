"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), on the device.

An image mixes with its neighbour: 0 with 1, 2 with 3, ... Each pair lies on one device, so that no
image moves between devices, and the pairs are the same on any number of devices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from basisnet_jax.training.objective import Batch

_QUANTILES = 4097


def make_mixer(
  num_classes: int,
  *,
  mixup: float,
  cutmix: float,
  cutmix_share: float,
) -> Callable[[Batch, jax.Array], Batch]:
  """Returns `mix(batch, key) -> batch`; `b` must be even on each device.

  In the mixed batch, 'image' is float32 `[b, h, w, 3]`, still in pixel values from 0 to 255;
  'target' is new, each class's share of an image, float32 `[b, num_classes]`; 'label' is the class
  with the larger share; and 'mask' is unchanged. An image that does not count (mask 0) is not
  mixed.

  Args:
    num_classes: of the targets.
    mixup: alpha; images are blended in a ratio drawn from Beta(alpha, alpha). 0: no mixup.
    cutmix: alpha; a box of the neighbour is pasted over the image. Before the border clips it, it
      covers a share of the image drawn from Beta(alpha, alpha). 0: no CutMix.
    cutmix_share: share of images that get CutMix if both are on; the others get mixup.
  """

  def mix(batch, key):
    images = batch['image'].astype(jnp.float32)
    labels, mask = batch['label'], batch['mask']
    choice_key, mixup_key, cutmix_key = jax.random.split(key, 3)

    kept = 1.0  # The image's own share of each pixel, broadcastable to [b, h, w].
    if mixup:
      kept = _beta(mixup_key, mixup, labels.shape)[:, None, None]
    if cutmix:
      ratio_key, centre_key = jax.random.split(cutmix_key)
      boxed = _outside_box(centre_key, _beta(ratio_key, cutmix, labels.shape), *images.shape[1:3])
      share = cutmix_share if mixup else 1.0
      chosen = jax.random.uniform(choice_key, labels.shape) < share
      kept = jnp.where(chosen[:, None, None], boxed, kept)
    both_count = mask * neighbours(mask) > 0
    kept = jnp.where(both_count[:, None, None], kept, 1.0)

    mixed = kept[..., None] * images + (1 - kept[..., None]) * neighbours(images)
    own = kept.mean((1, 2))
    one_hot = jax.nn.one_hot(labels, num_classes)
    return batch | {
      'image': mixed,
      'target': own[:, None] * one_hot + (1 - own[:, None]) * neighbours(one_hot),
      'label': jnp.where(own >= 0.5, labels, neighbours(labels)),
    }

  return mix


def neighbours(x):
  """Swaps rows 0 and 1, 2 and 3, ... of an array `[b, ...]`."""
  return x.reshape(-1, 2, *x.shape[1:])[:, ::-1].reshape(x.shape)


def _beta(key, alpha, shape):
  """Draws from Beta(alpha, alpha) by interpolating its quantiles linearly.

  `jax.random.beta` uses rejection sampling, in which a GPU waits for its host at each draw.
  """
  quantiles = jnp.asarray(
    special.betaincinv(alpha, alpha, np.linspace(0, 1, _QUANTILES)), 'float32'
  )
  place = jax.random.uniform(key, shape, maxval=_QUANTILES - 1)
  below = jnp.minimum(place.astype(jnp.int32), _QUANTILES - 2)
  low, high = quantiles[below], quantiles[below + 1]
  return low + (place - below) * (high - low)


def _outside_box(key, ratio, height, width):
  """Masks a box: float32 `[b, h, w]`, 0 inside and 1 outside; `ratio` `[b]` is the share to keep.

  As in the paper's code, the sides are sqrt(1 - ratio) of the image's, an even number of pixels,
  about a centre that may be anywhere.
  """

  def outside(key, size):
    half = jnp.floor(size * jnp.sqrt(1 - ratio)).astype(jnp.int32) // 2
    centre = jax.random.randint(key, ratio.shape, 0, size)
    distance = jnp.arange(size) - centre[:, None]
    return (distance < -half[:, None]) | (distance >= half[:, None])

  row_key, column_key = jax.random.split(key)
  rows, columns = outside(row_key, height), outside(column_key, width)
  return (rows[:, :, None] | columns[:, None, :]).astype(jnp.float32)
