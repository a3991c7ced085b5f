"""Disks that are full or read-only, really: small file systems of a namespace of their own."""

import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import test_main

COMMAND = ['--config=tests/tiny.py', '--config.training.steps=40']


@pytest.fixture(scope='module', autouse=True)
def namespaces():
  """Skips where the kernel does not let this user mount in a namespace."""
  tried = subprocess.run(['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', '/tmp'])
  if tried.returncode:
    pytest.skip('unshare -rm is not permitted here: no file systems of our own')


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_flag):
  """The workdir of an undisturbed run."""
  workdir = tmp_path_factory.mktemp('whole')
  test_main.run_well(*COMMAND, data_flag, f'--workdir={workdir}')
  return workdir


def in_namespace(script, tmp_path, *flags):
  """Runs a script that has `run NAME`: the program, whose code and errors go to tmp_path/NAME."""
  command, environment = test_main.command(*COMMAND, *flags)
  run = 'run() { code=0; "$@" >"$OUT/$NAME.out" 2>"$OUT/$NAME.err" || code=$?; '
  run += 'echo $code >"$OUT/$NAME.code"; }'
  subprocess.run(
    ['unshare', '-rm', 'bash', '-euc', f'{run}\n{script}', 'bash', *command],
    cwd=test_main.ROOT,
    env=environment | {'OUT': str(tmp_path)},
    check=True,
    timeout=300,
  )


def outcome(tmp_path, name):
  return int((tmp_path / f'{name}.code').read_text()), (tmp_path / f'{name}.err').read_text()


def assert_one_sentence(tmp_path, name, sentence):
  code, text = outcome(tmp_path, name)
  assert code == 2, text
  assert 'Traceback' not in text and 'never' not in text
  assert sentence in text.splitlines()[-1]


def test_run_whose_disk_is_full_again_and_again_ends_like_the_undisturbed(
  tmp_path, data_flag, whole
):
  # At 8 kB in config.json, at 24 in the curves, at 130 in the first save, at 500 in a later one.
  sizes = (8, 24, 130, 500)
  script = 'mkdir -p "$OUT/disk"; mount -t tmpfs -o size=4k none "$OUT/disk"\n'
  for size in (*sizes, 65536):
    script += f'mount -o remount,size={size}k "$OUT/disk"; NAME={size} run "$@"\n'
    script += f'ls "$OUT/disk/run/checkpoints" >"$OUT/{size}.steps" 2>/dev/null || true\n'
  script += 'cp -r "$OUT/disk/run" "$OUT/kept"'
  in_namespace(script, tmp_path, data_flag, f'--workdir={tmp_path}/disk/run')
  for size in sizes:
    assert_one_sentence(tmp_path, str(size), 'No space left on device')
    assert f'{tmp_path}/disk/run' in outcome(tmp_path, str(size))[1].splitlines()[-1]
  assert '10\n' in (tmp_path / '500.steps').read_text()  # It went on from there.
  code, text = outcome(tmp_path, '65536')
  assert code == 0, text
  found, expected = (test_main.arrays(workdir, 40) for workdir in (tmp_path / 'kept', whole))
  assert found.keys() == expected.keys()
  for path, value in expected.items():
    np.testing.assert_array_equal(found[path], value, err_msg=path)
  assert test_main.evaluation(tmp_path / 'kept') == test_main.evaluation(whole)


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
  tmp_path, data_flag, whole, part, mode, sentence
):
  run = pathlib.Path(shutil.copytree(whole, tmp_path / 'run'))
  shutil.rmtree(run / 'checkpoints' / '40')
  before = content(run / 'checkpoints')
  script = f'mount --bind {run}{part} {run}{part}; mount -o remount,bind,ro {run}{part}\n'
  script += 'NAME=it run "$@"'
  in_namespace(script, tmp_path, data_flag, f'--workdir={run}', f'--mode={mode}')
  assert_one_sentence(tmp_path, 'it', sentence.format(run=run))
  assert content(run / 'checkpoints') == before
  if mode == 'evaluate':  # The work was not for nothing.
    assert 'early termination at 0.7' in (tmp_path / 'it.out').read_text()


def test_workdir_that_is_a_file_is_one_clear_sentence(tmp_path, data_flag):
  (tmp_path / 'run').write_text('')
  code, _, err = test_main.run(*COMMAND, data_flag, f'--workdir={tmp_path}/run')
  assert code == 2 and 'Traceback' not in err
  assert f'{tmp_path}/run' in err.splitlines()[-1] and os.path.isfile(tmp_path / 'run')
