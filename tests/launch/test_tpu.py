"""launch/tpu.sh against a stand-in of gcloud; launch/tpu_worker.sh against one of the metadata."""

import pathlib
import re
import shlex
import subprocess
import tarfile
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = [
  '--name=lion',
  '--zone=us-east5-b',
  '--accelerator-type=v6e-16',
  '--spot',
  '--poll=0',
  '--config=configs/mnv3.py',
  '--workdir=gs://bucket/lion',
]
MESH = "--config.sharding.mesh=(('data', -1), ('fsdp', 8))"
DESCRIBE, WORKERS = 'queued-resources describe', 'basisnet_jax/launch/tpu_worker.sh state'
# The flags of each command that Google's reference lists, and those that all commands have.
DOCUMENTED = {
  'queued-resources create': {
    *('--zone', '--runtime-version', '--accelerator-type', '--node-id', '--spot', '--async')
  },
  'queued-resources describe': {'--zone'},
  'queued-resources delete': {'--zone', '--async', '--force'},
  'tpu-vm scp': {'--zone', '--worker'},
  'tpu-vm ssh': {'--zone', '--worker', '--command'},
}
EVERYWHERE = {'--quiet', '--project', '--format'}


def verbs(calls):
  """What was asked of gcloud, in short: create, scp, ssh start, ..."""
  found = []
  for call in calls:
    assert call[:3] == ['gcloud', 'compute', 'tpus']
    command = next((word for word in call if word.startswith('--command=')), '')
    remote = re.search(r'tpu_worker\.sh (\w+)', command)
    found.append(call[4] + (f' {remote[1]}' if remote else ' unpack' if command else ''))
  return found


def states(*names):
  return [[0, name] for name in names]


def printed(text):
  """The commands of a dry run, without git's."""
  lines = [line for line in text.splitlines() if not line.startswith(('git', '#'))]
  return [shlex.split(line) for line in lines]


def tpu(cloud, repository, command, *flags, **options):
  return cloud.run('launch/tpu.sh', command, *(flags or FLAGS), cwd=repository, **options)


def test_up_requests_waits_installs_and_starts(cloud, repository):
  cloud.answer({DESCRIBE: states('WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')})
  (repository / 'launch/local.sh').write_text('changed')
  cache = '--compilation-cache=gs://bucket/compiled'
  ended = tpu(cloud, repository, 'up', *FLAGS, '--project=zoo', cache, '--', MESH, '--restarts=2')
  assert ended.returncode == 0, ended.stderr
  assert verbs(cloud.calls()) == (
    ['create', 'describe', 'describe', 'describe', 'scp', 'ssh unpack', 'ssh setup', 'ssh start']
  )
  create, start = cloud.calls()[0], cloud.calls()[-1]
  assert {
    *('lion', '--node-id=lion', '--accelerator-type=v6e-16', '--runtime-version=v2-alpha-tpuv6e'),
    *('--spot', '--zone=us-east5-b', '--project=zoo'),
  } <= set(create)
  assert '--worker=all' in start
  # The worker's shell gives the program exactly these words.
  command = next(word for word in start if word.startswith('--command=')).partition('=')[2]
  assert shlex.split(command) == [
    *('bash', 'basisnet_jax/launch/tpu_worker.sh', 'start', cache, '--config=configs/mnv3.py'),
    *('--workdir=gs://bucket/lion', MESH, '--restarts=2'),
  ]
  assert 'lion: PROVISIONING' in ended.stderr and 'launch/tpu.sh watch' in ended.stderr
  with tarfile.open(repository / 'runs/tpu/lion.tar.gz') as archive:
    assert archive.extractfile('launch/local.sh').read() == b'changed'


