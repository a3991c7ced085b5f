"""Several real processes, found by an address: equal to one, ended, killed, started again."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util
import test_main

from basisnet_jax import distributed
from basisnet_jax.errors import MissingProcess, UserError

ROOT = pathlib.Path(__file__).parents[1]
# Enough that a signal after the first checkpoint, which JAX passes on after a while, comes in time.
STEPS = 240
RECIPE = [
  '--config=tests/tiny.py',
  '--config.training.batch_size=24',
  f'--config.training.steps={STEPS}',
  '--config.evaluation.every_epochs=100.0',
  '--config.checkpoint.every_steps=20',
]


def free_port():
  with socket.socket() as probe:
    probe.bind(('', 0))
    return probe.getsockname()[1]


def start(count, *flags, devices=1, absent=(), supervised=False):
  """The processes of one training, by number; output and errors go together."""
  port = free_port()
  supervision = ['--restarts=2'] if supervised else []
  return {
    number: test_main.start(
      *RECIPE,
      *flags,
      f'--coordinator_address=127.0.0.1:{port}',
      f'--num_processes={count}',
      f'--process_id={number}',
      *supervision,
      devices=devices,
      stderr=subprocess.STDOUT,
    )
    for number in range(count)
    if number not in absent
  }


def outcome(processes, timeout=240):
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


def wait_for_a_checkpoint(workdir):
  deadline = time.monotonic() + 200
  while not test_main.checkpoints(workdir):
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
  assert test_main.evaluation(workdir)['images'] == 360
  found, wanted = (test_main.arrays(w, STEPS) for w in (workdir, expected))
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
  assert test_main.checkpoints(tmp_path)[-1] == int(step) < STEPS
  # Three devices of one process.
  ((code, text),) = outcome(start(1, *flags, devices=3)).values()
  assert code == 0, text
  assert_same_training(tmp_path, alone)


def test_killed_process_ends_the_others_and_all_start_again(tmp_path, data_flag, alone):
  flags = (data_flag, f'--workdir={tmp_path}')
  two = start(2, *flags, devices=4, supervised=True)
  wait_for_a_checkpoint(tmp_path)
  (child,) = subprocess.check_output(['pgrep', '-P', str(two[1].pid)], text=True).split()
  os.kill(int(child), signal.SIGKILL)
  ended = outcome(two)
  assert [code for code, _ in ended.values()] == [0, 0], ended
  assert re.search(r'Ended with code 137 \(killed, .*\); starting again', ended[1][1])
  assert re.search('Ended with code (3|134); starting again', ended[0][1])
  assert_same_training(tmp_path, alone)


def test_stopped_process_is_waited_for_with_notices_and_no_longer_than_is_said(tmp_path, data_flag):
  flags = (data_flag, f'--workdir={tmp_path}', '--config.training.stall_timeout=20.0')
  two = start(2, *flags, devices=4)
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


def roll_call(*processes, timeout=10.0, port=None):
  """What each of (number, count) is told; '' is well."""
  port, told = port or free_port(), {}

  def call(number, count):
    try:
      distributed.call_roll(f'127.0.0.1:{port}', count, number, timeout)
      told[number] = ''
    except (UserError, MissingProcess) as error:
      told[number] = str(error)

  threads = [threading.Thread(target=call, args=process) for process in processes]
  for thread in reversed(threads):  # The first is the last to come.
    thread.start()
    time.sleep(0.1)
  for thread in threads:
    thread.join()
  return told


def test_roll_call_is_over_when_all_are_there():
  assert roll_call((0, 3), (1, 3), (2, 3)) == {0: '', 1: '', 2: ''}


def test_other_count_is_told_to_all():
  told = roll_call((0, 3), (1, 3), (2, 4))
  assert told[0] == told[2] and 'Process 2 of 4 at 127.0.0.1 called' in told[0]


def test_missing_process_zero_is_named_with_its_address():
  told = roll_call((1, 2), timeout=1.0, port=free_port())
  assert re.match(r'Process 1 cannot reach process 0 at 127.0.0.1:\d+ \(.*refused\)', told[1])


def test_strangers_do_not_count():
  port = free_port()

  def knock():
    for text in (b'GET / HTTP/1.1\r\n\r\n', b'{"process": 1}\n', b'\xff\n', b'[]\n'):
      time.sleep(0.1)
      with socket.create_connection(('127.0.0.1', port)) as connection:
        connection.sendall(text)

  thread = threading.Timer(0.5, knock)
  thread.start()
  told = roll_call((0, 2), timeout=3.0, port=port)
  thread.join()
  assert told[0].startswith('Of 2 processes these did not come in time: 1;')


def test_taken_port_is_one_clear_sentence():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    told = roll_call((0, 2), timeout=1.0, port=port)
  assert told[0].startswith(f'Process 0 cannot listen at port {port} (Address already in use')


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('a:1', None, 0), '--num_processes must be given, too'),
    ((None, 2, None), '--coordinator_address and --process_id must be given, too'),
    (('a:1', 2, 2), '--process_id=2 is not one of 2 processes; they count from 0'),
    (('a', 2, 1), "--coordinator_address='a' is not HOST:PORT"),
  ],
  ids=str,
)
def test_flags_that_do_not_fit_are_one_clear_sentence(arguments, sentence):
  with pytest.raises(UserError, match=re.escape(sentence)):
    distributed.initialize(*arguments, timeout=1.0)


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
