"""Saves and restores the training state; the only file that knows Orbax.

`<workdir>/checkpoints/<step>` holds the latest few checkpoints, `<workdir>/best/<step>` the one
with the best top-1 in evaluation. Saves are asynchronous and atomic: a killed save leaves a
temporary folder, which is never restored.
"""

import contextlib
import logging
import numbers
import os
from typing import Any

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
from orbax import checkpoint as ocp

from basisnet_jax.errors import UserError
from basisnet_jax.training import checksums, hushed

FORMAT_VERSION = 1


class _DamagedError(Exception):
  """A checkpoint cannot be read; the message says why in one line."""


class UnreadableError(UserError):
  """There are checkpoints and none can be read.

  Attributes:
    others: {path: (shape in the newest checkpoint, wanted shape)} for arrays whose shapes differ.
  """

  def __init__(self, sentence: str, others: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]):
    super().__init__(sentence)
    self.others = others


class Checkpoints:
  """The checkpoints in one folder; a context manager that waits for the last save."""

  def __init__(self, folder: str, *, keep: int):
    """Opens `folder` (created if missing) and keeps its latest `keep` checkpoints.

    Raises:
      UserError: the folder can be neither read nor created.
    """
    self._folder = os.path.abspath(folder) if '://' not in folder else folder
    self._keep = keep
    self._manager = self._open()
    self._stack = contextlib.ExitStack()

  def __enter__(self) -> 'Checkpoints':
    self._stack.enter_context(hushed.libraries())
    return self

  def __exit__(self, kind, error, traceback) -> None:
    with self._stack:
      try:
        self.wait()
      except UserError:
        if error is None:
          raise
      finally:
        with contextlib.suppress(OSError, ValueError):  # The same error again.
          self._manager.close()
        self._manager = None
        if error is not None:
          hushed.collect(error)

  @property
  def latest_step(self) -> int | None:
    """The step of the newest checkpoint, damaged or not; None if there is none."""
    return self._manager.latest_step()

  def save(self, state: Any, *, metrics: dict[str, float] | None = None) -> None:
    """Starts saving `state` under its step; does nothing if that step is already saved.

    Raises:
      UserError: this save or the one before failed, as when the disk is full or the folder is gone.
    """
    step = int(state.step)
    with self._failing():
      self._manager.check_for_errors()
      if step in self._manager.all_steps():
        return
      about = {
        'format_version': FORMAT_VERSION,
        'metrics': metrics or {},
        'checksums': checksums.of_tree(state),
      }
      about['checksum'] = checksums.of_json(about)  # Future formats must keep this key.
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
      reason = _short(str(error).strip().split('\n')[0])
      hushed.collect(error)
      raise UserError(
        f'A checkpoint could not be saved in {self._folder} ({reason}); mend that, and the same '
        'command continues from the last one.'
      ) from error

  def metrics(self) -> dict[str, float]:
    """The metrics saved with the newest checkpoint; {} if there is none."""
    step = self.latest_step
    if step is None:
      return {}
    with contextlib.suppress(_DamagedError):  # Counts as no checkpoint.
      return self._about(step)['metrics']
    return {}

  def restore(self, like: Any, warn=logging.warning) -> Any | None:
    """Restores the newest readable checkpoint.

    Args:
      like: a state of `jax.ShapeDtypeStruct`s, whose shardings say where the arrays go.
      warn: called with a sentence for each damaged checkpoint that is skipped. The checkpoint is
        renamed to `<step>.damaged`, so that nothing is lost and its step can be saved again.

    Returns:
      The state, or None if there is no checkpoint.

    Raises:
      UnreadableError: there are checkpoints and none can be read.
    """
    damaged = []
    for step in sorted(self._manager.all_steps(), reverse=True):
      try:
        about = self._about(step)  # First, since a newer format may hold other arrays.
        state = self._read(step, state=ocp.args.StandardRestore(like))
        _check_sums(state, about['checksums'])
      except _DamagedError as error:
        damaged.append((step, str(error)))
        continue
      if damaged:
        self._set_aside(damaged, warn)
      return state
    if damaged:
      step, reason = damaged[0]
      others = self._other_shapes(step, like)
      if others:
        path, (saved, wanted) = next(iter(others.items()))
        reason = f'{path} is of the shape {list(saved)}, and by this recipe {list(wanted)}'
      raise UnreadableError(
        f'None of the {len(damaged)} checkpoints in {self._folder} can be read (step {step}: '
        f'{reason}); if they were trained with another recipe, give that one; else bring back a '
        'copy of one, or start anew with another --workdir.',
        others,
      )
    return None

  def _other_shapes(self, step, like):
    path = epath.Path(self._folder) / str(step) / 'state'
    try:
      with hushed.libraries():
        found = _shapes(ocp.StandardCheckpointHandler().metadata(path).tree)
    except Exception as error:  # As in `_read`.
      hushed.collect(error)
      return {}
    wanted = _shapes(like)
    return {p: (found[p], wanted[p]) for p in wanted if found.get(p, wanted[p]) != wanted[p]}

  def _about(self, step):
    """Reads what was saved with the state and checks its types."""
    about = self._read(step, about=ocp.args.JsonRestore())
    version = about.get('format_version') if isinstance(about, dict) else None
    if type(version) is not int:
      raise _DamagedError('it does not say its format')
    checksum = about.pop('checksum', None)  # Older ones have none.
    if checksum not in (None, checksums.of_json(about)):
      raise _DamagedError('what it says of itself is not what was saved')
    if version > FORMAT_VERSION:
      if checksum is None:
        raise _DamagedError(f'it says format {version}, which would have a checksum')
      raise UserError(
        f'The checkpoint {self._folder}/{step} has format {version}, and this version of '
        f'basisnet_jax reads up to {FORMAT_VERSION}; install a newer one.'
      )
    about = {'metrics': {}, 'checksums': {}} | about
    for name in ('metrics', 'checksums'):
      entries = about[name]
      numeric = lambda value: isinstance(value, numbers.Real)  # noqa: E731
      if not (isinstance(entries, dict) and all(map(numeric, entries.values()))):
        raise _DamagedError(f'its {name} are no numbers')
    return about

  def _read(self, step, **item):
    (name,) = item
    found = failure = None
    reason = ''
    try:
      with hushed.libraries():
        found = self._manager.restore(step, args=ocp.args.Composite(**item))[name]
    except Exception as error:  # Orbax raises many kinds for a damaged file.
      reason = str(error).strip().split('\n')[0][:200] or type(error).__name__
      failure = error
    # The processes must agree on which checkpoint they use.
    failed = multihost_utils.process_allgather(np.bool_(failure is not None))
    if np.any(failed):
      hushed.collect(failure)
      raise _DamagedError(reason or f'process {np.argmax(failed)} cannot read it') from failure
    return found

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
        with self._failing():
          path.rename(aside)
    multihost_utils.sync_global_devices('damaged checkpoints are set aside')
    self._manager.close()
    self._manager = self._open()

  def _open(self):
    try:
      if epath.Path(self._folder).exists() and not epath.Path(self._folder).is_dir():
        raise NotADirectoryError('it is a file')
      return ocp.CheckpointManager(
        self._folder,
        # Lightweight initialization does not read the saves' times: one unreadable time would make
        # the whole folder unusable, and no clock should decide which checkpoint is the newest.
        options=ocp.CheckpointManagerOptions(
          max_to_keep=self._keep, create=True, lightweight_initialize=True
        ),
        item_names=('state', 'about'),
      )
    except (OSError, ValueError) as error:
      raise UserError(
        f'The folder of checkpoints {self._folder} can be neither read nor made '
        f'({_short(str(error))}); mend that, or give another --workdir.'
      ) from error


def _shapes(tree):
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  names = (jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in flat)
  return dict(zip(names, (leaf.shape for _, leaf in flat), strict=True))


def _check_sums(state, wanted):
  found = checksums.of_tree(state) if wanted else {}
  if wrong := [path for path, value in found.items() if value != wanted.get(path, value)]:
    raise _DamagedError(f'{len(wrong)} arrays are not what was saved, such as {wrong[0]}')


def _short(reason):
  # TensorStore's message leads to the cause, colon by colon, and ends with its whole specification.
  return ': '.join(reason.split(' [')[0].split(': ')[-2:])[:300]
