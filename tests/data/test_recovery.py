"""Broken images, wrong labels, files that cannot be read: skipped and counted, or named."""

import itertools
import logging
import pathlib
import re
import shutil

from absl import logging as absl_logging
import numpy as np
import pytest
from test_pipeline import DEFAULTS, assert_equal, train
from tiny_datasets import CORRUPT, TRAIN, JpegImages

from basisnet_jax import data
from basisnet_jax.data import records, recovery
from basisnet_jax.data.quiet_tensorflow import tf, tfds
from basisnet_jax.errors import UserError


@pytest.fixture
def corrupt(data_dir):
  return data.open_dataset('corrupt_images', data_dir)


@pytest.fixture
def warnings(caplog):
  """What is said."""
  absl_logging.use_absl_handler()
  with caplog.at_level(logging.WARNING):
    yield lambda: caplog.messages


def labels_and_masks(batches):
  return [(int(x), float(m)) for b in batches for x, m in zip(b['label'], b['mask'], strict=True)]


@pytest.mark.parametrize('batch_size', [1, 4, 23])
def test_broken_image_is_left_out_in_its_place_and_named(corrupt, storage, warnings, batch_size):
  count = 3 * TRAIN // batch_size
  found = labels_and_masks(train(corrupt, count, batch_size=batch_size))
  lost = [position for position, (_, mask) in enumerate(found) if not mask]
  assert {found[position] for position in lost} == {(0, 0.0)}
  epochs = [[label for label, mask in found[i : i + TRAIN] if mask] for i in range(0, TRAIN, TRAIN)]
  for epoch in epochs:
    assert sorted([*epoch, CORRUPT]) == list(range(TRAIN))
  (number,) = {re.match(r'record (\d+) of corrupt_images-train', text)[1] for text in warnings()}
  path = corrupt.builder.data_path / 'corrupt_images-train.tfrecord-00000-of-00001'
  (record,) = tf.data.TFRecordDataset(str(path)).skip(int(number)).take(1)
  assert records.parse(record)[1] == CORRUPT


@pytest.mark.parametrize('start_step', [1, 4, 6])
def test_resumed_batches_equal_uninterrupted_ones_around_a_broken_image(
  corrupt, storage, start_step
):
  uninterrupted = train(corrupt, 10)
  assert sum((batch['mask'] == 0).sum() for batch in uninterrupted[:5]) == 1
  assert_equal(train(corrupt, 10 - start_step, start_step=start_step), uninterrupted[start_step:])


def test_black_image_has_the_size_of_its_batch(corrupt):
  batches = train(corrupt, 5, resolution=((0, 16), (3, 24)))
  assert [batch['image'].shape for batch in batches] == [(5, n, n, 3) for n in (16, 16, 16, 24, 24)]
  assert sum((batch['mask'] == 0).sum() for batch in batches) == 1


def prepared(builder_class, folder):
  """The dataset, in one file as the corrupt one."""
  builder_class(data_dir=str(folder)).download_and_prepare(
    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
  )
  return data.open_dataset(builder_class.name, str(folder))


def test_other_images_are_as_they_would_be_without_it(corrupt, tmp_path, storage):
  good, bad = train(prepared(JpegImages, tmp_path), 8), train(corrupt, 8)
  for a, b in zip(good, bad, strict=True):
    there = b['mask'] > 0
    np.testing.assert_array_equal(a['image'][there], b['image'][there])
    np.testing.assert_array_equal(a['label'][there], b['label'][there])


@pytest.mark.parametrize('batch_size', [1, 4, 30])
def test_evaluation_leaves_a_broken_image_out_and_names_it_once(corrupt, warnings, batch_size):
  options = dict(split='train', resolution=8, eval_crop=1.0)
  for _ in range(2):
    found = labels_and_masks(data.eval_batches(corrupt, batch_size=batch_size, **options))
    assert sorted([label for label, mask in found if mask] + [CORRUPT]) == list(range(TRAIN))
  assert len(warnings()) == 1 and 'is no readable image and is left out' in warnings()[0]
  with pytest.raises(
    UserError, match=f'{warnings()[0].split(" is no")[0]} of dataset.*is no readable'
  ):
    list(data.eval_batches(corrupt, batch_size=batch_size, broken_images='stop', **options))


def test_broken_image_ends_the_run_by_policy(corrupt, storage):
  with pytest.raises(UserError) as error:
    train(corrupt, 5, broken_images='stop')
  assert re.fullmatch(
    r"record \d+ of corrupt_images-train.tfrecord-00000-of-00001 of dataset 'corrupt_images' is no "
    r'readable image \(JPEG, PNG, BMP or GIF\); mend it, or set '
    r"config.data.broken_images='skip'.",
    str(error.value),
  )
  with pytest.raises(UserError, match="data.broken_images is 'ignore': use 'skip' or 'stop'"):
    train(corrupt, 1, broken_images='ignore')


