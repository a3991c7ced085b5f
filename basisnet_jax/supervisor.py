"""Restarts the program when it fails: `--restarts=N`. Does not use JAX."""

import os
import signal
import subprocess
import sys
import time

# Set for the child, which does the work.
_CHILD = 'BASISNET_SUPERVISED'
# Exit codes after which the same command would end the same way: success, the user's mistake.
_FINAL = (0, 2)
_LONGEST_WAIT = 60


def is_needed(restarts: int) -> bool:
  """Whether this process is to supervise rather than to work."""
  return restarts > 0 and _CHILD not in os.environ


def supervise(restarts: int) -> int:
  """Runs this process's own command as a child, and again up to `restarts` times if it fails.

  SIGTERM and SIGINT are passed on to the child and end both.

  Returns:
    The child's last exit code; 128 + n if signal n killed it.
  """
  stopped = []
  child = None

  def pass_on(number, _):
    stopped.append(number)
    if child is not None:
      child.send_signal(number)

  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, pass_on)
  for left in range(restarts, -1, -1):
    # In a group of its own, so that it gets a Ctrl-C only once, from here.
    child = subprocess.Popen(
      [sys.executable, *sys.orig_argv[1:]],
      env={**os.environ, _CHILD: '1'},
      start_new_session=True,
    )
    if stopped:  # While it was being started.
      child.send_signal(stopped[-1])
    code = child.wait()
    code = 128 - code if code < 0 else code
    if code in _FINAL or stopped or not left:
      break
    wait = min(_LONGEST_WAIT, 2 ** (restarts - left))
    killed = ' (killed, by the system if the memory ran out)' if code == 137 else ''
    print(
      f'Ended with code {code}{killed}; starting again from the last checkpoint in {wait} s '
      f'({left} of {restarts} restarts left).',
      file=sys.stderr,
      flush=True,
    )
    until = time.monotonic() + wait
    while time.monotonic() < until and not stopped:
      time.sleep(0.1)  # A single sleep would go on after a signal.
    if stopped:
      break
  return code
