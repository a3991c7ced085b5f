"""Curves, histograms, configuration and hyper-parameters for TensorBoard.

The only file that knows CLU's writers (a test keeps it so). It writes TensorBoard
event files alone: CLU's default writer also logs each value to stderr, across the
progress line.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np


class Telemetry:
  """Writes event files from a background thread; a context manager.

  Values are fetched and checked on the calling thread, so that a bad one is
  reported where it was passed, and so that donated arrays may be donated. A failing
  disk shows at the next call.
  """

  def __init__(self, workdir: str, *, enabled: bool):
    """Opens a new event file.

    Args:
      workdir: where the event files go, local or gs://.
      enabled: False makes every method do nothing and TensorFlow stay unloaded;
        pass `jax.process_index() == 0`.
    """
    self._writer = _open(workdir) if enabled else None

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes numbers by name (`train/loss`); NaN and infinity stay visible as such.

    Raises:
      ValueError: a value is not one real number.
    """
    if self._writer:
      self._writer.write_scalars(int(step), {k: _number(k, v) for k, v in values.items()})

  def histograms(self, step: int, arrays: Mapping[str, Any]) -> None:
    """Writes distributions of real arrays of any shape.

    Entries that are not finite have no bucket: they are left out, and an array
    without a finite entry is left out whole.
    """
    if self._writer:
      finite = {}
      for name, array in arrays.items():
        array = np.asarray(array).astype(np.float32)  # TensorBoard knows no bfloat16.
        array = array[np.isfinite(array)]
        if array.size:
          finite[name] = array
      self._writer.write_histograms(int(step), finite)

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    """Writes texts, shown as they are: each becomes a Markdown code block."""
    if self._writer:
      # By indentation, not fences: then nothing within the text can end the block.
      blocks = {k: '\n'.join('    ' + line for line in v.splitlines()) for k, v in texts.items()}
      self._writer.write_texts(int(step), blocks)

  def hparams(self, config: Mapping[str, Any]) -> None:
    """Writes a (nested) mapping as hyper-parameters, named as in `model.num_bases`.

    Numbers, booleans and strings stay what they are; all else becomes text.
    """
    if self._writer:
      self._writer.write_hparams(_flat(config))

  def flush(self) -> None:
    """Waits until everything so far is in the file."""
    if self._writer:
      self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the file; later calls do nothing."""
    if self._writer:
      writer, self._writer = self._writer, None
      writer.close()

  def __enter__(self) -> 'Telemetry':
    return self

  def __exit__(self, *exception) -> None:
    self.close()


def _open(workdir):
  # Imported here: both load TensorFlow, which takes seconds, and only one process writes.
  import tensorflow as tf

  for kind in ('GPU', 'TPU'):  # They belong to JAX.
    tf.config.set_visible_devices([], kind)
  from clu.metric_writers import AsyncWriter, SummaryWriter

  return AsyncWriter(SummaryWriter(str(workdir)))


def _number(name, value):
  array = np.asarray(value)
  try:
    if array.size == 1:
      return float(array.reshape(()))
  except (TypeError, ValueError):
    pass
  raise ValueError(f'The metric {name!r} must be one real number, but it is {value!r}.')


def _flat(config, prefix=''):
  flat = {}
  for key, value in config.items():
    if isinstance(value, Mapping) or hasattr(value, 'items'):  # A ConfigDict is no Mapping.
      flat.update(_flat(value, f'{prefix}{key}.'))
    else:
      flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
  return flat
