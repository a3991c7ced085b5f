"""The first of several processes dies, or one of three, or all; a checkpoint of two is damaged."""

import os
import shutil
import signal

import pytest
import test_main
from test_processes import STEPS, assert_same_training, outcome, start, wait_for_a_checkpoint


@pytest.fixture(scope='module')
def alone(tmp_path_factory, data_flag):
  """The workdir of one process, undisturbed."""
  workdir = tmp_path_factory.mktemp('alone')
  ((code, text),) = outcome(start(1, data_flag, f'--workdir={workdir}')).values()
  assert code == 0, text
  return workdir


@pytest.mark.parametrize(('count', 'victim'), [(2, 0), (3, 2)])
def test_killed_process_ends_all_others_with_a_message(tmp_path, data_flag, count, victim):
  processes = start(count, data_flag, f'--workdir={tmp_path}', '--config.training.steps=4000')
  wait_for_a_checkpoint(tmp_path)
  os.kill(processes[victim].pid, signal.SIGKILL)
  for number, (code, text) in outcome(processes, timeout=60).items():
    assert code == -signal.SIGKILL if number == victim else code not in (0, None), text
    assert number == victim or text.strip()


def test_all_killed_in_a_save_continue_and_a_damaged_checkpoint_is_passed_over_by_all(
  tmp_path, data_flag, alone
):
  flags = (data_flag, f'--workdir={tmp_path}')
  two = start(2, *flags)
  wait_for_a_checkpoint(tmp_path)
  while not list(tmp_path.glob('checkpoints/*-tmp')) and two[0].poll() is None:
    pass
  for process in two.values():
    process.kill()
  outcome(two)
  step = test_main.checkpoints(tmp_path)[-1]
  # A newer one, of which something is gone.
  saved, newest = tmp_path / 'checkpoints', str(STEPS - 1)
  newer = shutil.copytree(saved / str(step), saved / newest)
  (newer / 'state' / 'manifest.ocdbt').unlink()
  for code, text in outcome(start(2, *flags)).values():
    assert code == 0, text
  assert (saved / f'{newest}.damaged').is_dir()
  assert_same_training(tmp_path, alone)
