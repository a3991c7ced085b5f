"""Curves, histograms, pictures, configuration and hyper-parameters for TensorBoard.

The only file that knows CLU's writers (a test enforces it). It writes only TensorBoard event
files: CLU's default writer also logs each value to stderr, across the progress line.
"""

from collections.abc import Iterator, Mapping
import contextlib
from typing import Any

import numpy as np

from basisnet_jax import config as config_lib
from basisnet_jax.errors import UserError


class Telemetry:
  """Writes event files from a background thread; a context manager.

  Values are fetched and checked on the calling thread, so that a bad one is reported where it was
  passed, and so that the arrays may be donated afterwards. A failing disk shows as a UserError at
  the next call.
  """

  def __init__(self, workdir: str, *, enabled: bool):
    """Opens a new event file.

    Args:
      workdir: where the event files go, local or gs://.
      enabled: False makes every method do nothing and TensorFlow stay unloaded;
        pass `jax.process_index() == 0`.
    """
    self._workdir, self._writer = workdir, None
    if enabled:
      with self._failing():
        self._writer = _open(workdir)

  def scalars(self, step: int, values: Mapping[str, Any]) -> None:
    """Writes numbers by name (`train/loss`), including NaN and infinity.

    Raises:
      ValueError: a value is not one real number.
    """
    if self._writer:
      numbers = {k: _number(k, v) for k, v in values.items()}
      with self._failing():
        self._writer.write_scalars(int(step), numbers)

  def histograms(self, step: int, arrays: Mapping[str, Any]) -> None:
    """Writes distributions of real arrays of any shape.

    Entries that are not finite have no bucket and are left out, as is an array without any finite
    entry.
    """
    if self._writer:
      finite = {}
      for name, array in arrays.items():
        array = np.asarray(array).astype(np.float32)  # TensorBoard knows no bfloat16.
        array = array[np.isfinite(array)]
        if array.size:
          finite[name] = array
      with self._failing():
        self._writer.write_histograms(int(step), finite)

  def images(self, step: int, pictures: Mapping[str, Any]) -> None:
    """Writes pictures, uint8 `[height, width, 3]`."""
    if self._writer:
      with self._failing():
        self._writer.write_images(int(step), {k: np.asarray(v)[None] for k, v in pictures.items()})

  def text(self, step: int, texts: Mapping[str, str]) -> None:
    """Writes texts verbatim: each becomes a Markdown code block."""
    if self._writer:
      # By indentation, not fences, so that nothing in the text can end the block.
      blocks = {k: '\n'.join('    ' + line for line in v.splitlines()) for k, v in texts.items()}
      with self._failing():
        self._writer.write_texts(int(step), blocks)

  def hparams(self, config: Mapping[str, Any]) -> None:
    """Writes a (nested) mapping as hyper-parameters, with names like `model.num_bases`.

    Numbers, booleans and strings keep their types; everything else becomes text.
    """
    if self._writer:
      flat = config_lib.flatten(config)
      kept = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flat.items()}
      with self._failing():
        self._writer.write_hparams(kept)

  def flush(self) -> None:
    """Waits until everything written so far is in the file."""
    if self._writer:
      with self._failing():
        self._writer.flush()

  def close(self) -> None:
    """Flushes and closes the file; later calls do nothing."""
    if self._writer:
      writer, self._writer = self._writer, None
      with self._failing():
        writer.close()

  def __enter__(self) -> 'Telemetry':
    return self

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.close()
    except UserError:
      if error is None:
        raise

  @contextlib.contextmanager
  def _failing(self) -> Iterator[None]:
    from clu import asynclib
    import tensorflow as tf

    try:
      yield
    except (asynclib.AsyncError, tf.errors.OpError, OSError) as error:
      raise UserError(
        f'The curves for TensorBoard could not be written in {self._workdir} '
        f'({_reason(error.__cause__ or error)}); mend that, and the same command continues from '
        'the last checkpoint.'
      ) from error


def _open(workdir):
  # Imported here, as both load TensorFlow, which takes seconds, and only one process writes.
  import tensorflow as tf

  for kind in ('GPU', 'TPU'):  # These belong to JAX.
    tf.config.set_visible_devices([], kind)
  from clu.metric_writers import AsyncWriter, SummaryWriter

  return AsyncWriter(SummaryWriter(str(workdir)))


def _reason(error):
  # TensorFlow's message: '{{the operation}} file; reason', then lines of consequences.
  return str(error).split('\n')[0].split('}} ')[-1].split('; ')[-1][:300]


def _number(name, value):
  array = np.asarray(value)
  try:
    if array.size == 1:
      return float(array.reshape(()))
  except (TypeError, ValueError):
    pass
  raise ValueError(f'The metric {name!r} must be one real number, but it is {value!r}.')