def test_only_documented_flags_are_used(cloud, repository):
  for command in ('up', 'status', 'logs', 'stop', 'resume', 'delete'):
    cloud.answer({DESCRIBE: states('ACTIVE')})
    assert tpu(cloud, repository, command, *FLAGS, '--project=zoo').returncode == 0
  calls = cloud.calls()
  assert {' '.join(call[3:5]) for call in calls} == DOCUMENTED.keys()
  for call in calls:
    used = {word.partition('=')[0] for word in call[5:] if word.startswith('--')}
    assert used <= DOCUMENTED[' '.join(call[3:5])] | EVERYWHERE


@pytest.mark.parametrize(
  'command', ['create', 'wait', 'setup', 'run', 'up', 'status', 'logs', 'resume', 'stop', 'delete']
)
def test_dry_run_prints_what_would_run_and_runs_nothing(cloud, repository, command):
  cloud.answer({DESCRIBE: states('ACTIVE')})
  flags = [*FLAGS, '--no-preflight', MESH]
  dry = tpu(cloud, repository, command, *flags, '--dry-run')
  assert dry.returncode == 0 and not cloud.calls() and not (repository / 'runs').exists()
  assert tpu(cloud, repository, command, *flags).returncode == 0
  assert printed(dry.stdout) == cloud.calls() != []


def test_watch_brings_a_preempted_run_back_with_the_same_code_and_flags(cloud, repository):
  cloud.answer(
    {
      DESCRIBE: states(
        *('ACTIVE',),  # up
        *('ACTIVE', 'SUSPENDING', 'SUSPENDED'),  # watch
        *('WAITING_FOR_RESOURCES', 'FAILED'),  # the first new request fails
        *('PROVISIONING', 'ACTIVE', 'ACTIVE'),
      ),
      WORKERS: [[0, 'running\nrunning'], [0, 'Warning: of ssh\nrunning\nrunning'], [0, '0\n0']],
    }
  )
  assert tpu(cloud, repository, 'up').returncode == 0
  started = cloud.calls()[-1]
  code = (repository / 'runs/tpu/lion.tar.gz').read_bytes()
  (repository / 'launch/local.sh').write_text('edited meanwhile')
  watched = tpu(cloud, repository, 'watch')
  assert watched.returncode == 0, watched.stderr
  after = cloud.calls()[8 - 2 :]
  assert verbs(after) == [
    *('describe', 'ssh state', 'describe', 'describe'),
    *('delete', 'create', 'describe', 'describe'),
    *('delete', 'create', 'describe', 'describe', 'scp', 'ssh unpack', 'ssh setup', 'ssh start'),
    *('describe', 'ssh state', 'describe', 'ssh state'),
  ]
  assert started in after and cloud.calls()[0] in after
  assert (repository / 'runs/tpu/lion.tar.gz').read_bytes() == code
  assert 'it was taken away' in watched.stderr and 'has ended well' in watched.stderr


@pytest.mark.parametrize(
  ('answers', 'code', 'starts', 'sentence'),
  [
    (['2\n2'], 2, 0, 'The program refuses what it was given (exit code 2)'),
    (['2\n3'], 2, 0, 'The program refuses what it was given (exit code 2)'),
    (['3\n134', 'lost\n2', '0\n0'], 0, 2, 'ended with 134 3; starting it again'),
    (['3\n3'], 3, 2, 'The program failed 3 times, and last ended with 3'),
    (['143\n143'] * 4 + ['0'], 0, 4, 'ended with 143; starting it again'),
    (['running\n2', '0\n0'], 0, 0, 'has ended well'),
  ],
)
def test_watch_heeds_the_exit_codes(cloud, repository, answers, code, starts, sentence):
  cloud.answer({DESCRIBE: states('ACTIVE'), WORKERS: [[0, answer] for answer in answers]})
  tpu(cloud, repository, 'setup')
  watched = tpu(cloud, repository, 'watch', *FLAGS, '--failures=2')
  assert watched.returncode == code, watched.stderr
  assert verbs(cloud.calls()).count('ssh start') == starts
  assert sentence in watched.stderr


