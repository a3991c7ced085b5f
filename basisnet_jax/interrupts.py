"""Ctrl-C while the main thread is in XLA, where Python notices signals a minute later."""

import os
import signal
import sys
import threading

_PATIENCE = 2.0  # Seconds until a Ctrl-C is answered.


def watch() -> None:
  """Makes a Ctrl-C that does not end the process soon print a message, and a second one end it.

  The second ends it at once, with code 1, as if it were killed: docs/reliability.md tells what that
  may lose. To be called once, in the main thread.
  """
  read, write = os.pipe()
  os.set_blocking(write, False)  # As Python requires.
  signal.set_wakeup_fd(write)
  threading.Thread(target=_wait, args=(read,), daemon=True).start()


def _wait(signals):
  first = True
  while number := os.read(signals, 1):
    if number[0] != signal.SIGINT:
      continue
    if not first:
      os._exit(1)
    first = False
    later = threading.Timer(_PATIENCE, _tell)
    later.daemon = True
    later.start()


def _tell():
  sentence = (
    'Interrupted: it ends when what it is at is done, such as compiling; or press Ctrl-C again.'
  )
  print(f'\n{sentence}', file=sys.stderr, flush=True)