def test_too_many_broken_images_end_the_run(corrupt, storage):
  with pytest.raises(
    UserError, match=r'11 of the first 2\d\d images.*cannot be read, such as record'
  ):
    train(corrupt, 100)


class MostlyBroken(JpegImages):
  def _encoded(self, number):
    return super()._encoded(number)[: None if number > CORRUPT else 200]


@pytest.mark.parametrize('batch_size', [TRAIN, 2048])
def test_what_fills_up_an_evaluation_is_no_image_that_can_be_read(tmp_path, batch_size):
  dataset = prepared(MostlyBroken, tmp_path)
  options = dict(split='train', resolution=8, eval_crop=1.0)
  with pytest.raises(UserError, match='12 of the first 23 images .* that is more than 1%'):
    list(data.eval_batches(dataset, batch_size=batch_size, **options))


class WrongLabel(JpegImages):
  """One label is beyond the classes: TFDS would not write it."""

  def _info(self):
    info = super()._info()
    info.features['label'].encode_example = lambda label: 30 if label == 4 else label
    return info


def test_label_that_is_no_class_is_named(tmp_path, storage):
  dataset = prepared(WrongLabel, tmp_path)
  for broken_images in recovery.POLICIES:
    with pytest.raises(
      UserError, match=r'^Label 30 of record \d+ of wrong_label-train.* none of the 30 classes'
    ):
      train(dataset, 5, broken_images=broken_images)


@pytest.fixture
def copied(data_dir, tmp_path):
  """A dataset of its own, of five files, to do harm to: (dataset, the third file)."""
  shutil.copytree(pathlib.Path(data_dir) / 'jpeg_images', tmp_path / 'jpeg_images')
  dataset = data.open_dataset('jpeg_images', str(tmp_path))
  return dataset, pathlib.Path(
    dataset.builder.data_path / 'jpeg_images-train.tfrecord-00002-of-00005'
  )


def test_missing_file_is_named_at_the_start(copied):
  dataset, path = copied
  path.unlink()
  with pytest.raises(UserError, match=rf'lacks 1 of its 5 files, such as .*{path.name}'):
    train(dataset, 1)


@pytest.mark.parametrize('harm', ['gone', 'cut off', 'one bit'])
def test_file_that_cannot_be_read_is_tried_again_and_then_a_sentence(
  copied, monkeypatch, warnings, harm
):
  monkeypatch.setattr(records, 'IN_MEMORY_BYTES', 0)
  monkeypatch.setattr(recovery, 'RETRIES', (0, 0))
  dataset, path = copied
  batches = data.train_batches(dataset, **DEFAULTS)
  next(batches)
  whole = path.read_bytes()
  if harm == 'gone':
    path.unlink()
  elif harm == 'cut off':
    path.write_bytes(whole[:-100])
  else:
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
  with pytest.raises(UserError, match=r"^The files of dataset 'jpeg_images' cannot be read \("):
    list(itertools.islice(batches, 30))
  assert [text.split(' (')[0] for text in warnings()] == ['Reading failed'] * 2


def test_file_system_that_fails_for_a_while_changes_nothing(copied, monkeypatch, warnings):
  monkeypatch.setattr(records, 'IN_MEMORY_BYTES', 0)
  dataset, path = copied
  expected = train(dataset, 30)

  def sleep(seconds):
    assert seconds in recovery.RETRIES
    if len(warnings()) == 2:
      aside.rename(path)

  monkeypatch.setattr(recovery.time, 'sleep', sleep)
  batches = data.train_batches(dataset, **DEFAULTS)
  aside = path.rename(path.with_suffix('.aside'))
  assert_equal(list(itertools.islice(batches, 30)), expected)
  assert len(warnings()) == 2


def test_records_of_a_batch_are_those_that_are_read(jpeg_images, storage):
  kept = {key: DEFAULTS[key] for key in ('split', 'batch_size', 'shuffle_buffer', 'seed')}
  (batch,) = train(jpeg_images, 1, start_step=7)
  names = data.train_records(jpeg_images, 7, **kept)
  by_host = [
    data.train_records(jpeg_images, 7, process_index=i, process_count=5, **kept) for i in range(5)
  ]
  assert sum(by_host, []) == names
  found = []
  for name in names:
    number, filename = re.fullmatch(r'record (\d+) of (\S+)', name).groups()
    path = str(jpeg_images.builder.data_path / filename)
    (record,) = tf.data.TFRecordDataset(path).skip(int(number)).take(1)
    found.append(int(records.parse(record)[1]))
  assert found == batch['label'].tolist()
