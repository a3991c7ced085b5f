"""Ctrl-C while the main thread is where Python cannot notice it."""

import signal
import subprocess
import sys

# Like XLA's compiler it leaves the other threads alone, and comes back after minutes.
BUSY = """
import hashlib
from basisnet_jax import interrupts
interrupts.watch()
print('busy', flush=True)
hashlib.pbkdf2_hmac('sha256', b'', b'', 1_000_000_000)
"""


def test_it_is_told_of_and_a_second_one_ends_the_process():
  child = subprocess.Popen(
    [sys.executable, '-c', BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  try:
    assert child.stdout.readline() == 'busy\n'
    child.send_signal(signal.SIGINT)
    assert child.stderr.readline() == '\n'
    assert 'press Ctrl-C again' in child.stderr.readline()
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 1
  finally:
    child.kill()
    child.communicate()


def test_it_ends_the_process_by_itself_where_python_notices_it():
  idle = BUSY[: BUSY.index('hashlib.pbkdf2')] + 'import time; time.sleep(600)'
  child = subprocess.Popen(
    [sys.executable, '-c', idle], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  )
  assert child.stdout.readline() == 'busy\n'
  child.send_signal(signal.SIGINT)
  _, said = child.communicate(timeout=10)
  assert child.returncode == -signal.SIGINT
  assert said.rstrip().endswith('KeyboardInterrupt') and 'again' not in said
