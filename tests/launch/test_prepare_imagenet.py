"""ImageNet's preparation, on tars of a few images; TFDS's own builder is the judge."""

import io
import json
import os
import pathlib
import shutil
import tarfile

import forks
import PIL.Image
import prepare_imagenet
import pytest
from tiny_imagenet import (
  CLASSES,
  EXPECTED,
  FILES,
  ODD,
  tar_of,
  training_tar,
  validation_tar,
  write_tars,
)

from basisnet_jax import data
from basisnet_jax.data.quiet_tensorflow import tf, tfds
from basisnet_jax.errors import UserError

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch'


@pytest.fixture(scope='module')
def tars(tmp_path_factory):
  return write_tars(tmp_path_factory.mktemp('tars'))


def contents(data_dir):
  """{file of records: bytes}"""
  folder = data_dir / 'imagenet2012' / '5.1.0'
  return {path.name: path.read_bytes() for path in folder.glob('*.tfrecord-*')}


def records(data_dir):
  """{file of records: examples}; in what order protobuf writes their features does not matter."""
  folder = data_dir / 'imagenet2012' / '5.1.0'
  return {
    name: [
      tf.train.Example.FromString(record.numpy())
      for record in tf.data.TFRecordDataset(str(folder / name))
    ]
    for name in contents(data_dir)
  }


@pytest.fixture(scope='module')
def undisturbed(tars, tmp_path_factory):
  """The data_dir of a preparation without accidents."""
  data_dir = tmp_path_factory.mktemp('undisturbed')
  prepare_imagenet.prepare(tars, str(data_dir), EXPECTED)
  return data_dir


@pytest.fixture(scope='module')
def of_tfds(tars, tmp_path_factory):
  """The data_dir that TFDS itself writes."""
  data_dir = tmp_path_factory.mktemp('tfds')
  tfds.builder('imagenet2012', data_dir=data_dir).download_and_prepare(
    download_config=tfds.download.DownloadConfig(manual_dir=tars, num_shards=FILES),
  )
  return data_dir


def test_all_files_are_those_of_tfds(tars, tmp_path, of_tfds, capsys):
  prepare_imagenet.prepare(tars, str(tmp_path), EXPECTED)
  said = capsys.readouterr()
  assert '5.1.0 is ready: 42 images in train, 11 images in validation.' in said.out
  assert 'reading validation 100%  11/11' in said.err
  folder, wanted = (d / 'imagenet2012' / '5.1.0' for d in (tmp_path, of_tfds))
  assert {p.name for p in folder.iterdir()} == {p.name for p in wanted.iterdir()}
  assert len(records(tmp_path)) == 2 * FILES
  assert records(tmp_path) == records(of_tfds)
  for name in ('features.json', 'label.labels.txt'):
    assert (folder / name).read_bytes() == (wanted / name).read_bytes()
  found, info = (json.loads((d / 'dataset_info.json').read_text()) for d in (folder, wanted))
  assert found['splits'] == info['splits']
  assert found.keys() == info.keys()
  assert [p.name for p in folder.parent.iterdir()] == ['5.1.0']

  prepare_imagenet.prepare(tars, str(tmp_path), EXPECTED)
  assert capsys.readouterr().out.endswith('is prepared already.\n')


def test_odd_images_are_jpegs_in_rgb_and_labels_follow_names(undisturbed):
  dataset = data.open_dataset('imagenet2012', str(undisturbed))
  assert dataset.num_classes == 1000
  train = {}
  for example in dataset.builder.as_dataset(
    'train', decoders={'image': tfds.decode.SkipDecoding()}
  ):
    name = example['file_name'].numpy().decode()
    train[name] = example['image'].numpy()
    assert dataset.label_names[int(example['label'])] == name.split('_')[0]
  assert len(train) == 42
  for name in ODD:
    picture = PIL.Image.open(io.BytesIO(train[name]))
    assert (picture.format, picture.mode) == ('JPEG', 'RGB')
  first = next(
    example
    for example in dataset.builder.as_dataset('validation')
    if example['file_name'] == b'ILSVRC2012_val_00000001.JPEG'
  )
  assert dataset.label_names[int(first['label'])] == 'n01751748'  # A sea snake: known.


DRIVER = """
import sys, time
import imagenet_records, imagenet_tars, prepare_imagenet
write, find, check = imagenet_records.write_file, imagenet_tars.places, imagenet_records._problem
def slow(function):
  return lambda *arguments: (time.sleep(0.1), function(*arguments))[1]
imagenet_records.write_file = slow(write)
imagenet_records._problem = slow(check)
expected = imagenet_tars.Expected(*map(eval, sys.argv[3:]))
prepare_imagenet.prepare(sys.argv[1], sys.argv[2], expected)
"""


