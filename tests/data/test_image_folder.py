"""Folders of photos as a dataset: what a person's photos are like, and their mistakes."""

import io
import os
import re

import numpy as np
from PIL import Image
import pytest

from basisnet_jax import data
from basisnet_jax.data import image_folder
from basisnet_jax.errors import UserError


def photo(path, size=(40, 30), mode='RGB', colour=(200, 30, 10), **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new('RGB', size, colour).convert(mode).save(path, **options)
  return path


@pytest.fixture
def root(tmp_path):
  root = tmp_path / 'pets'
  for split, count in (('train', 5), ('validation', 2)):
    for name, colour in (('cat', (200, 30, 10)), ('dog', (10, 30, 200))):
      for i in range(count):
        photo(root / split / name / f'{i}.png', colour=colour)
  return root


def open_folder(root):
  return data.open_dataset(str(root), str(root.parent / 'data'))


def decoded(path):
  with Image.open(io.BytesIO(image_folder.encode(path))) as image:
    return np.asarray(image), image.format


def test_splits_and_classes_are_the_folders(root):
  dataset = open_folder(root)
  assert dataset.splits == {'train': 10, 'validation': 4}
  assert dataset.label_names == ('cat', 'dog')


def test_hidden_folders_are_no_classes(root):
  photo(root / 'train' / '.ipynb_checkpoints' / '0-checkpoint.png')
  photo(root / 'validation' / '.thumbnails' / '0.png')
  dataset = open_folder(root)
  assert dataset.splits == {'train': 10, 'validation': 4}
  assert dataset.label_names == ('cat', 'dog')


def test_photos_in_folders_within_those_of_classes_are_told(root, capsys):
  photo(root / 'train' / 'cat' / 'old' / 'more' / '0.png')
  photo(root / 'train' / 'cat' / '.thumbnails' / '0.png')
  assert open_folder(root).splits == {'train': 10, 'validation': 4}
  told = ' '.join(capsys.readouterr().out.split())
  assert 'Left out 1 photo in folders within those of the classes' in told
  assert 'train/cat/old/more/0.png' in told and 'thumbnails' not in told


def test_each_photo_comes_with_the_label_of_its_folder(root):
  batches = data.eval_batches(
    open_folder(root), split='validation', batch_size=4, resolution=8, eval_crop=1.0
  )
  (batch,) = batches
  colours = batch['image'].mean((1, 2))
  np.testing.assert_array_equal(colours[:, 2] > colours[:, 0], batch['label'] == 1)


def test_photos_are_written_once_and_anew_when_they_change(root, capfd):
  first = open_folder(root).builder.data_path
  said, bars = capfd.readouterr()
  assert re.fullmatch(r'Copying 14 photos into \S+/data/pets-\w+, once\.\n', said)
  assert not bars  # Of TFDS, which are for terminals.
  assert open_folder(root).builder.data_path == first
  assert capfd.readouterr() == ('', '')
  photo(root / 'train' / 'cat' / 'new.png')
  changed = open_folder(root)
  assert changed.builder.data_path != first
  assert changed.splits['train'] == 11


def test_usual_photo_keeps_its_bytes(tmp_path):
  path = photo(tmp_path / 'a.jpg')
  assert image_folder.encode(path) == path.read_bytes()


def test_photo_that_lies_on_its_side_is_turned_upright(tmp_path):
  image = Image.new('RGB', (40, 20), 'black')
  image.paste('white', (0, 0, 20, 20))  # The left half.
  exif = Image.Exif()
  exif[0x0112] = 6  # The camera was held upright: turn clockwise to see it so.
  image.save(tmp_path / 'a.jpg', exif=exif)
  pixels, _ = decoded(tmp_path / 'a.jpg')
  assert pixels.shape == (40, 20, 3)
  assert pixels[:15].mean() > 240 and pixels[25:].mean() < 15


def test_giant_photo_is_shrunk_in_proportion(tmp_path):
  pixels, _ = decoded(photo(tmp_path / 'a.jpg', (2000, 1280)))
  assert pixels.shape == (640, 1000, 3)


@pytest.mark.parametrize(
  ('name', 'mode'), [('a.jpg', 'CMYK'), ('a.png', 'I;16'), ('a.png', 'P'), ('a.webp', 'RGB')]
)
def test_unusual_photo_becomes_an_rgb_jpeg(name, mode, tmp_path):
  path = tmp_path / name
  image = Image.new('RGB', (40, 30), (200, 30, 10))
  if mode == 'I;16':
    image = Image.fromarray(np.full((30, 40), 30000, np.uint16))
  (image if mode == 'I;16' else image.convert(mode)).save(path)
  pixels, kind = decoded(path)
  assert kind == 'JPEG' and pixels.shape == (30, 40, 3)
  expected = (30000 // 256,) * 3 if mode == 'I;16' else (200, 30, 10)
  np.testing.assert_allclose(pixels.mean((0, 1)), expected, atol=4)


def test_transparent_becomes_white(tmp_path):
  Image.new('RGBA', (20, 20), (0, 0, 0, 0)).save(tmp_path / 'a.png')
  Image.new('RGB', (20, 20), 'red').save(tmp_path / 'b.png', transparency=(255, 0, 0))
  for name in ('a.png', 'b.png'):
    assert decoded(tmp_path / name)[0].min() > 250


def test_unreadable_photos_are_left_out_and_named(root, capsys):
  (root / 'train' / 'cat' / 'empty.jpg').touch()
  whole = photo(root / 'train' / 'dog' / 'whole.jpg', (300, 300)).read_bytes()
  (root / 'train' / 'dog' / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
  (root / 'train' / 'dog' / 'notes.txt').write_text('not a photo, and not taken for one')
  (root / 'train' / 'dog' / 'phone.HEIC').write_bytes(b'\0\0\0\x18ftypheic\0\0\0\0mif1heic')
  photo(root / 'train' / 'dog' / 'new.avif')
  assert open_folder(root).splits['train'] == 12
  said = capsys.readouterr().out
  assert 'Left out 3 photos that could not be read' in said and 'cut.jpg' in said
  assert 'empty.jpg (not an image of a kind that is known)' in said
  assert 'phone.HEIC (HEIC is not read; convert it to JPEG)' in said


def test_a_link_to_nowhere_is_left_out_and_named(root, capsys):
  (root / 'train' / 'cat' / 'moved.jpg').symlink_to(root / 'gone.jpg')
  assert open_folder(root).splits['train'] == 10
  assert 'cat/moved.jpg ([Errno 2] No such file' in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['EPS', 'TGA'])
def test_a_file_of_another_kind_than_photos_is_not_even_opened(tmp_path, kind):
  Image.new('RGB', (64, 48)).save(tmp_path / 'a.jpg', kind)
  with pytest.raises(ValueError, match='^not an image of a kind that is known$'):
    image_folder.encode(tmp_path / 'a.jpg')


def test_photos_whose_names_are_not_utf_8_are_read(root, capsys):
  folder = root / 'train' / 'cat'
  (folder / '0.png').rename(folder / os.fsdecode(b'gr\xf6n.png'))
  (folder / os.fsdecode(b'gr\xfcn.png')).touch()
  assert open_folder(root).splits['train'] == 10
  assert 'gr\\udcfcn.png (not an image' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['two\nlines', 'two\u2028lines', os.fsdecode(b'gr\xf6n')])
def test_a_class_whose_name_is_no_line_of_text_is_refused(root, name):
  photo(root / 'train' / name / '1.png')
  with pytest.raises(UserError) as refused:
    open_folder(root)
  assert f'{name!r} cannot be the name of a class' in str(refused.value)


def test_one_class_is_refused(tmp_path):
  photo(tmp_path / 'a' / 'train' / 'cat' / '1.png')
  with pytest.raises(
    UserError, match=r'photos of less than two classes \(cat\); put those of each class'
  ):
    open_folder(tmp_path / 'a')


def test_class_that_training_never_sees_is_refused(root):
  photo(root / 'validation' / 'cats' / '1.png')
  with pytest.raises(UserError, match=r'classes that train/ has not \(cats\)'):
    open_folder(root)


def test_folder_without_train_is_told_what_it_lacks(root):
  with pytest.raises(UserError, match='is a folder, but has no train/ in it'):
    open_folder(root / 'validation')


def test_a_folder_that_is_not_there_is_told(root):
  with pytest.raises(UserError, match='/petz is no folder: name one that has photos'):
    open_folder(root.with_name('petz'))


def test_a_name_is_the_dataset_and_a_path_the_folder_of_the_same_name(root, monkeypatch, capsys):
  monkeypatch.chdir(root.parent)
  root.rename('digits')
  for _ in range(2):  # Prepared or not.
    assert data.open_dataset('digits', 'data').num_classes == 10
    assert capsys.readouterr().out == (
      "data.name='digits' is the dataset of that name; the photos in the folder digits are "
      "data.name='./digits'.\n"
    )
  assert data.open_dataset('./digits', 'data').label_names == ('cat', 'dog')
  (root.parent / 'digits').rename('pets')
  assert data.open_dataset('pets', 'data').label_names == ('cat', 'dog')
  assert 'is the dataset' not in capsys.readouterr().out


def test_a_path_is_a_folder_in_the_format_of_tfds_too(root, monkeypatch):
  monkeypatch.chdir(root.parent)
  data.open_dataset('digits', 'elsewhere')
  assert data.open_dataset('./elsewhere/digits', 'data').num_classes == 10
