"""All scripts of launch/ by shellcheck; the worker's entry and the image, by what they say."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

SCRIPTS = sorted([*ROOT.glob('launch/**/*.sh'), ROOT / 'launch/slurm.sbatch'])


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  # In the virtual environment, which may not be an active one.
  places = f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
  shellcheck = shutil.which('shellcheck', path=places)
  ended = subprocess.run([shellcheck, script], capture_output=True, text=True)
  assert ended.returncode == 0, ended.stdout + ended.stderr


def test_worker_runs_the_preflight_and_the_program_with_the_same_flags(cloud, tmp_path):
  python = tmp_path / 'python'
  python.write_text('#!/bin/bash\necho "$@"\nexit "${CODE:-0}"\n')
  python.chmod(0o755)
  environment = cloud.environment | {'PYTHON': str(python)}
  flags = ['--config=a', '--workdir=b c']

  def worker(*arguments, **variables):
    ended = cloud.run(
      ROOT / 'launch/worker.sh', *arguments, cwd=tmp_path, env=environment | variables
    )
    return ended.returncode, ended.stdout.splitlines()

  program = '-m basisnet_jax.main --config=a --workdir=b c'
  preflight = 'launch/preflight.py --config=a --workdir=b c'
  assert worker(*flags) == (0, [preflight, program])
  assert worker('--no-preflight', *flags) == (0, [program])
  assert worker('--no-preflight', *flags, CODE='143') == (143, [program])
  assert worker(*flags, CODE='2') == (2, [preflight])


@pytest.mark.parametrize(
  'flags, given, folder, of_xla',
  [
    (['--workdir=gs://bucket/lion'], None, 'gs://bucket/lion/compiled', 'none'),
    (['--workdir=/shared/a', '--workdir=/shared/b c/'], '', '/shared/b c/compiled', 'JAX'),
    (['--workdir=gs://bucket/lion'], '/shared/jax', '/shared/jax', 'JAX'),
    (
      ['--compilation-cache=s3://b/jax', '--no-preflight', '--workdir=/shared/lion'],
      *('/shared/jax', 's3://b/jax', 'none'),
    ),
    (['--no-preflight', '--compilation-cache=', '--workdir=/shared/a'], '/shared/jax', '', 'JAX'),
    (['--mode=cost'], None, '', 'JAX'),
  ],
)
def test_worker_keeps_compiled_programs_where_all_workers_see_them(
  cloud, tmp_path, flags, given, folder, of_xla
):
  python = tmp_path / 'python'
  python.write_text(
    '#!/bin/bash\n[[ " $* " != *" --compilation-cache"* ]] || exit 9\n'
    'echo "${JAX_COMPILATION_CACHE_DIR-} ${JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES-JAX}"\n'
  )
  python.chmod(0o755)
  environment = {k: v for k, v in cloud.environment.items() if k != 'JAX_COMPILATION_CACHE_DIR'}
  environment |= {'PYTHON': str(python)} | (
    {} if given is None else {'JAX_COMPILATION_CACHE_DIR': given}
  )
  ended = cloud.run(ROOT / 'launch/worker.sh', *flags, env=environment)
  assert ended.returncode == 0, ended.stderr
  assert set(ended.stdout.splitlines()) == {f'{folder} {of_xla}'}  # Of preflight and program.


BLOCKS = re.findall(r'^```\n(.+?)^```', (ROOT / 'launch/README.md').read_text(), re.M | re.S)
# Not what one sees, nor the two programs, which have tests of their own.
COMMANDS = [block for block in BLOCKS if not block.startswith(('+', 'python '))]


@pytest.mark.parametrize('commands', COMMANDS, ids=lambda block: block.split(' ')[0])
def test_commands_of_the_readme_are_accepted(cloud, repository, commands):
  cloud.answer(
    {
      'queued-resources describe': [[0, 'ACTIVE']],
      'basisnet_jax/launch/tpu_worker.sh state': [[0, '0']],
    }
  )
  lines = re.sub(r'^tail .*$', '', commands, flags=re.M)
  ended = cloud.run('bash', '-eu', '-c', lines, cwd=repository)
  assert ended.returncode == 0, ended.stderr
  assert cloud.calls()


def test_image_copies_what_it_names_and_leaves_out_what_git_ignores():
  dockerfile = (ROOT / 'launch/Dockerfile').read_text()
  ignored = set((ROOT / '.dockerignore').read_text().splitlines())
  for line in re.findall(r'^COPY (.+) \S+$', dockerfile, re.M):
    for path in line.split():
      assert (ROOT / path).exists() and path not in ignored
  (entry,) = re.findall(r'^ENTRYPOINT \["/app/(.+)"\]$', dockerfile, re.M)
  assert (ROOT / entry).stat().st_mode & 0o111
  assert 'WORKDIR /app' in dockerfile and re.search(r'^USER (?!root)', dockerfile, re.M)
  for path in (ROOT / '.gitignore').read_text().split():
    assert {path.strip('/'), f'**/{path.strip("/")}'} & ignored, path


def test_last_words_are_shown_after_a_signal_to_all(tmp_path):
  stand_in = tmp_path / 'python'
  stand_in.write_text(
    '#!/usr/bin/env bash\n'
    'if [[ $1 == -c ]]; then echo 1234; exit; fi\n'
    "trap 'sleep 0.3; echo saved; exit 143' TERM\n"
    'echo ready\n'
    'while true; do sleep 0.1; done\n'
  )
  stand_in.chmod(0o755)
  with subprocess.Popen(
    ['launch/local.sh', '2'],
    cwd=ROOT,
    env=os.environ | {'PYTHON': str(stand_in)},
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as script:
    assert {script.stdout.readline(), script.stdout.readline()} == {'[0] ready\n', '[1] ready\n'}
    os.killpg(script.pid, signal.SIGTERM)
    said = script.communicate(timeout=30)[0]
  assert script.returncode == 143
  assert {'[0] saved', '[1] saved'} <= set(said.splitlines())
