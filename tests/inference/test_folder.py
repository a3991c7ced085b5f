"""Tables of predictions, and which files they are of."""

import csv
import glob
import io
import json
import os

import pytest

from basisnet_jax import photos
from basisnet_jax.errors import UserError
from basisnet_jax.inference import folder
from basisnet_jax.inference.prediction import Prediction

ANSWERS = [
  ('a, b.jpg', Prediction(('köter', 'cat "x"'), (0.75, 0.2), 'lightweight', 0.75, 10)),
  ('broken.jpg', UserError('broken.jpg: not readable.')),
  ('c.jpg', Prediction(('cat "x"', 'köter'), (1 / 3, 0.25), 'specialist', 0.5, 100)),
]


def written(suffix):
  file, seen = io.StringIO(), []
  total = folder.write(ANSWERS, file, suffix, 2, seen.append)
  assert total == (2, 1, 110, ['broken.jpg: not readable.'])
  assert seen == [1, 2, 3]
  return file.getvalue()


def test_csv():
  rows = list(csv.DictReader(io.StringIO(written('.csv'))))
  assert [row['file'] for row in rows] == ['a, b.jpg', 'c.jpg']
  assert rows[0] == {
    'file': 'a, b.jpg', 'stage': 'lightweight', 'confidence': '0.75', 'madds': '10',
    'label_1': 'köter', 'probability_1': '0.75', 'label_2': 'cat "x"', 'probability_2': '0.2',
  }  # fmt: skip
  assert rows[1]['probability_1'] == '0.333333'


def test_json_lines():
  rows = [json.loads(line) for line in written('.jsonl').splitlines()]
  assert rows[1] == {
    'file': 'c.jpg', 'labels': ['cat "x"', 'köter'], 'probabilities': [0.333333, 0.25],
    'stage': 'specialist', 'confidence': 0.5, 'madds': 100,
  }  # fmt: skip


@pytest.mark.parametrize('name', ['a\nb', 'a\rb', 'a\r\nb', '"', ',', "'", ' a ', '日本', '\x01'])
@pytest.mark.parametrize('suffix', folder.FORMATS)
def test_names_of_all_kinds_are_read_as_they_were(tmp_path, name, suffix):
  answers = [(name, ANSWERS[0][1]), ('next', ANSWERS[0][1])]
  with open(tmp_path / 'table', 'w', encoding='utf-8') as file:
    folder.write(answers, file, suffix, 2, lambda count: None)
  with open(tmp_path / 'table', newline='', encoding='utf-8') as file:
    rows = list(csv.DictReader(file) if suffix == '.csv' else map(json.loads, file))
  assert [row['file'] for row in rows] == [name, 'next']


@pytest.mark.parametrize('suffix', folder.FORMATS)
def test_a_name_that_is_not_utf_8_is_told_in_utf_8(tmp_path, suffix):
  (tmp_path / os.fsdecode(b'\xff.png')).touch()
  (path,) = folder.files(str(tmp_path))
  with open(tmp_path / 'table', 'w', encoding='utf-8') as file:
    folder.write([(path, ANSWERS[0][1])], file, suffix, 2, lambda count: None)
  found = (tmp_path / 'table').read_text('utf-8')
  assert {'.csv': r'\udcff.png', '.jsonl': r'\\udcff.png'}[suffix] in found


