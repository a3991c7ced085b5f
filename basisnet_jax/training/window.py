"""The training steps since the last log."""

from collections.abc import Iterator
import contextlib
import math
import re
import time
from typing import Any

import jax


class Window:
  """Gathers the steps' metrics, their time, and the time spent waiting for data."""

  def __init__(self):
    self._merge = jax.jit(lambda a, b: a.merge(b))
    self._reset()

  def _reset(self):
    self._metrics, self._last, self._losses = None, None, {}
    self._began, self._waited = time.monotonic(), 0.0

  @contextlib.contextmanager
  def waiting_for_data(self) -> Iterator[None]:
    """Counts the time inside the context as waiting for data."""
    began = time.monotonic()
    yield
    self._waited += time.monotonic() - began

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Counts the time inside the context neither as work nor as waiting."""
    jax.block_until_ready(self._last)
    began = time.monotonic()
    yield
    self._began += time.monotonic() - began

  def add(self, step: int, metrics: Any) -> None:
    """Adds a step's metrics, and lets the host run at most one step ahead of the devices."""
    jax.block_until_ready(self._last)
    self._last = metrics
    self._metrics = metrics if self._metrics is None else self._merge(self._metrics, metrics)
    self._losses[step] = metrics.loss.total

  def nonfinite_step(self) -> int | None:
    """The first step whose loss is not finite, or None."""
    losses = jax.device_get(self._losses)
    return next((step for step, loss in losses.items() if not math.isfinite(loss)), None)

  def close(self, batch_size: int) -> dict[str, float]:
    """Returns the window's scalars, means but for the learning rate, and begins a new window."""
    computed = {key: float(v) for key, v in jax.device_get(self._metrics.compute()).items()}
    seconds, steps = time.monotonic() - self._began, len(self._losses)
    broken = computed.pop('broken_images') * steps
    finite = computed.pop('finite', None)
    del computed['learning_rate']  # Its mean; the last step's is shown.
    values = {
      'train/' + re.sub('^(network|lightweight|specialist|teacher)_', r'\1/', key): value
      for key, value in computed.items()
    }
    if finite is not None:
      # Skipped steps count as 0 in the averages.
      values = {key: value / finite if finite else math.nan for key, value in values.items()}
      values['train/skipped_steps'] = round((1 - finite) * steps)
    values['train/learning_rate'] = float(self._last.learning_rate.compute())
    values['data/broken_images'] = round(broken)
    values['perf/images_per_second'] = steps * batch_size / seconds
    values['perf/data_wait'] = self._waited / seconds
    self._reset()
    return values
