"""Says what a stalled run is waiting for, and ends it if it stalls for too long."""

import os
import sys
import threading
import time

# Seconds of silence until the first notice; each further one comes after twice the silence.
NOTICE = 60.0
_CHECK = 0.5
EXIT_CODE = 3  # As for a lost process: `--restarts` restarts from the last checkpoint.


class Watchdog:
  """A context manager whose thread watches that `beat` is called.

  It is for waits that would last forever without an error: on a process that is stopped but alive,
  a file system that does not answer, an accelerator that hangs.
  """

  def __init__(self, timeout: float, notice: float = NOTICE):
    """Silence for `timeout` seconds ends the process with `EXIT_CODE`."""
    self._timeout, self._notice = timeout, notice
    self._stopped = threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self.beat('the start')

  def __enter__(self) -> 'Watchdog':
    self._thread.start()
    return self

  def __exit__(self, *exception) -> None:
    self._stopped.set()
    self._thread.join()

  def beat(self, waiting_for: str) -> None:
    """Notes that the run is alive and what it waits for next ('the images of step 12')."""
    self._last = time.monotonic(), waiting_for

  def _watch(self):
    told, next_notice = None, self._notice
    while not self._stopped.wait(_CHECK):
      last = self._last
      since, waiting_for = last
      if last is not told:
        told, next_notice = last, self._notice
      silence = time.monotonic() - since
      if silence > self._timeout:
        _say(
          f'Nothing moved for {silence:.0f} s (config.training.stall_timeout), waiting for '
          f'{waiting_for}; the same command continues from the last checkpoint.'
        )
        os._exit(EXIT_CODE)  # An orderly end would wait for the same thing.
      if silence > next_notice:
        _say(f'Waiting for {waiting_for} since {silence:.0f} s.')
        next_notice *= 2


def _say(sentence):
  print(sentence, file=sys.stderr, flush=True)