def start(tars, data_dir):
  """A process that prepares, one file in a tenth of a second."""
  expected = map(repr, (EXPECTED.classes, EXPECTED.images, EXPECTED.files))
  return forks.start('-c', DRIVER, tars, data_dir, *expected, cwd=LAUNCH, env=os.environ)


def test_killed_at_any_time_it_goes_on_with_what_is_missing(tars, tmp_path, undisturbed):
  folder = tmp_path / 'imagenet2012' / '5.1.0'

  def whole():
    """The files that are complete, with what tells whether they were written again."""
    return {
      path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
      for path in folder.glob('*.tfrecord-*-of-*')
      if path.suffix != '.tmp'
    }

  forks.kill_when(start(tars, tmp_path), lambda: len(whole()) >= 3)
  first = whole()
  assert 3 <= len(first) < FILES
  index = tmp_path / 'imagenet2012' / '5.1.0.preparing' / 'train.npz'
  indexed = index.stat().st_mtime_ns
  # In the last phase: all is written, but not read again.
  forks.kill_when(start(tars, tmp_path), lambda: len(whole()) == 2 * FILES)
  second = whole()
  assert index.stat().st_mtime_ns == indexed
  assert not (folder / 'dataset_info.json').exists()
  process = start(tars, tmp_path)
  _, said = process.communicate(timeout=120)
  assert process.returncode == 0, said
  last = whole()
  assert first.items() <= second.items() == last.items()
  assert contents(tmp_path) == contents(undisturbed)
  assert data.open_dataset('imagenet2012', str(tmp_path)).splits == EXPECTED.images


def test_command_wants_the_whole_of_imagenet_and_says_so_in_a_sentence(tars, tmp_path):
  command = [LAUNCH / 'prepare_imagenet.py', f'--tars={tars}', f'--data_dir={tmp_path}']
  ended = forks.start(*command, cwd=LAUNCH, env=os.environ)
  _, err = ended.communicate(timeout=120)
  assert ended.returncode == 2
  *shown, sentence = err.splitlines()
  assert all(line.startswith('checking train') for line in shown)
  assert sentence.startswith(f'{tars}/ILSVRC2012_img_train.tar has 3 classes, not 1,000; ')
  assert not contents(tmp_path)


