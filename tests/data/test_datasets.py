import json
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_datasets import JpegImages

from basisnet_jax.data import datasets, digits, eval_batches, open_dataset
from basisnet_jax.data.quiet_tensorflow import tfds
from basisnet_jax.errors import UserError


def explained(name, data_dir='') -> str:
  """The one sentence that opening a dataset ends in."""
  with pytest.raises(UserError) as error:
    open_dataset(name, str(data_dir))
  message = str(error.value)
  assert '\n' not in message and len(message) < 600
  return message


def test_folder_in_the_data_dir_opens_by_its_name(data_dir):
  dataset = open_dataset('jpeg_images', data_dir)
  assert dataset.name == 'jpeg_images'
  assert dataset.num_classes == 30
  assert dataset.label_names == tuple(map(str, range(30)))
  assert dataset.splits == {'train': 23, 'test': 7}


def test_newest_version_is_opened_unless_one_is_named(data_dir, tmp_path):
  for version in ('1.0.0', '9.0.0', '10.0.0'):
    target = tmp_path / 'mine' / version
    shutil.copytree(pathlib.Path(data_dir) / 'jpeg_images' / '1.0.0', target)
    info = json.loads((target / 'dataset_info.json').read_text())
    (target / 'dataset_info.json').write_text(json.dumps({**info, 'version': version}))
  (tmp_path / 'mine' / '11.0.0').mkdir()  # Empty: not a dataset.
  assert str(open_dataset('mine', str(tmp_path)).builder.version) == '10.0.0'
  assert str(open_dataset('mine:9.0.0', str(tmp_path)).builder.version) == '9.0.0'
  assert "'mine:2.0.0'" in explained('mine:2.0.0', tmp_path)


def test_unknown_name_suggests_the_nearest_of_folders_and_tfds(data_dir):
  assert "did you mean 'jpeg_images'?" in explained('jpg_images', data_dir)
  assert "did you mean 'cifar10'?" in explained('cifar1O', data_dir)
  assert "did you mean 'digits'?" in explained('digit', data_dir)
  message = explained('qqqqqqqqq', data_dir)
  assert 'did you mean' not in message and data_dir in message and 'data.data_dir' in message
  assert 'unknown' in explained('', data_dir)


def test_unknown_name_suggests_a_folder_of_photos_that_is_here(data_dir, tmp_path, monkeypatch):
  (tmp_path / 'photos' / 'train').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert "did you mean 'photos'?" in explained('photoz', data_dir)


def test_missing_data_dir_is_named(tmp_path):
  assert f'the folder {tmp_path}/nowhere does not exist' in explained('mine', tmp_path / 'nowhere')


def test_files_that_must_be_fetched_by_hand_are_named(tmp_path):
  message = explained('imagenet2012', tmp_path)
  assert f'{tmp_path}/downloads/manual' in message and 'ILSVRC2012_img_train.tar' in message
  assert 'data.data_dir' in message


def test_failure_to_fetch_is_explained_in_one_sentence(tmp_path, monkeypatch):
  def fail(self, **_):
    raise ConnectionError('no route to host\nand a long story')

  monkeypatch.setattr(tfds.builder('cifar10').__class__, 'download_and_prepare', fail)
  message = explained('cifar10', tmp_path)
  assert 'ConnectionError: no route to host)' in message and str(tmp_path) in message


def test_dataset_without_labelled_images_is_refused_before_it_is_fetched(tmp_path):
  message = explained('glue', tmp_path)
  assert 'sentence (Text)' in message and "'image'" in message


def test_damaged_description_is_explained(data_dir, tmp_path):
  target = tmp_path / 'mine' / '1.0.0'
  shutil.copytree(pathlib.Path(data_dir) / 'jpeg_images' / '1.0.0', target)
  (target / 'dataset_info.json').write_text('{"name": ')
  assert f'{target} cannot be read' in explained('mine', tmp_path)


def test_other_file_formats_are_refused(tmp_path, monkeypatch):
  tfds.disable_progress_bar()
  JpegImages(data_dir=str(tmp_path)).download_and_prepare(
    file_format='array_record',
    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
  )
  tfds.enable_progress_bar()
  assert 'array_record' in explained('jpeg_images', tmp_path)


