"""Ctrl-C while the main thread is where Python cannot notice it."""

import contextlib
import signal
import subprocess
import sys

# Of whoever runs the tests in the background SIGINT may be ignored, by children too.
START = """
import hashlib, signal, threading, time
from basisnet_jax import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.watch()
threading.Timer(1, print, ['busy'], {'flush': True}).start()  # When it is at work.
"""
# Like XLA's compiler it leaves the other threads alone, and comes back after minutes.
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 1_000_000_000)"


@contextlib.contextmanager
def started(work):
  command = [sys.executable, '-c', START + work]
  with subprocess.Popen(
    command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
  ) as child:
    try:
      assert child.stdout.readline() == 'busy\n'
      yield child
    finally:
      child.kill()


def test_it_is_told_of_and_a_second_one_ends_the_process():
  with started(BUSY) as child:
    child.send_signal(signal.SIGINT)
    assert child.stderr.readline() == '\n'
    assert 'press Ctrl-C again' in child.stderr.readline()
    assert child.poll() is None
    child.send_signal(signal.SIGINT)
    assert child.wait(30) == 1


def test_it_ends_the_process_by_itself_where_python_notices_it():
  with started('time.sleep(600)') as child:
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == -signal.SIGINT
    assert said.rstrip().endswith('KeyboardInterrupt') and 'again' not in said