def without_the_end(content):
  """The last image is whole, but the two blocks of zeros are gone (and what fills up)."""
  with tarfile.open(fileobj=io.BytesIO(content)) as tar:
    last = tar.getmembers()[-1]
  return content[: last.offset_data + -(-last.size // 512) * 512]


def with_a_cut_class():
  with tarfile.open(fileobj=io.BytesIO(training_tar())) as tar:
    classes = [(name, tar.extractfile(name).read()) for name in tar.getnames()]
  (name, content), *others = classes
  return tar_of([(name, content[:4000]), *others])


@pytest.mark.parametrize(
  'changed, sentence',
  [
    (lambda: {'train': b''}, 'ILSVRC2012_img_train.tar is empty; fetch it again'),
    (lambda: {'train': training_tar()[:30_000]}, r'train.tar is damaged at byte 30,000 \(unexp'),
    (lambda: {'train': without_the_end(training_tar())}, 'damaged .*the end of the archive is mis'),
    (lambda: {'train': with_a_cut_class()}, r'damaged at byte 4,512 \(it stops within'),
    (lambda: {'train': b'\0' * 99_999}, 'train.tar has 0 classes, not 3'),
    (lambda: {'train': b'<html>' * 999}, 'train.tar is damaged at byte'),
    (lambda: {'train': validation_tar()}, "holds 'ILSVRC2012_val_00000011.JPEG' where the archiv"),
    (lambda: {'train': training_tar(list(CLASSES)[:2])}, 'has 2 classes, not 3'),
    (lambda: {'train': training_tar(['n01440764'] * 3)}, 'has 1 classes, not 3'),
    (lambda: {'validation': training_tar()}, "val.tar holds 'n01440764.tar' where images .* were"),
    (lambda: {'validation': validation_tar()[:4000]}, 'img_val.tar is damaged at byte'),
    (lambda: {'validation': tar_of([])}, 'val.tar has 0 images, not 11; fetch it again .the offic'),
  ],
)
def test_wrong_tars_are_one_sentence_before_anything_is_written(tmp_path, changed, sentence):
  tars, data_dir = tmp_path / 'tars', tmp_path / 'data'
  tars.mkdir()
  write_tars(tars, **changed())
  with pytest.raises(UserError, match=sentence):
    prepare_imagenet.prepare(str(tars), str(data_dir), EXPECTED)
  assert not contents(data_dir)


def test_image_that_is_none_is_named_and_the_mended_tar_goes_on(tars, tmp_path, undisturbed):
  broken, data_dir = tmp_path / 'tars', tmp_path / 'data'
  broken.mkdir()
  content = bytearray(training_tar())
  at = content.rindex(b'n02105855_5.JPEG') + 512
  content[at : at + 40] = bytes(40)
  write_tars(broken, train=bytes(content))
  with pytest.raises(UserError, match='train.tar is damaged: n02105855_5.JPEG in it is no image'):
    prepare_imagenet.prepare(str(broken), str(data_dir), EXPECTED)
  assert 0 < len(contents(data_dir)) < FILES
  prepare_imagenet.prepare(tars, str(data_dir), EXPECTED)
  assert contents(data_dir) == contents(undisturbed)


def test_missing_tar_is_one_sentence(tars, tmp_path):
  with pytest.raises(UserError, match='^/.*/none/ILSVRC2012_img_train.tar is not there: put the'):
    prepare_imagenet.prepare(f'{tars}/none', str(tmp_path), EXPECTED)


def test_too_little_space_is_one_sentence(tars, tmp_path, monkeypatch):
  usage = shutil._ntuple_diskusage(total=10, used=10, free=10)
  monkeypatch.setattr(prepare_imagenet.shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(UserError, match='needs .* GB more, and 1e-08 GB are free there: make room'):
    prepare_imagenet.prepare(tars, str(tmp_path), EXPECTED)
  assert not contents(tmp_path)


def test_data_dir_that_cannot_be_made_is_one_sentence(tars, tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='5.1.0 cannot be made .*; choose another --data_dir'):
    prepare_imagenet.prepare(tars, str(tmp_path / 'file'), EXPECTED)


@pytest.fixture
def unfinished(tars, tmp_path, monkeypatch):
  """All files are written, but not read again yet."""
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    patch.setattr(prepare_imagenet.imagenet_records, 'check', interrupt)
    prepare_imagenet.prepare(tars, str(tmp_path), EXPECTED)
  assert len(contents(tmp_path)) == 2 * FILES
  return tmp_path


def interrupt(*_):
  raise KeyboardInterrupt


@pytest.mark.parametrize(
  'damage, sentence',
  [
    (lambda content: content[:-5], 'cannot be read'),
    (lambda content: content[:40] + b'x' + content[41:], 'cannot be read'),
    (lambda content: b'', 'has 0 records, not [56],'),
  ],
  ids=['cut', 'flipped', 'empty'],
)
def test_damaged_file_is_found_and_written_again(tars, unfinished, undisturbed, damage, sentence):
  path = sorted((unfinished / 'imagenet2012' / '5.1.0').glob('*train*'))[5]
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(UserError, match=f'train.tfrecord-00005-of-00008 {sentence}.* was removed'):
    prepare_imagenet.prepare(tars, str(unfinished), EXPECTED)
  prepare_imagenet.prepare(tars, str(unfinished), EXPECTED)
  assert contents(unfinished) == contents(undisturbed)


def test_other_tars_do_not_continue_what_was_begun(unfinished, tmp_path_factory, tars, capsys):
  others = tmp_path_factory.mktemp('others')
  write_tars(others, train=training_tar(seed=1))
  with pytest.raises(UserError, match='is another file than the one that .* was begun with'):
    prepare_imagenet.prepare(str(others), str(unfinished), EXPECTED)
  moved = tmp_path_factory.mktemp('moved')
  shutil.copytree(tars, moved, dirs_exist_ok=True)
  prepare_imagenet.prepare(str(moved), str(unfinished), EXPECTED)
  assert 'is ready' in capsys.readouterr().out


def test_second_process_at_the_same_is_refused(tars, unfinished):
  # Locks are of processes and open files: this one counts as another.
  from basisnet_jax.training import workdir_lock

  work = os.fspath(unfinished / 'imagenet2012' / '5.1.0.preparing')
  with workdir_lock.exclusive(work), pytest.raises(UserError, match='Another process is at work'):
    prepare_imagenet.prepare(tars, str(unfinished), EXPECTED)
