"""Several real processes, found by an address: equal to one, ended, killed, started again.

Each run shows several things at once: starting a process takes ten times its training.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import forks
import numpy as np
import pytest
import running
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

ROOT = pathlib.Path(__file__).parents[1]
# Enough that a signal after the first checkpoint, which JAX passes on after a while, comes in time.
STEPS = 120
RECIPE = [
  '--config=tests/tiny.py',
  '--config.training.batch_size=24',
  f'--config.training.steps={STEPS}',
  '--config.evaluation.every_epochs=100.0',
  '--config.checkpoint.every_steps=20',
  '--config.checkpoint.keep=10',  # All.
]


started = []


@pytest.fixture(autouse=True)
def no_process_is_left():
  """A test that fails leaves none behind, which would slow down those after it."""
  yield
  while started:
    process = started.pop()
    if process.poll() is None:
      process.kill()
      process.communicate()


def start(count, *flags, devices=1, absent=()):
  """The processes of one training, by number; output and errors go together."""
  port = forks.free_port()
  processes = {
    number: running.start(
      *RECIPE,
      *flags,
      f'--coordinator_address=127.0.0.1:{port}',
      f'--num_processes={count}',
      f'--process_id={number}',
      devices=devices,
      stderr=subprocess.STDOUT,
    )
    for number in range(count)
    if number not in absent
  }
  started.extend(processes.values())
  return processes


def outcome(processes, timeout=500):
  """{number: (exit code, what it said)}"""
  found = {}
  readers = [
    threading.Thread(target=lambda n=n, p=p: found.update({n: p.communicate(timeout=timeout)[0]}))
    for n, p in processes.items()
  ]
  for reader in readers:
    reader.start()
  for reader in readers:
    reader.join()
  return {number: (processes[number].returncode, text) for number, text in found.items()}


def wait_for_a_checkpoint(workdir, after=0):
  deadline = time.monotonic() + 400
  while not any(step > after for step in running.checkpoints(workdir)):
    assert time.monotonic() < deadline
    time.sleep(0.02)


@pytest.fixture(scope='module')
def alone(tmp_path_factory, data_flag):
  """The workdir of one process with eight devices, undisturbed."""
  workdir = tmp_path_factory.mktemp('alone')
  ((code, text),) = outcome(start(1, data_flag, f'--workdir={workdir}', devices=8)).values()
  assert code == 0, text
  return workdir


def losses(workdir):
  """{step: training loss} of the last 20 steps."""
  events = EventAccumulator(str(workdir), size_guidance={'tensors': 0}).Reload()
  return {
    event.step: float(tensor_util.make_ndarray(event.tensor_proto))
    for event in events.Tensors('train/loss')
    if event.step > STEPS - 20
  }


def assert_same_training(workdir, expected):
  assert losses(workdir) == pytest.approx(losses(expected), rel=2e-3)
  assert set(losses(workdir)) == {STEPS - 10, STEPS}
  assert running.evaluation(workdir)['images'] == 360
  found, wanted = (running.arrays(w, STEPS) for w in (workdir, expected))
  assert found.keys() == wanted.keys()
  for path, value in wanted.items():
    np.testing.assert_allclose(found[path], value, rtol=2e-3, atol=2e-5, err_msg=path)


def test_asked_to_end_all_save_the_same_step_and_another_number_continues(
  tmp_path, data_flag, alone
):
  flags = (data_flag, f'--workdir={tmp_path}')
  two = start(2, *flags, devices=4)
  wait_for_a_checkpoint(tmp_path)
  two[1].send_signal(signal.SIGTERM)
  ended = outcome(two)
  assert [code for code, _ in ended.values()] == [128 + signal.SIGTERM] * 2, ended
  sentences = {re.search(r'SIGTERM\): step (\d+) is saved', text)[1] for _, text in ended.values()}
  (step,) = sentences
  assert running.checkpoints(tmp_path)[-1] == int(step) < STEPS
  # Three devices of one process.
  ((code, text),) = outcome(start(1, *flags, devices=3)).values()
  assert code == 0, text
  assert_same_training(tmp_path, alone)


def test_one_becomes_two_whose_first_is_killed_and_both_start_again(tmp_path, data_flag, alone):
  # One process with eight devices, killed after step 20.
  for part in ('config.json', 'checkpoints/20'):
    (tmp_path / part).parent.mkdir(exist_ok=True)
    copy = shutil.copytree if (alone / part).is_dir() else shutil.copy
    copy(alone / part, tmp_path / part)
  two = start(2, data_flag, f'--workdir={tmp_path}', '--restarts=1')
  wait_for_a_checkpoint(tmp_path, after=20)
  (child,) = subprocess.check_output(['pgrep', '-P', str(two[0].pid)], text=True).split()
  os.kill(int(child), signal.SIGKILL)
  ended = outcome(two)
  assert [code for code, _ in ended.values()] == [0, 0], ended
  assert f'20/{STEPS}' in ended[0][1]
  assert re.search(r'Ended with code 137 \(killed, .*\); starting again', ended[0][1])
  assert re.search('Ended with code (3|134); starting again', ended[1][1])
  assert_same_training(tmp_path, alone)


def kill_all_in_a_save(processes, workdir):
  """Kills all while the folder of a save, after the first checkpoint, is unfinished."""
  wait_for_a_checkpoint(workdir)
  unfinished = []
  while not unfinished:
    while not list(workdir.glob('checkpoints/*-tmp')):
      assert processes[0].poll() is None, 'It ended before.'
    for process in processes.values():
      process.send_signal(signal.SIGSTOP)
    unfinished = list(workdir.glob('checkpoints/*-tmp'))
    for process in processes.values():  # It may have been done just then.
      process.send_signal(signal.SIGKILL if unfinished else signal.SIGCONT)
  assert list(workdir.glob('checkpoints/*-tmp')) == unfinished


def test_all_killed_in_a_save_continue_and_a_damaged_checkpoint_is_passed_over_by_all(
  tmp_path, data_flag, alone
):
  flags = (data_flag, f'--workdir={tmp_path}')
  two = start(2, *flags)
  kill_all_in_a_save(two, tmp_path)
  outcome(two)
  step = running.checkpoints(tmp_path)[-1]
  # A newer one, of which something is gone.
  saved, newest = tmp_path / 'checkpoints', str(STEPS - 1)
  newer = shutil.copytree(saved / str(step), saved / newest)
  (newer / 'state' / 'manifest.ocdbt').unlink()
  for code, text in outcome(start(2, *flags)).values():
    assert code == 0, text
  assert (saved / f'{newest}.damaged').is_dir()
  assert_same_training(tmp_path, alone)


def test_one_killed_of_three_ends_the_others_with_a_message(tmp_path, data_flag):
  three = start(3, data_flag, f'--workdir={tmp_path}', '--config.training.steps=4000')
  wait_for_a_checkpoint(tmp_path)
  three[2].kill()
  for number, (code, text) in outcome(three, timeout=60).items():
    assert code == -signal.SIGKILL if number == 2 else code not in (0, None), text
    assert number == 2 or text.strip()


def test_stopped_process_is_waited_for_with_notices_and_no_longer_than_is_said(tmp_path, data_flag):
  flags = (data_flag, f'--workdir={tmp_path}', '--config.training.stall_timeout=20.0')
  two = start(2, *flags)
  wait_for_a_checkpoint(tmp_path)
  two[1].send_signal(signal.SIGSTOP)  # Alive, and silent.
  began = time.monotonic()
  ((code, text),) = outcome({0: two[0]}).values()
  assert time.monotonic() - began < 60
  two[1].kill()
  two[1].communicate()
  # The watchdog, or JAX, to which the other one seems dead.
  assert code in (3, -signal.SIGABRT), text
  assert 'Nothing moved for 20 s' in text or 'heartbeat' in text


def test_process_that_does_not_come_is_named(tmp_path, data_flag):
  began = time.monotonic()
  ended = outcome(
    start(4, data_flag, f'--workdir={tmp_path}', '--processes_timeout=12', absent=(1, 3))
  )
  assert time.monotonic() - began < 60
  for code, text in ended.values():
    assert code == 3
    assert text.strip().startswith('Of 4 processes these did not come in time: 1, 3; ')
    assert '\n' not in text.strip()


def test_local_launcher_needs_a_number_and_passes_on_the_exit_code(tmp_path):
  def launch(*arguments):
    return subprocess.run(
      ['launch/local.sh', *arguments],
      cwd=ROOT,
      env=os.environ | {'PYTHON': sys.executable},
      capture_output=True,
      text=True,
      timeout=120,
    )

  wrong = launch('--config=tests/tiny.py')
  assert wrong.returncode == 2 and wrong.stderr.startswith('usage: launch/local.sh N ')
  ended = launch('2', '--config=tests/tiny.py', '--mode=evaluate', f'--workdir={tmp_path}')
  assert ended.returncode in (2, 3)  # Of the two, the first to fail ends the other.
  assert re.search(r'^\[[01]\] There is no checkpoint in .*; train first', ended.stderr, re.M)
