"""A workdir is one run's at a time, whatever becomes of that run."""

import os
import re
import signal
import subprocess
import sys

import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.training import workdir_lock

HOLD = """
import sys, time
from basisnet_jax.training import workdir_lock
with workdir_lock.exclusive(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
"""


def test_second_run_is_refused_by_name_until_the_first_is_killed(tmp_path):
  workdir = str(tmp_path / 'new')
  with subprocess.Popen([sys.executable, '-c', HOLD, workdir], stdout=subprocess.PIPE) as first:
    assert first.stdout.readline() == b'held\n'
    sentence = rf'Another run is at work in {workdir} \(process {first.pid} on .*\); wait for'
    with pytest.raises(UserError, match=sentence), workdir_lock.exclusive(workdir):
      pass
    first.send_signal(signal.SIGKILL)
    first.wait()
  with workdir_lock.exclusive(workdir):
    with open(os.path.join(workdir, '.lock')) as file:
      assert re.match(f'process {os.getpid()} on ', file.read())


def test_object_stores_have_no_locks():
  with workdir_lock.exclusive('gs://bucket/run'), workdir_lock.exclusive('gs://bucket/run'):
    pass
  assert not os.path.exists('gs:')