def test_watch_outlasts_a_gcloud_that_fails_now_and_then(cloud, repository):
  cloud.answer(
    {
      DESCRIBE: [
        [1, 'no network'],
        *states('SUSPENDED', 'ACTIVE'),
        [1, 'no network'],
        [0, 'ACTIVE'],
      ],
      # Nobody answers for as long as nothing is installed.
      WORKERS: [[255, 'no route']] * 10 + [[0, 'running'], [0, '0']],
      'ssh': [[255, 'no route'], [0, '']],
    }
  )
  watched = tpu(cloud, repository, 'watch')
  assert watched.returncode == 0, watched.stderr
  asked = [verb for verb in verbs(cloud.calls()) if verb not in ('describe', 'ssh state')]
  install = ['scp', 'ssh unpack', 'ssh setup', 'ssh start']
  assert asked == ['delete', 'create', *install[:2], *install]
  assert 'That failed; looking again.' in watched.stderr


def test_watch_ends_when_gcloud_never_answers(cloud, repository):
  cloud.answer({DESCRIBE: [[1, 'NOT_FOUND']]})
  watched = tpu(cloud, repository, 'watch')
  assert watched.returncode == 1
  assert 'gcloud did not tell the state of lion 10 times in a row' in watched.stderr


def test_failing_gcloud_ends_it_with_its_code_and_a_sentence(cloud, repository):
  cloud.answer({'create': [[7, 'Quota exceeded']]})
  ended = tpu(cloud, repository, 'up')
  assert ended.returncode == 7
  assert 'Quota exceeded\nTo create lion failed: gcloud ended with code 7;' in ended.stderr
  assert verbs(cloud.calls()) == ['create']


def test_slice_that_will_not_come_is_one_clear_sentence(cloud, repository):
  cloud.answer({DESCRIBE: states('PROVISIONING', 'FAILED')})
  ended = tpu(cloud, repository, 'wait')
  assert ended.returncode == 1
  assert 'lion will not come by itself' in ended.stderr


@pytest.mark.parametrize(
  ('wrong', 'sentence'),
  [
    ('--name=Lion', '--name=Lion is not a name of small letters'),
    ('--zone=', '--zone is missing; give, for example'),
    ('--accelerator-type=', '--accelerator-type is missing'),
    ('--accelerator-type=v9-8', 'No runtime version is known for --accelerator-type=v9-8; give'),
    ('--config=', '--config is missing; it names a recipe'),
    ('--workdir=runs/lion', '--workdir=runs/lion is not in a bucket'),
    ('--poll=soon', '--poll=soon is not a number of seconds'),
    ('--worker=first', "--worker=first is neither a number nor 'all'"),
    ('-- --dry-run', '--dry-run is no flag of the program; give it before --.'),
    ('--restarts=3', '--restarts=3 is not an option of launch/tpu.sh'),
  ],
)
def test_wrong_options_are_one_clear_sentence(cloud, repository, wrong, sentence):
  ended = tpu(cloud, repository, 'up', *FLAGS, *wrong.split())
  assert (ended.returncode, ended.stdout, cloud.calls()) == (2, '', [])
  assert ended.stderr.startswith(sentence) and ended.stderr.count('\n') == 1


def test_wrong_command_tells_the_usage(cloud, repository):
  ended = tpu(cloud, repository, 'start')
  assert ended.returncode == 2 and ended.stderr.startswith('usage: launch/tpu.sh create|wait|')


PROGRAM = """#!/bin/bash
[[ $1 != launch/preflight.py ]] || exec echo "preflight ${*:2}"
trap 'sleep 0.2; exit 143' TERM
echo "program ${*:3}"
while [[ ! -e $HOME/end ]]; do sleep 0.05; done
exit "$(cat "$HOME/end")"
"""


