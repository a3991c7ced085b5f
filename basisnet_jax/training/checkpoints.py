"""Saving and restoring the training state: the only file that knows Orbax.

`<workdir>/checkpoints/<step>` holds the latest few, `<workdir>/best/<step>` the best one by
the evaluation's top-1. Saves are asynchronous and atomic: a killed save leaves a temporary
folder, which is never chosen.
"""

import contextlib
import gc
import logging
import os
import sys
import time
from typing import Any
import warnings

from etils import epath
import jax
from jax.experimental import multihost_utils
from orbax import checkpoint as ocp

from basisnet_jax.errors import UserError

FORMAT_VERSION = 1


class _DamagedError(Exception):
  """A checkpoint cannot be read; why, in a line."""


@contextlib.contextmanager
def _quiet_if_it_fails():
  # A failed read leaves reads in flight and tasks for the garbage collector. Both would cry out
  # later, traceback by traceback, over a closed event loop; nobody misses them.
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  asyncio_log = logging.getLogger('asyncio')
  disabled, asyncio_log.disabled = asyncio_log.disabled, True
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore', RuntimeWarning)  # coroutine ... was never awaited
      try:
        yield
      except _DamagedError:
        time.sleep(0.2)  # For the reads in flight.
        gc.collect()
        raise
  finally:
    sys.unraisablehook, asyncio_log.disabled = hook, disabled


class Checkpoints:
  """The checkpoints of one folder; a context manager that waits for the last save."""

  def __init__(self, folder: str, *, keep: int):
    """Opens `folder` (made if missing), of which the latest `keep` checkpoints stay."""
    self._folder = os.path.abspath(folder) if '://' not in folder else folder
    self._keep = keep
    self._manager = self._open()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, *exception) -> None:
    self._manager.wait_until_finished()
    self._manager.close()

  @property
  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, damaged or not; None if there is none."""
    return self._manager.latest_step()

  def save(self, state: Any, *, metrics: dict[str, float] | None = None) -> None:
    """Starts saving `state` under its step; does nothing if that step is saved already.

    Raises:
      UserError: this or the save before it failed: a full disk, a folder that is gone.
    """
    step = int(state.step)
    about = {'format_version': FORMAT_VERSION, 'metrics': metrics or {}}
    with self._failing():
      self._manager.check_for_errors()
      if step in self._manager.all_steps():
        return
      self._manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
      )

  def wait(self) -> None:
    """Waits until everything is on disk.

    Raises:
      UserError: it could not be written.
    """
    with self._failing():
      self._manager.wait_until_finished()
      self._manager.check_for_errors()

  @contextlib.contextmanager
  def _failing(self):
    try:
      yield
    except (OSError, ValueError) as error:  # TensorStore's errors are ValueErrors.
      reason = str(error).strip().split('\n')[0][:300]
      raise UserError(
        f'A checkpoint could not be saved in {self._folder} ({reason}); mend that, and the same '
        'command continues from the last one.'
      ) from error

  def metrics(self) -> dict[str, float]:
    """What was saved with the newest checkpoint; {} if there is none."""
    step = self.latest_step
    if step is None:
      return {}
    with contextlib.suppress(_DamagedError):  # It counts as none.
      return self._read(step, about=ocp.args.JsonRestore())['metrics']
    return {}

  def restore(self, like: Any, warn=logging.warning) -> Any | None:
    """Restores the newest readable checkpoint.

    Args:
      like: state of `jax.ShapeDtypeStruct` with shardings: where the arrays shall go.
      warn: called with a sentence for each damaged checkpoint that is passed over. It is
        renamed to `<step>.damaged`, so that nothing is lost and its step can be saved anew.

    Returns:
      The state, or None if there is no checkpoint.

    Raises:
      UserError: there are checkpoints and none can be read.
    """
    damaged = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        # What it is comes first: a newer format may hold other arrays.
        self._check_version(step, self._read(step, about=ocp.args.JsonRestore()))
        state = self._read(step, state=ocp.args.StandardRestore(like))
      except _DamagedError as error:
        damaged.append((step, str(error)))
        continue
      if damaged:
        self._set_aside(damaged, warn)
      return state
    if damaged:
      step, reason = damaged[0]
      raise UserError(
        f'None of the {len(damaged)} checkpoints in {self._folder} can be read (step {step}: '
        f'{reason}); if they were trained with another recipe, give that one; else bring back a '
        'copy of one, or start anew with another --workdir.'
      )
    return None

  def _read(self, step, **item):
    (name,) = item
    with _quiet_if_it_fails():
      try:
        return self._manager.restore(step, args=ocp.args.Composite(**item))[name]
      except Exception as error:  # Orbax raises many kinds for a damaged file.
        reason = str(error).strip().split('\n')[0][:200]
      raise _DamagedError(reason)  # Without the cause, whose frames hold what is to be collected.

  def _check_version(self, step, about):
    if about['format_version'] > FORMAT_VERSION:
      raise UserError(
        f'The checkpoint {self._folder}/{step} has format {about["format_version"]}, and this '
        f'version of basisnet_jax reads up to {FORMAT_VERSION}; install a newer one.'
      )

  def _set_aside(self, damaged, warn):
    if jax.process_index() == 0:
      for step, reason in damaged:
        path = epath.Path(self._folder) / str(step)
        aside = path.with_name(f'{step}.damaged')
        while aside.exists():  # The same step can be damaged again.
          aside = aside.with_name(f'{aside.name}-again')
        warn(
          f'The checkpoint {path} is damaged ({reason}); using an older one, keeping it as '
          f'{aside.name}.'
        )
        path.rename(aside)
    multihost_utils.sync_global_devices('damaged checkpoints are set aside')
    self._manager.close()
    self._manager = self._open()

  def _open(self):
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True),
      item_names=('state', 'about'),
    )
