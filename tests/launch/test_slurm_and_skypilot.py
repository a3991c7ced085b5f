"""What Slurm and SkyPilot run: stand-ins for them start real processes of the program."""

import os
import pathlib
import re
import signal
import time

import forks
import pytest
import running
import test_processes
import yaml

ROOT = pathlib.Path(__file__).parents[2]

# Does what srun does on one node: numbered tasks that find each other, the highest exit code.
SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=1 "$@" &
  echo $! >>"$FAKE/tasks"
done
highest=0
for task in $(cat "$FAKE/tasks"); do
  code=0
  wait "$task" || code=$?
  ((code <= highest)) || highest=$code
done
rm "$FAKE/tasks"
exit "$highest"
"""
TINY = [
  '--no-preflight',
  '--config=tests/tiny.py',
  '--config.training.steps=100',
  '--config.checkpoint.every_steps=20',
  '--config.evaluation.every_epochs=100.0',
]


def slurm(cloud, *arguments, tasks=2, gpus=None):
  """The batch script as Slurm starts it: a copy of it, in the folder of the submission."""
  script = cloud.folder / 'slurm_script'
  script.write_text((ROOT / 'launch/slurm.sbatch').read_text())
  job = {
    # JAX computes a port from the job's number.
    'SLURM_JOB_ID': str(os.getpid() % 4096),
    'SLURM_SUBMIT_DIR': str(ROOT),
    'SLURM_NTASKS': str(tasks),
    'SLURM_JOB_NUM_NODES': '1',
    **({'SLURM_GPUS_ON_NODE': str(gpus)} if gpus else {}),
  }
  return cloud.start('bash', str(script), *arguments, cwd='/', **job)


@pytest.fixture
def srun(cloud):
  """A stand-in of srun that starts real tasks."""
  script = cloud.fakes / 'srun'
  script.write_text(SRUN)
  script.chmod(0o755)


def test_slurm_job_saves_before_its_time_is_up_queues_again_and_goes_on(cloud, srun, tmp_path):
  workdir = tmp_path / 'workdir'
  flags = [*TINY, f'--workdir={workdir}', f'--config.data.data_dir={tmp_path}']
  cloud.answer({'squeue': [[0, 'RUNNING']]})
  job = slurm(cloud, *flags)
  deadline = time.monotonic() + 200
  while not running.checkpoints(workdir):
    assert time.monotonic() < deadline and job.poll() is None
    time.sleep(0.02)
  # --signal=TERM@300 comes to the tasks of the step and not to the batch script.
  for task in (cloud.folder / 'tasks').read_text().split():
    os.kill(int(task), signal.SIGTERM)
  text, _ = job.communicate(timeout=200)
  assert job.returncode == 128 + signal.SIGTERM, text
  assert 'processes: 2.' in text and 'queues again' in text
  saved = int(re.search(r'SIGTERM\): step (\d+) is saved', text)[1])
  assert saved == running.checkpoints(workdir)[-1] < 100
  number = str(os.getpid() % 4096)
  assert cloud.calls()[-1] == ['scontrol', 'requeue', number]
  # The same command goes on, also with fewer processes.
  job = slurm(cloud, *flags, tasks=1)
  text, _ = job.communicate(timeout=200)
  assert job.returncode == 0, text
  assert running.checkpoints(workdir)[-1] == 100 and f'{saved}/100' in text
  assert cloud.calls()[-1] == ['scontrol', 'requeue', number]  # And no other one since.


@pytest.mark.parametrize(
  ('code', 'state', 'queues'),
  [(143, 'RUNNING', True), (143, 'COMPLETING', False), (3, 'RUNNING', False), (0, '', False)],
)
def test_slurm_job_queues_again_only_when_its_time_was_up(cloud, code, state, queues):
  cloud.answer({'srun': [[code, '']], 'squeue': [[0, state]]})
  job = slurm(cloud, '--config=a', '--workdir=b c')
  job.communicate()
  assert job.returncode == code
  assert ['srun', *cloud.calls()[0][-3:]] == (
    ['srun', './launch/worker.sh', '--config=a', '--workdir=b c']
  )
  assert ('scontrol' in [call[0] for call in cloud.calls()]) == queues


def test_slurm_job_refuses_what_cannot_work_in_one_clear_sentence(cloud):
  for job, sentence in {
    slurm(cloud, '--config=a'): '--config=RECIPE and --workdir=SHARED_DIR must be given',
    slurm(cloud, '--config=a', '--workdir=b', tasks=1, gpus=4): (
      'There are 1 processes for 4 GPUs, and each takes one; give sbatch --ntasks-per-node=4.'
    ),
  }.items():
    text, _ = job.communicate()
    assert job.returncode == 2 and text.startswith(sentence) and text.count('\n') == 1
  outside = cloud.run('bash', 'launch/slurm.sbatch', '--config=a', '--workdir=b')
  assert outside.returncode == 2 and outside.stderr.startswith('This is a job for Slurm: submit')
  assert cloud.calls() == []


def test_slurm_dry_run_prints_the_step_and_runs_nothing(cloud):
  dry = cloud.run('bash', 'launch/slurm.sbatch', '--dry-run', '--config=a', '--workdir=b')
  assert cloud.calls() == [] and dry.returncode == 0
  slurm(cloud, '--config=a', '--workdir=b', tasks=4, gpus=4).communicate()
  assert cloud.calls() == [dry.stdout.split()]


SKYPILOT = yaml.safe_load((ROOT / 'launch/skypilot.yaml').read_text())


def test_skypilot_file_has_the_documented_keys_and_no_others():
  assert SKYPILOT.keys() == {*('name', 'workdir', 'num_nodes', 'resources', 'envs', 'setup', 'run')}
  resources = SKYPILOT['resources']
  assert resources.keys() == {'accelerators', 'use_spot', 'job_recovery'}
  assert resources['job_recovery'] == {'max_restarts_on_errors': 3, 'recover_on_exit_codes': [143]}
  # Without a value SkyPilot asks for --env.
  assert [name for name, value in SKYPILOT['envs'].items() if value is None] == [
    'CONFIG',
    'WORKDIR',
  ]


def test_skypilot_run_block_trains_on_two_nodes(cloud, tmp_path):
  port = forks.free_port()
  environment = {
    **{'JAX': '', 'CONFIG': 'tests/tiny.py', 'WORKDIR': str(tmp_path / 'workdir')},
    'FLAGS': f'{" ".join(TINY)} --config.training.steps=4 --config.data.data_dir={tmp_path}',
    'SKYPILOT_NODE_IPS': '127.0.0.1\n127.0.0.2',
    'SKYPILOT_NUM_NODES': '2',
    'JAX_COMPILATION_CACHE_DIR': '',  # Not the tests' own.
  }
  run = SKYPILOT['run'].replace(':8476', f':{port}')
  assert run != SKYPILOT['run']
  nodes = {
    rank: cloud.start('bash', '-c', run, **environment, SKYPILOT_NODE_RANK=str(rank))
    for rank in (0, 1)
  }
  ended = test_processes.outcome(nodes, timeout=200)
  assert [code for code, _ in ended.values()] == [0, 0], ended
  assert 'processes: 2.' in ended[0][1]
  assert running.checkpoints(tmp_path / 'workdir')[-1] == 4
  assert list((tmp_path / 'workdir' / 'compiled').glob('jit_step-*-cache'))