@pytest.fixture
def vm(cloud, tmp_path):
  """`vm(verb, ...)` runs tpu_worker.sh there; the program ends when told to by the file `end`."""
  program = tmp_path / 'program'
  program.write_text(PROGRAM)
  program.chmod(0o755)
  environment = cloud.environment | {'HOME': str(tmp_path), 'PYTHON': str(program)}
  url = 'http://metadata.google.internal/computeMetadata/v1/instance/attributes'
  endpoints = '0:lion-w-0:10.0.0.5,1:lion-w-1:10.0.0.6'
  cloud.answer(
    {
      f'{url}/worker-network-endpoints': [
        [0, endpoints],
        [0, '10.0.0.5,10.0.0.6,10.0.0.7,10.0.0.8'],
      ],
      f'{url}/agent-worker-number': [[0, '1']],
    }
  )

  def worker(*arguments):
    return cloud.run('bash', 'launch/tpu_worker.sh', *arguments, env=environment)

  yield worker
  worker('stop')


def state_once(vm, *wanted):
  deadline = time.monotonic() + 20
  while (state := vm('state').stdout.strip()) not in wanted:
    assert time.monotonic() < deadline, state
    time.sleep(0.05)
  return state


def wait_for(path, text):
  deadline = time.monotonic() + 20
  while not path.exists() or text not in path.read_text():
    assert time.monotonic() < deadline
    time.sleep(0.05)


def test_worker_finds_its_number_and_reports_how_the_program_ended(vm, tmp_path):
  log = tmp_path / 'basisnet_jax.log'
  assert vm('state').stdout == 'lost\n'
  assert vm('start', '--config=a', MESH).returncode == 0
  wait_for(log, 'program')
  assert vm('state').stdout == 'running\n'
  process = '--coordinator_address=10.0.0.5:8476 --num_processes={} --process_id=1'
  flags = f'--config=a {MESH} {process.format(2)}'
  assert log.read_text().splitlines() == [f'preflight {flags}', f'program {flags}']
  again = vm('start', '--config=a')
  assert again.returncode == 2 and again.stderr.startswith('Already running here;')
  assert vm('stop').returncode == 0
  assert state_once(vm, '143', 'lost') == '143'
  # The other form of the metadata.
  (tmp_path / 'end').write_text('3')
  assert vm('start', '--no-preflight', '--config=b').returncode == 0
  assert state_once(vm, '3', 'lost') == '3'
  assert log.read_text().splitlines()[-1] == f'program --config=b {process.format(4)}'


def test_worker_whose_program_is_gone_without_a_code_is_lost(vm, tmp_path):
  vm('start', '--config=a')
  wait_for(tmp_path / 'basisnet_jax.log', 'program')
  group = (tmp_path / 'basisnet_jax.pid').read_text().strip()
  subprocess.run(['kill', '-KILL', '--', f'-{group}'], check=True)
  assert state_once(vm, 'lost') == 'lost'


def test_worker_without_metadata_ends_with_a_code(vm, cloud):
  cloud.answer({'--fail': [[22, 'curl: 404']]})
  vm('start', '--config=a')
  assert state_once(vm, '1') == '1'


def test_worker_installs_a_python_of_its_own_and_jax_for_tpus(vm, cloud):
  (cloud.fakes / 'curl').rename(cloud.fakes / 'python3')
  assert vm('setup').returncode == 0
  pip, make, install = cloud.calls()
  assert pip[:4] == ['python3', '-m', 'pip', 'install'] and pip[-1] == 'uv'
  assert make[:4] == ['python3', '-m', 'uv', 'venv'] and '--python' in make
  assert install[:5] == ['python3', '-m', 'uv', 'pip', 'install'] and install[-1] == 'jax[tpu]'
  assert (ROOT / 'launch' / '..').samefile(install[-2])
  cloud.answer({'venv': [[1, 'no Python']]})
  assert vm('setup').returncode == 1
  assert [call[3] for call in cloud.calls()[3:]] == ['install', 'venv']
