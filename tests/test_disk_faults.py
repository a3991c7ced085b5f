"""Disks that are full or read-only, really: small file systems of a namespace of their own."""

import contextlib
import pathlib
import shutil
import subprocess

import forks
import numpy as np
import pytest
import running

COMMAND = ['--config=tests/tiny.py', '--config.training.steps=40']


@pytest.fixture(scope='module')
def namespace():
  """A server in it; skips where the kernel does not let this user mount there."""
  tried = subprocess.run(['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', '/tmp'])
  if tried.returncode:
    pytest.skip('unshare -rm is not permitted here: no file systems of our own')
  with contextlib.closing(forks.Server('unshare', '-rm')) as server:
    yield server


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_flag, namespace):
  """The workdir of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('whole')
  code, _, err = run(namespace, data_flag, f'--workdir={workdir}')
  assert code == 0, err
  return workdir


def mount(namespace, *arguments):
  entered = ['nsenter', f'--target={namespace.pid}', '--user', '--mount', '--preserve-credentials']
  subprocess.run([*entered, 'mount', *map(str, arguments)], check=True)


def run(namespace, *flags):
  """Runs the program there: (exit code, stdout, stderr)."""
  (_, *program), environment = running.command(*COMMAND, *flags)
  process = namespace.start(*program, cwd=running.ROOT, env=environment)
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def assert_one_sentence(code, err, sentence):
  assert code == 2, err
  assert 'Traceback' not in err and 'never' not in err
  assert sentence in err.splitlines()[-1]


def test_run_whose_disk_is_full_again_and_again_ends_like_the_undisturbed(
  tmp_path, data_flag, namespace, whole
):
  workdir = tmp_path / 'disk' / 'run'
  there = pathlib.Path(f'/proc/{namespace.pid}/root{workdir}')  # As it is seen from here.
  workdir.parent.mkdir()
  mount(namespace, '-t', 'tmpfs', '-o', 'size=4k', 'none', workdir.parent)
  # At 8 kB in config.json, at 24 in the curves, at 130 in the first save, at 500 in a later one.
  for size in (8, 24, 130, 500):
    mount(namespace, '-o', f'remount,size={size}k', workdir.parent)
    code, _, err = run(namespace, data_flag, f'--workdir={workdir}')
    assert_one_sentence(code, err, 'No space left on device')
    assert str(workdir) in err.splitlines()[-1]
  assert 10 in running.checkpoints(there)  # It went on from there.
  mount(namespace, '-o', 'remount,size=65536k', workdir.parent)
  code, _, err = run(namespace, data_flag, f'--workdir={workdir}')
  assert code == 0, err
  found, expected = running.arrays(there, 40), running.arrays(whole, 40)
  assert found.keys() == expected.keys()
  for path, value in expected.items():
    np.testing.assert_array_equal(found[path], value, err_msg=path)
  assert running.evaluation(there) == running.evaluation(whole)


def content(folder):
  return {path: path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.mark.parametrize(
  ('part', 'mode', 'sentence'),
  [
    ('', 'train', '.lock cannot be written or read (Read-only file system'),
    ('/checkpoints', 'train', 'could not be saved in {run}/checkpoints ([Errno 30] Read-only'),
    ('', 'evaluate', 'evaluation.json.unfinished cannot be written or read (Read-only file'),
    ('', 'cost', 'cost.json.unfinished cannot be written or read (Read-only file system'),
  ],
)
def test_read_only_disk_is_one_clear_sentence_and_nothing_is_lost(
  tmp_path, data_flag, namespace, whole, part, mode, sentence
):
  workdir = pathlib.Path(shutil.copytree(whole, tmp_path / 'run'))
  shutil.rmtree(workdir / 'checkpoints' / '40')
  before = content(workdir / 'checkpoints')
  disk = f'{workdir}{part}'
  mount(namespace, '--bind', disk, disk)
  mount(namespace, '-o', 'remount,bind,ro', disk)
  code, out, err = run(namespace, data_flag, f'--workdir={workdir}', f'--mode={mode}')
  assert_one_sentence(code, err, sentence.format(run=workdir))
  assert content(workdir / 'checkpoints') == before
  if mode == 'evaluate':  # The work was not for nothing.
    assert 'early termination at 0.7' in out


def test_workdir_that_is_a_file_is_one_clear_sentence(tmp_path, data_flag, namespace):
  (tmp_path / 'run').write_text('')
  code, _, err = run(namespace, data_flag, f'--workdir={tmp_path}/run')
  assert code == 2 and 'Traceback' not in err
  assert f'{tmp_path}/run' in err.splitlines()[-1] and (tmp_path / 'run').is_file()
