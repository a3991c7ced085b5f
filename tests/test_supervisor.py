"""Signals to the process that starts the program again, at moments without a child at hand."""

import contextlib
import signal
import subprocess
import sys
import time

SUPERVISED = """
import os, signal, subprocess, sys, time
from basisnet_jax import supervisor
if supervisor.is_needed(9):
  {before}
  sys.exit(supervisor.supervise(9))
{work}
"""
# A signal that comes before `Popen` has returned.
WHILE_STARTING = """
  start = subprocess.Popen
  def slow(*args, **options):
    child = start(*args, **options)
    os.kill(os.getpid(), signal.SIGTERM)
    return child
  subprocess.Popen = slow
"""


@contextlib.contextmanager
def started(work, before='pass'):
  program = SUPERVISED.format(before=before.strip(), work=work)
  with subprocess.Popen(
    [sys.executable, '-c', program], stderr=subprocess.PIPE, text=True
  ) as process:
    try:
      yield process
    finally:
      process.kill()


def test_signal_between_two_starts_ends_it_at_once():
  with started('sys.exit(3)') as process:
    for line in process.stderr:
      if 'in 4 s' in line:
        break
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 3
    assert time.monotonic() - began < 2


def test_signal_while_a_child_starts_reaches_the_child():
  with started('time.sleep(60)', before=WHILE_STARTING) as process:
    assert process.wait(30) == 128 + signal.SIGTERM
