"""Saving and restoring the training state: the only file that knows Orbax.

`<workdir>/checkpoints/<step>` holds the latest few, `<workdir>/best/<step>` the best one by
the evaluation's top-1. Saves are asynchronous and atomic: a killed save leaves a temporary
folder, which is never chosen.
"""

import contextlib
import logging
import os
from typing import Any

import jax
from orbax import checkpoint as ocp

from basisnet_jax.errors import UserError

FORMAT_VERSION = 1


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

    An error of the save before this one is raised here.
    """
    self._manager.check_for_errors()
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    about = {'format_version': FORMAT_VERSION, 'metrics': metrics or {}}
    self._manager.save(
      step,
      args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
    )

  def wait(self) -> None:
    """Waits until everything is on disk, and raises what went wrong there."""
    self._manager.wait_until_finished()
    self._manager.check_for_errors()

  def metrics(self) -> dict[str, float]:
    """What was saved with the newest checkpoint; {} if there is none."""
    step = self.latest_step
    if step is None:
      return {}
    with contextlib.suppress(Exception):  # A damaged one counts as none.
      restored = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))
      return restored['about']['metrics']
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
        restored = self._manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(like), about=ocp.args.JsonRestore()
          ),
        )
      except Exception as error:  # Orbax raises many kinds for a damaged file.
        damaged.append((step, str(error).strip().split('\n')[0][:200]))
        continue
      version = restored['about']['format_version']
      if version > FORMAT_VERSION:
        raise UserError(
          f'The checkpoint {self._folder}/{step} has format {version}, and this version of '
          f'basisnet_jax reads up to {FORMAT_VERSION}; install a newer one.'
        )
      self._set_aside(damaged, warn)
      return restored['state']
    if damaged:
      step, reason = damaged[0]
      raise UserError(
        f'None of the {len(damaged)} checkpoints in {self._folder} can be read (step {step}: '
        f'{reason}); bring back a copy of one, or start anew with another --workdir.'
      )
    return None

  def _set_aside(self, damaged, warn):
    for step, reason in damaged:
      path = os.path.join(self._folder, str(step))
      warn(f'The checkpoint {path} is damaged ({reason}); using an older one, keeping it as {step}.damaged.')
      if jax.process_index() == 0:
        os.rename(path, f'{path}.damaged')
    if damaged:
      self._manager.close()
      self._manager = self._open()

  def _open(self):
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True),
      item_names=('state', 'about'),
    )
