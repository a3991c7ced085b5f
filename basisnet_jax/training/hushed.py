"""Hushes Orbax and CLU, which print dozens of tracebacks for one error that they also raise."""

from collections.abc import Iterator
import contextlib
import gc
import logging
import sys
import time
import traceback
import warnings

_THEIRS = ('/orbax/', '/asyncio/', '/tensorstore/', '/clu/')


@contextlib.contextmanager
def libraries() -> Iterator[None]:
  """Silences what these libraries and asyncio print about failures, in any thread.

  Callers still get exceptions, and other code still prints.
  """

  def worth_saying(record):  # New for each call: a logger adds the same filter only once.
    theirs = any(part in record.pathname for part in _THEIRS)
    return not (theirs and record.levelno >= logging.ERROR)

  loggers = [logging.getLogger(name) for name in ('absl', 'asyncio')]
  unraisable, uncaught = sys.unraisablehook, sys.excepthook
  sys.unraisablehook = lambda args: None if _is_theirs(args.exc_traceback) else unraisable(args)
  # TensorStore's threads call this one.
  sys.excepthook = lambda *args: None if _is_theirs(args[2]) else uncaught(*args)
  for logger in loggers:
    logger.addFilter(worth_saying)
  try:
    yield
  finally:
    for logger in loggers:
      logger.removeFilter(worth_saying)
    sys.unraisablehook, sys.excepthook = unraisable, uncaught


def collect(error: BaseException | None) -> None:
  """Clears what a failure left behind: reads and writes in flight, tasks that nobody awaits.

  They would print errors when the program ends. `error` keeps its text but loses its frames'
  variables.
  """
  # Some stay alive until the program ends, which has no coroutines of its own.
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
  with libraries():
    time.sleep(0.2)  # Lets reads and writes in flight finish.
    while error is not None:
      traceback.clear_frames(error.__traceback__)
      error = error.__cause__ or error.__context__
    gc.collect()


def _is_theirs(trace) -> bool:
  files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
  return any(part in file for file in files for part in _THEIRS)