def test_missing_files_are_named_when_the_split_is_read(data_dir, tmp_path):
  source = pathlib.Path(data_dir) / 'jpeg_images'
  shutil.copytree(source, tmp_path / 'jpeg_images')
  gone = tmp_path / 'jpeg_images' / '1.0.0' / 'jpeg_images-train.tfrecord-00002-of-00005'
  gone.unlink()
  dataset = open_dataset('jpeg_images', str(tmp_path))
  kept = dict(batch_size=2, resolution=8, eval_crop=1.0)
  with pytest.raises(UserError, match='lacks 1 of its 5 files') as error:
    eval_batches(dataset, split='train', **kept)
  assert str(gone) in str(error.value)
  assert next(eval_batches(dataset, split='test', **kept))['mask'].sum() == 2


def test_digits_are_those_of_scikit_learn(tmp_path):
  from sklearn.datasets import load_digits

  dataset = open_dataset('digits', str(tmp_path))
  assert dataset.splits == {'train': 1437, 'test': 360} and dataset.num_classes == 10
  truth = load_digits()
  expected = sorted(
    (int(label), np.round(image * 255 / 16).astype(np.uint8).tobytes())
    for image, label in zip(truth.images, truth.target, strict=True)
  )
  actual, counts = [], {}
  for split in dataset.splits:
    examples = list(tfds.as_numpy(dataset.builder.as_dataset(split)))
    actual += [(int(e['label']), e['image'].tobytes()) for e in examples]
    counts[split] = np.bincount([e['label'] for e in examples])
  assert sorted(actual) == expected
  np.testing.assert_allclose(counts['test'] / (counts['test'] + counts['train']), 0.2, atol=0.005)


def test_digits_without_scikit_learn_tell_how_to_install_it(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'sklearn', None)
  assert "pip install 'basisnet_jax[demo]'" in explained('digits', tmp_path)


def test_dataset_prepared_by_another_process_meanwhile_is_used(tmp_path, monkeypatch):
  def lose_the_race(data_dir, prepare=digits.prepare):
    prepare(data_dir)
    raise OSError('Directory not empty')

  monkeypatch.setattr(datasets.digits, 'prepare', lose_the_race)
  assert open_dataset('digits', str(tmp_path)).splits['test'] == 360


def test_opening_digits_prints_nothing_and_leaves_accelerators_and_keras_alone(tmp_path):
  code = (
    'import os, sys\n'
    'from basisnet_jax.data import open_dataset\n'
    f'open_dataset("digits", {str(tmp_path)!r})\n'
    'assert "keras" not in sys.modules and "TF_USE_LEGACY_KERAS" not in os.environ\n'
    'import tensorflow as tf\n'
    'assert {d.device_type for d in tf.config.get_visible_devices()} == {"CPU"}\n'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_arrays_become_a_dataset_as_the_page_says(tmp_path, monkeypatch):
  page = pathlib.Path(__file__).parents[2] / 'docs/study_early_exit.md'
  (block,) = re.findall(
    r'```python\n(import tensorflow as tf\n.*?)```', page.read_text(), re.DOTALL
  )
  random = np.random.default_rng(0)
  images = random.integers(0, 256, (2, 6, 9, 7, 3), np.uint8)
  labels = random.integers(0, 2, (2, 6))
  names = dict(train_images=images[0], train_labels=labels[0])
  names |= dict(test_images=images[1], test_labels=labels[1])
  monkeypatch.chdir(tmp_path)
  exec(block, names)
  dataset = open_dataset('mine', 'data')
  assert (dataset.splits, dataset.label_names) == ({'train': 6, 'test': 6}, ('cat', 'dog'))
  found = sorted(
    (x['image'].tobytes(), x['label']) for x in tfds.as_numpy(dataset.builder.as_dataset('test'))
  )
  assert found == sorted(
    (image.tobytes(), label) for image, label in zip(images[1], labels[1], strict=True)
  )
