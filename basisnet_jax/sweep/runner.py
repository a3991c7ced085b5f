"""Runs a sweep: one child process after another, so that each has the machine to itself.

Several sweeps of one workdir, such as one per GPU or per share of the cores, divide the work: each
takes the next run that no other has taken. This module does not import JAX: a parent that touched
an accelerator would keep it from its children.
"""

from collections.abc import Callable, Sequence
import contextlib
import shutil
import signal
import subprocess
import sys
import time

from basisnet_jax.errors import UserError
from basisnet_jax.sweep import records
from basisnet_jax.sweep.records import Run
from basisnet_jax.training import workdir_lock
from basisnet_jax.training.progress import duration

_REDRAW_SECONDS = 1.0  # On a terminal.
_PLAIN_SECONDS = 60.0  # Elsewhere.
_RECORD_SECONDS = 10.0  # How much of a run's time a killed sweep may lose.
_CLAIM = '.sweep_lock'  # In a run's folder, beside the lock that the run itself holds.


def run(
  runs: Sequence[Run],
  command: Callable[[Run], Sequence[str]],
  on_end: Callable[[], None] = lambda: None,
) -> int:
  """Runs all unfinished runs in order, and waits for those that other sweeps are running.

  A run that fails is reported, and the others go on. SIGTERM or SIGINT (Ctrl-C) sends SIGTERM to
  the child, which saves its state before it ends; a second signal kills it.

  Args:
    runs: all runs of the sweep.
    command: from a run to its command; the output goes to `log.txt` in the run's folder. Exit
      code 0 means that training is complete.
    on_end: called after each run that finishes.

  Returns:
    0 if all runs are finished, 1 if some failed, 128 + n after signal n.
  """
  stopped: list[int] = []
  failed = []
  child = None

  def stop(number, _):
    stopped.append(number)
    if child is not None:
      child.send_signal(signal.SIGTERM if len(stopped) == 1 else signal.SIGKILL)

  line = _Line(runs)
  before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    for one in _claimed(runs, line, stopped):
      began, spent = time.monotonic(), records.seconds(one)
      _wait_until_free(one, line, stopped)
      if stopped:
        break
      with (one.folder / 'log.txt').open('ab') as log:
        # In a session of its own, so that it gets a Ctrl-C only once, from here.
        child = subprocess.Popen(
          command(one), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
      if stopped:  # Between the check above and the start.
        child.terminate()
      code = _wait(child, one, line, began - spent)
      child = None
      records.write(one, time.monotonic() - began + spent, finished=code == 0)
      if stopped:
        break
      if records.is_finished(one):
        line.write(f'{one.name}: finished')
        on_end()
      else:
        failed.append(one)
        line.write(
          f'{one.name}: FAILED with code {128 - code if code < 0 else code}: '
          f'{records.last_line(one)} ({one.folder / "log.txt"})'
        )
  finally:
    line.end()
    for number, handler in before.items():
      signal.signal(number, handler)
  if stopped:
    return 128 + stopped[0]
  return 1 if failed else 0


def _claimed(runs, line, stopped):
  """Yields the unfinished runs, each locked against other sweeps meanwhile."""
  left, said = list(runs), False
  while left and not stopped:
    of_others = []
    for one in left:
      if records.is_finished(one):
        continue
      try:
        with workdir_lock.exclusive(str(one.folder), _CLAIM):
          if not records.is_finished(one):  # It may have finished since the check above.
            yield one
      except UserError:
        of_others.append(one)
      if stopped:
        return
    if left == of_others:
      if not said:
        names = '; '.join(one.name for one in left)
        line.write(f'waiting for another sweep of this workdir, which is at {names}')
      said = True
      time.sleep(_REDRAW_SECONDS)
    left = of_others


def _wait(child, one, line, began):
  """Waits for the child, shows its progress and records its time; returns its exit code."""
  recorded = time.monotonic()
  while True:
    now = time.monotonic()
    line.show(one, now - began)
    if now - recorded > _RECORD_SECONDS:
      records.write(one, now - began, finished=False)
      recorded = now
    with contextlib.suppress(subprocess.TimeoutExpired):
      return child.wait(_REDRAW_SECONDS)


def _wait_until_free(one, line, stopped):
  """Waits for a child that outlived its sweep, as when only the sweep was killed."""
  said = False
  while not stopped:
    try:
      with workdir_lock.exclusive(str(one.folder)):
        return
    except UserError as error:
      if not said:
        line.write(f'{one.name}: waiting. {error}')
      said = True
      time.sleep(_REDRAW_SECONDS)


class _Line:
  """The line on stderr: number of runs, time left, and progress of the current run."""

  def __init__(self, runs):
    self._runs = runs
    self._shown_at = -float('inf')
    self._terminal = sys.stderr.isatty()
    self._drawn = False

  def show(self, one: Run, elapsed: float) -> None:
    """Draws the line if it is due; the run has taken `elapsed` seconds so far."""
    now = time.monotonic()
    if now - self._shown_at < (_REDRAW_SECONDS if self._terminal else _PLAIN_SECONDS):
      return
    self._shown_at = now
    finished = sum(map(records.is_finished, self._runs))
    left = records.seconds_left(self._runs, one, elapsed)
    parts = [f'sweep {finished}/{len(self._runs)} runs']
    parts += [] if left is None else [f'about {duration(left)} left']
    text = f'{", ".join(parts)}; {one.name}: {records.last_line(one)}'
    if not self._terminal:
      print(text, file=sys.stderr, flush=True)
      return
    width = shutil.get_terminal_size().columns - 1
    print(f'\r\x1b[K{text[:width]}', end='', file=sys.stderr, flush=True)
    self._drawn = True

  def write(self, text: str) -> None:
    """Prints a permanent line above the live one, which is redrawn at the next `show`."""
    self.end()
    print(text, file=sys.stderr, flush=True)
    self._shown_at = -float('inf')

  def end(self) -> None:
    """Removes the live line."""
    if self._drawn:
      print('\r\x1b[K', end='', file=sys.stderr, flush=True)
    self._drawn = False
