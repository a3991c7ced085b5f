"""Stand-ins of the clouds' programs, which the scripts of launch/ call instead of the real ones."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import forks
import pytest

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT / 'launch'))  # Its scripts are modules, too.
CLIS = ['gcloud', 'kubectl', 'docker', 'sky', 'curl']
CLIS += ['sbatch', 'srun', 'squeue', 'scontrol', 'scancel']


@pytest.fixture
def cloud(tmp_path):
  """Stand-ins first on PATH: `run` and `start` run scripts there, `calls` are those that came."""
  fakes, folder, started = tmp_path / 'bin', tmp_path / 'fake', []
  fakes.mkdir()
  folder.mkdir()
  for name in CLIS:
    script = fakes / name
    script.write_text(f'#!{sys.executable} -IS\n' + (ROOT / 'tests/launch/fake.py').read_text())
    script.chmod(0o755)
  environment = {
    **{key: value for key, value in forks.environment(1).items() if not key.startswith('SLURM')},
    'PATH': f'{fakes}:{os.environ["PATH"]}',
    'FAKE': str(folder),
    'PYTHON': sys.executable,
    'PYTHONUNBUFFERED': '1',
  }

  def answer(answers):
    (folder / 'answers').write_text(json.dumps(answers))

  def run(*command, **options):
    return subprocess.run(
      command,
      **{
        'cwd': ROOT,
        'env': environment,
        'capture_output': True,
        'text': True,
        'timeout': 60,
        **options,
      },
    )

  def start(*command, cwd=ROOT, **variables):
    """In the background, with all that it starts ended after the test."""
    process = subprocess.Popen(
      command,
      cwd=cwd,
      env=environment | variables,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )
    started.append(process)
    return process

  def calls():
    path = folder / 'calls'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

  answer({})
  yield SimpleNamespace(
    answer=answer,
    run=run,
    start=start,
    calls=calls,
    environment=environment,
    fakes=fakes,
    folder=folder,
  )
  for process in started:
    if process.poll() is None:
      os.killpg(process.pid, signal.SIGKILL)
      process.communicate()


@pytest.fixture
def repository(tmp_path):
  """A small git repository with the launch scripts, for those that write beside the code."""
  folder = tmp_path / 'repository'
  shutil.copytree(ROOT / 'launch', folder / 'launch')
  (folder / '.gitignore').write_text('runs/\n')
  for command in ('init -q', 'add .', '-c user.name=a -c user.email=a@b commit -q -m code'):
    subprocess.run(['git', *command.split()], cwd=folder, check=True)
  return folder