def test_files_of_a_folder_a_pattern_or_one(tmp_path):
  for name in ('b.JPG', 'a.webp', 'deep/er/c.png', 'notes.txt', '.hidden.jpg', 'x[1].png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()

  def found(pattern):
    return [path.removeprefix(f'{tmp_path}/') for path in folder.files(str(tmp_path / pattern))]

  assert found('.') == ['a.webp', 'b.JPG', 'deep/er/c.png', 'x[1].png']
  assert found('*.txt') == ['notes.txt']
  assert found('**/*.png') == ['deep/er/c.png', 'x[1].png']
  assert found('x[1].png') == ['x[1].png']


def test_what_is_no_file_is_left_out_and_a_link_to_nothing_is_not(tmp_path):
  os.mkfifo(tmp_path / 'pipe.png')
  (tmp_path / 'folder.png').mkdir()
  (tmp_path / 'folder.png' / 'a.png').touch()
  (tmp_path / 'round.png').symlink_to('round.png')
  (tmp_path / 'nowhere.png').symlink_to('nothing')
  found = [path.removeprefix(f'{tmp_path}/') for path in folder.files(str(tmp_path))]
  assert found == ['folder.png/a.png', 'nowhere.png', 'round.png']


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path, monkeypatch):
  for name in ('elsewhere/1.png', 'photos/cat/2.png', 'photos/.hidden/3.png', 'photos/[x]/4.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  photos = tmp_path / 'photos'
  (photos / 'dog').symlink_to('../elsewhere')
  for name in ('up', 'again'):
    (photos / 'cat' / name).symlink_to('..')
    (photos / name).symlink_to('.')
  (photos / 'cat' / 'here').symlink_to('../cat')
  monkeypatch.chdir(tmp_path)
  shown = ['photos/[x]/4.png', 'photos/cat/2.png', 'photos/dog/1.png']
  assert folder.files('photos') == sorted(['photos/.hidden/3.png', *shown])
  for pattern in ('photos/**/*.png', '**/*.png', 'ph*s/**', '**/photos/**/*.png'):
    assert [path for path in folder.files(pattern) if path.startswith('photos/')] == shown
  assert folder.files('**/*.png') == ['elsewhere/1.png', *shown]
  monkeypatch.chdir(photos)
  assert folder.files('.') == ['.hidden/3.png', '[x]/4.png', 'cat/2.png', 'dog/1.png']
  assert folder.files('**/*.png') == ['[x]/4.png', 'cat/2.png', 'dog/1.png']


@pytest.fixture(params=['nobody may list it', 'nobody may enter it'])
def close(request, monkeypatch):
  """`close(folder)` for whoever runs the tests: root may look into all of them."""
  listdir, access = os.listdir, os.access

  def close(closed):
    def list_it(path):
      if request.param == 'nobody may list it' and os.path.samefile(path, closed):
        raise PermissionError(13, 'Permission denied', path)
      return listdir(path)

    def may(path, mode):
      return not os.path.samefile(path, closed) and access(path, mode)

    monkeypatch.setattr(os, 'listdir', list_it)
    monkeypatch.setattr(os, 'access', may)

  return close


def test_a_folder_that_cannot_be_looked_into_is_there_to_be_told_of(tmp_path, close, monkeypatch):
  for name in ('open/1.png', 'closed/2.png', 'closed/deeper/3.png'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  close(tmp_path / 'closed')
  wanted = [str(tmp_path / name) for name in ('closed', 'open/1.png')]
  assert folder.files(str(tmp_path)) == wanted
  for pattern in ('**/*.png', '*/*.png', '*/1.png', '*/**/1.png'):
    assert folder.files(f'{tmp_path}/{pattern}') == wanted
  monkeypatch.chdir(tmp_path)
  for pattern in ('.', '**'):
    assert folder.files(pattern) == ['closed', 'open/1.png']
  with pytest.raises(UserError, match=f'^{wanted[0]}: a folder; .* the right to look into it'):
    photos.read(wanted[0])


def test_nothing_to_predict_where_nobody_may_look(tmp_path, close):
  (tmp_path / 'closed').mkdir()
  (tmp_path / 'closed' / '1.png').touch()
  close(tmp_path / 'closed')
  for pattern in ('closed', '.', '**/*.png', '*/*.png', 'c*/1.png'):
    with pytest.raises(UserError, match='as far as one can look: .*closed is not yours to read'):
      folder.files(str(tmp_path / pattern))


@pytest.mark.parametrize('pattern', ['**', '**/*', 'a/**/*.png', '**/b/**', 'a*/**/?.*', '**/x**'])
def test_patterns_are_those_of_glob(tmp_path, monkeypatch, pattern):
  for name in ('1.png', 'a/2.png', 'a/b/3.png', 'a/b/c/b/4.jpg', 'a/.c/5.png', 'a/.6', 'x**/x'):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  monkeypatch.chdir(tmp_path)
  wanted = {path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path)}
  assert wanted and folder.files(pattern) == sorted(wanted)
  there = str(tmp_path / pattern)
  assert folder.files(there) == sorted(str(tmp_path / path) for path in wanted)


def test_kinds_that_are_not_read_are_not_passed_over(tmp_path):
  for name in ('a.heic', 'b.HEIF', 'c.avif', 'd.jp2', 'e.ppm', 'f.doc'):
    (tmp_path / name).touch()
  found = [path.removeprefix(f'{tmp_path}/') for path in folder.files(str(tmp_path))]
  assert found == ['a.heic', 'b.HEIF', 'c.avif', 'd.jp2', 'e.ppm']


def test_nothing_to_predict_and_nowhere_to_write(tmp_path):
  with pytest.raises(UserError, match=r'no images \(.jpg, .*\) in the folder'):
    folder.files(str(tmp_path))
  with pytest.raises(UserError, match='no such folder, and no files fit it') as refused:
    folder.files(str(tmp_path / 'no*where'))
  assert str(refused.value).endswith(
    "; give a folder of images, a pattern such as 'photos/*.jpg', or a file."
  )
  with pytest.raises(UserError, match='the name ends in .csv or .jsonl'):
    folder.check_output('out.txt')
