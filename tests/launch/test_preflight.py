"""The preflight, as users run it: two real processes that agree, differ, fail or fall silent."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import forks

from basisnet_jax.errors import UserError
from basisnet_jax.preflight import hosts
from basisnet_jax.preflight.exchange import Exchange
from basisnet_jax.preflight.job import Job

ROOT = pathlib.Path(__file__).parents[2]
HOST = socket.gethostname()


def start(*flags, of_one=(), path_of_one='', cwd_of_one=ROOT, devices=(1, 1), anew=True):
  """Two processes; process 1 can have flags, a PYTHONPATH and a directory of its own.

  As forks they start sooner, but without the process that supervises each.
  """
  port = forks.free_port()
  changes = {'PYTHONUNBUFFERED': '1'} if anew else {'BASISNET_SUPERVISED': '1'}
  changes_of_one = {'PYTHONPATH': path_of_one} if path_of_one else {}
  processes = []
  for number in range(2):
    environment = forks.environment(devices[number]) | changes | (changes_of_one if number else {})
    environment.pop('TF_CPP_MIN_LOG_LEVEL', None)  # Importing JAX has set it here.
    process = forks.start(
      str(ROOT / 'launch' / 'preflight.py'),
      f'--config={ROOT}/tests/tiny.py',
      f'--coordinator_address=127.0.0.1:{port}',
      '--num_processes=2',
      f'--process_id={number}',
      *flags,
      *(of_one if number else ()),
      cwd=cwd_of_one if number else ROOT,
      env=environment,
      anew=anew,
    )
    processes.append(process)
  return processes


def outcome(processes):
  """(exit codes, {row: verdict} of the table, what is found in words, the sentences of each)."""
  said = {}
  readers = [
    threading.Thread(target=lambda p=p: said.update({p: p.communicate(timeout=120)}))
    for p in processes
  ]
  for reader in readers:
    reader.start()
  for reader in readers:
    reader.join()
  table = re.findall(r'^([a-z-]+(?: [a-z]+)?) {2,}(.*?) +(ok|FAILED)$', said[processes[0]][0], re.M)
  # Gloo tells of its connections, from several threads whose pieces of a line may mix.
  pieces = ['[Gloo] Rank ', ' is connected to ', ' peer ranks. ', '\n']
  pieces += ['Expected number of connected peer ranks is : ']
  told = said[processes[1]][0]
  assert len({told.count(piece) for piece in pieces}) == 1
  assert re.fullmatch(r'\d*', re.sub('|'.join(map(re.escape, pieces)), '', told))
  return (
    [process.returncode for process in processes],
    {name: verdict for name, _, verdict in table},
    {name: found for name, found, _ in table},
    [said[process][1].splitlines() for process in processes],
  )


def test_two_processes_that_agree_pass_all_checks_and_leave_nothing(tmp_path):
  workdir = tmp_path / 'run'
  codes, verdicts, found, sentences = outcome(
    start(f'--workdir={workdir}', f'--config.data.data_dir={tmp_path}/data', devices=(2, 2))
  )
  assert codes == [0, 0], sentences
  assert list(verdicts) == [
    'processes', 'versions', 'recipe', 'clocks', 'workdir', 'workdir shared', 'devices', 'data',
    'training step', 'all-reduce',
  ]  # fmt: skip
  assert set(verdicts.values()) == {'ok'}
  assert found['processes'] == f'2 on {HOST}'
  assert found['devices'] == '4 x cpu, mesh data 4'
  assert re.match(r'1,437 and 360 images, [\d,]+ images/s in all', found['data'])
  assert re.match(
    r'[\d.e-]+ s, [\d,]+ images/s, the first .* s, loss [3-6]\.', found['training step']
  )
  assert re.fullmatch(r'64 MB of 4 devices in [\d.e+]+ ms, [\d.]+ GB/s', found['all-reduce'])
  assert list(workdir.iterdir()) == []


def one(sentences):
  assert len(sentences) == 1, sentences
  return sentences[0]


def version_of_optax(folder):
  """A PYTHONPATH on which optax looks like another version."""
  about = folder / 'optax-0.0.1.dist-info'
  about.mkdir()
  (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: optax\nVersion: 0.0.1\n')


def clock_ahead(folder):
  """A PYTHONPATH with which the clock is an hour ahead."""
  (folder / 'sitecustomize.py').write_text(
    'import time\nnow = time.time\ntime.time = lambda: now() + 3600\n'
  )


def test_host_that_differs_is_named_with_each_difference(tmp_path):
  version_of_optax(tmp_path)
  clock_ahead(tmp_path)
  (tmp_path / 'file').write_text('')
  codes, verdicts, _, sentences = outcome(
    start(
      f'--workdir={tmp_path}/file',
      of_one=['--config.optimizer.learning_rate=0.5', '--config.data.name=other'],
      path_of_one=str(tmp_path),
    )
  )
  assert codes == [2, 2]
  assert verdicts == {'processes': 'ok'} | dict.fromkeys(
    ['versions', 'recipe', 'clocks', 'workdir'], 'FAILED'
  )  # Hosts that differ do not work together.
  zero, one = f'process 0 ({HOST})', f'process 1 ({HOST})'
  starts = [
    f'versions: {one} has optax = 0.0.1, {zero} has ',
    f"recipe: {one} has config.data.name = 'other', {zero} has 'digits';"
    f' {one} has config.optimizer.learning_rate = 0.5, {zero} has 0.02',
    f'clocks: the clock of {one} differs by +3,',
    f'workdir: {zero}: the workdir {tmp_path}/file cannot be wri',
  ]
  for said in sentences:
    assert len(said) == len(starts) and all(map(str.startswith, said, starts)), said
    ahead = float(re.search(r'by \+([\d,.]+) s', said[2])[1].replace(',', ''))
    assert abs(ahead - 3600) < hosts.LARGEST_CLOCK_DIFFERENCE  # The two do not look at once.


def test_host_that_lacks_a_device_or_sees_another_workdir_is_named(tmp_path):
  # The same flag, but each in its own directory: as on disks that hosts do not share.
  elsewhere = tmp_path / 'elsewhere'
  elsewhere.mkdir()
  # The batch of 16 does not fit three devices either, but that is not what is wrong.
  codes, verdicts, _, sentences = outcome(
    start(
      f'--workdir={os.path.relpath(tmp_path / "run", ROOT)}',
      cwd_of_one=elsewhere,
      devices=(2, 1),
      anew=False,
    )
  )
  assert codes == [2, 2]
  failed = [name for name, verdict in verdicts.items() if verdict == 'FAILED']
  assert failed == ['workdir shared', 'devices'] and 'data' not in verdicts
  for workdir, devices in sentences:
    assert workdir.startswith(
      f'workdir shared: process 1 ({HOST}): what process 0 has written to the'
    )
    assert devices == (
      f'devices: process 1 ({HOST}) has number of devices = 1, process 0 ({HOST}) has 2'
    )
  assert list((tmp_path / 'run').iterdir()) == []


def test_missing_data_are_one_sentence(tmp_path):
  codes, verdicts, _, sentences = outcome(
    start(
      f'--workdir={tmp_path}/run',
      '--config.data.name=imagenet2012',
      f'--config.data.data_dir={tmp_path}/none',
      anew=False,
    )
  )
  assert codes == [2, 2]
  assert verdicts['data'] == 'FAILED' and 'training step' not in verdicts
  for said in map(one, sentences):
    assert said.startswith(
      f"data: Dataset 'imagenet2012' is not in {tmp_path}/none and TFDS cannot"
    )


def test_host_that_falls_silent_is_named_after_the_time_limit(tmp_path):
  began = time.monotonic()
  processes = start(f'--workdir={tmp_path}/run', '--time_limit=6')
  rows = []
  while not rows or not rows[-1].startswith('processes'):
    rows.append(processes[0].stdout.readline())
    assert rows[-1], processes[0].stderr.read()
  (child,) = subprocess.check_output(['pgrep', '-P', str(processes[1].pid)], text=True).split()
  os.kill(int(child), signal.SIGSTOP)  # It is there, but does nothing.
  out, err = processes[0].communicate(timeout=60)
  assert processes[0].returncode == 2
  assert f'process 1 ({HOST}): no sign of life for 6 s' in one(err.splitlines())
  assert 'FAILED' in out
  assert time.monotonic() - began < 60
  os.kill(int(child), signal.SIGKILL)
  processes[1].communicate(timeout=60)


def test_networks_in_the_current_folder_are_found(tmp_path):
  (tmp_path / 'my_networks.py').write_text("raise RuntimeError('it was found')\n")
  ended = subprocess.run(
    [
      sys.executable,
      ROOT / 'launch' / 'preflight.py',
      f'--config={ROOT}/tests/tiny.py',
      '--config.model.name=my_networks:Net',
      f'--workdir={tmp_path}/run',
    ],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert ended.returncode == 2
  assert 'cannot be imported (RuntimeError: it was found)' in ended.stderr


def test_wrong_flag_is_one_sentence():
  ended = subprocess.run(
    [sys.executable, ROOT / 'launch' / 'preflight.py', '--config=tests/tiny.py', '--wrkdir=x'],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert (ended.returncode, ended.stdout) == (2, '')
  assert ended.stderr == '--wrkdir is not a flag; did you mean --workdir?\n'


def test_what_goes_wrong_while_looking_is_an_answer():
  exchange = Exchange()
  (alone,) = exchange.ask('well', lambda: {'a': 1}, 5).values()
  assert (alone.found, alone.problem) == ({'a': 1}, '')

  def refuse():
    raise UserError('One sentence.')

  assert exchange.ask('refused', refuse, 5)[0].problem == 'One sentence.'
  assert (
    exchange.ask('crashed', lambda: 1 / 0, 5)[0].problem == 'ZeroDivisionError: division by zero'
  )
  stuck = threading.Event()
  began = time.monotonic()
  assert exchange.ask('stuck', stuck.wait, 0.2)[0].problem == 'not done after 0 s'
  assert time.monotonic() - began < 2
  stuck.set()


def test_those_that_differ_from_most_are_named():
  job = Job(config=None, workdir='', process=0, hosts=dict(enumerate('abcd')))
  same = {'x': 1, 'y': 2}
  assert job.differences(dict.fromkeys(range(4), same)) == ''
  found = {0: {'x': 7, 'y': 2}, 1: same, 2: same, 3: {'x': 1, 'y': None}}
  assert job.differences(found) == (
    'process 0 (a) has x = 7, the others have 1; process 3 (d) has y = None, the others have 2'
  )
  every = {process: {str(key): process for key in range(2)} for process in range(4)}
  assert job.differences(every).endswith('; and 3 more')


def test_clocks_may_differ_a_little():
  job = Job(config=None, workdir='', process=0, hosts=dict(enumerate('abc')))
  assert hosts.CLOCKS.judge(job, {0: 100.0, 1: 104.0, 2: 101.5}) == ('equal within 4.00 s', '')
  _, problem = hosts.CLOCKS.judge(job, {0: 100.0, 1: 101.0, 2: 90.0})
  assert problem == 'the clock of process 2 (c) differs by -10.0 s'
