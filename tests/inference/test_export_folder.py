"""A folder of an export is the earlier one, the new one, or none; never some of both."""

import errno

from etils import epath
import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.inference import export_folder

NAMES = ('README.md', 'run.py', 'model.json', 'preview.onnx', 'triton/preview/1/model.onnx')
PROGRAMS = {NAMES[3]: 'onnx', NAMES[4]: 'triton'}
LOCAL = type(epath.Path('/'))


def files(text):
  return {name: f'{export_folder.TITLE} {name} {text}' for name in NAMES}


def found(folder):
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


def check(folder):
  every = PROGRAMS | {'network.onnx': 'onnx', 'model.tflite': 'tflite'}
  export_folder.check(str(folder), PROGRAMS, every)


class Killed(BaseException):
  pass


def test_killed_at_any_moment_it_is_the_one_the_other_or_none(tmp_path, monkeypatch):
  export_folder.write(tmp_path, files('before'))
  calls = [0]

  def counted(name):
    run = getattr(LOCAL, name)

    def call(self, *arguments, **options):
      calls[0] += 1
      if calls[0] > moment:
        raise Killed
      return run(self, *arguments, **options)

    monkeypatch.setattr(LOCAL, name, call)

  for name in ('write_bytes', 'unlink', 'replace', 'mkdir'):
    counted(name)
  moment, seen = 0, set()
  while True:
    calls[0] = 0
    try:
      export_folder.write(tmp_path, files(str(moment)))
    except Killed:
      seen.add((tmp_path / 'model.json').exists())
      if (tmp_path / 'model.json').exists():
        (text,) = {content.split()[-1] for content in found(tmp_path).values()}
        assert text == 'before'
    else:
      break
    finally:
      moment += 1
    calls[0] = -1000
    check(tmp_path)  # It may be exported to again.
    export_folder.write(tmp_path, files('before'))
    assert found(tmp_path) == files('before')
  assert moment > 15 and seen == {True, False}
  assert found(tmp_path) == files(str(moment - 1))


def test_what_a_killed_export_left_goes(tmp_path):
  (tmp_path / 'unfinished').mkdir()
  (tmp_path / 'unfinished' / 'preview.onnx').write_text('half')
  check(tmp_path)
  export_folder.write(tmp_path, files('new'))
  assert found(tmp_path) == files('new')


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
  export_folder.write(tmp_path, files('before'))

  def full(self, data):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(LOCAL, 'write_bytes', full)
  with pytest.raises(UserError, match=f'--output={tmp_path} cannot be written .No space left'):
    export_folder.write(tmp_path, files('new'))
  assert found(tmp_path) == files('before')
  assert not (tmp_path / 'unfinished').exists()


def test_a_new_folder_and_one_of_an_earlier_export_will_do(tmp_path):
  check(tmp_path / 'new' / 'folder')
  assert not (tmp_path / 'new').exists()
  export_folder.write(tmp_path / 'new' / 'folder', files('new'))
  check(tmp_path / 'new' / 'folder')


@pytest.mark.parametrize('name', ['README.md', 'run.py', 'model.json'])
def test_files_of_nobody_knows_whom_are_not_replaced(tmp_path, name):
  for content in ('mine', 'maïs'):
    (tmp_path / name).write_text(content, 'latin-1')
    with pytest.raises(
      UserError, match=f'no export wrote its {name}, which this one would replace'
    ):
      check(tmp_path)


def test_programs_of_another_export_do_not_stay_beside_the_new_ones(tmp_path):
  export_folder.write(tmp_path, files('before') | {'model.tflite': b'x', 'notes.txt': ''})
  with pytest.raises(UserError, match='model.tflite of an earlier .*--format=onnx,triton,tflite'):
    check(tmp_path)


def test_no_format_is_said_to_mend_what_a_network_of_other_stages_left(tmp_path):
  export_folder.write(tmp_path, files('before') | {'network.onnx': b'x'})
  with pytest.raises(UserError, match=r'network.onnx of an earlier .*; name a new folder\.$'):
    check(tmp_path)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
  (tmp_path / 'file').touch()
  with pytest.raises(UserError, match=f'{tmp_path}/file is a file; name a folder'):
    check(tmp_path / 'file' / 'export')
  # As root, which may write anywhere.
  monkeypatch.setattr(export_folder.os, 'access', lambda path, mode: False)
  with pytest.raises(UserError, match=f'cannot be written: {tmp_path} is not yours to write in'):
    check(tmp_path / 'export')
