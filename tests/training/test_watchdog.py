"""Waiting that is announced, and ended."""

import subprocess
import sys
import time

import pytest

from basisnet_jax.training.watchdog import Watchdog


def test_silence_is_announced_ever_more_rarely_and_motion_ends_it(capsys):
  with Watchdog(timeout=60, notice=1.0) as watchdog:
    watchdog.beat('the images of step 7')
    time.sleep(3.8)
    watchdog.beat('step 7')
    time.sleep(0.7)
  said = capsys.readouterr().err.splitlines()
  assert [line.rsplit(' since ')[0] for line in said] == ['Waiting for the images of step 7'] * 2


@pytest.mark.parametrize('beats, code', [(0, 3), (20, 0)])
def test_too_long_a_silence_ends_the_process(beats, code):
  program = f"""
import time
from basisnet_jax.training.watchdog import Watchdog
with Watchdog(timeout=1.5) as watchdog:
  for step in range({beats}):
    watchdog.beat(f'step {{step}}')
    time.sleep(0.2)
  if not {beats}:
    watchdog.beat('a stopped process')
    time.sleep(60)
"""
  ended = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, timeout=50
  )
  assert ended.returncode == code
  assert ('waiting for a stopped process; the same command' in ended.stderr) == (code == 3)
