import itertools
import weakref

import numpy as np
import PIL.Image
import pytest
from tiny_datasets import TEST, TRAIN, picture

from basisnet_jax.data import (
  create_policy,
  eval_batches,
  num_images,
  open_dataset,
  records,
  train_batches,
)
from basisnet_jax.errors import UserError

DEFAULTS = dict(
  split='train',
  batch_size=5,
  resolution=16,
  crop='area',
  crop_min_area=0.2,
  crop_padding=2,
  flip=True,
  shuffle_buffer=8,
  seed=0,
)


def train(dataset, count, **changes):
  """The first `count` batches."""
  return list(itertools.islice(train_batches(dataset, **{**DEFAULTS, **changes}), count))


def train_labels(dataset, count, **changes):
  """The labels of the first `count` images."""
  batches = train(dataset, count, batch_size=1, resolution=4, **changes)
  return [int(batch['label'][0]) for batch in batches]


def assert_equal(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_batches_have_the_promised_shapes_and_types(jpeg_images, storage):
  (batch,) = train(jpeg_images, 1)
  assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
    'image': ((5, 16, 16, 3), 'uint8'),
    'label': ((5,), 'int32'),
    'mask': ((5,), 'float32'),
  }
  batch = next(eval_batches(jpeg_images, split='test', batch_size=4, resolution=16, eval_crop=0.9))
  assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
    'image': ((4, 16, 16, 3), 'uint8'),
    'label': ((4,), 'int32'),
    'mask': ((4,), 'float32'),
  }


def test_no_batch_is_kept_while_the_next_is_made(jpeg_images):
  batches = train_batches(jpeg_images, **DEFAULTS)
  image = weakref.ref(next(batches)['image'])
  assert image() is None


@pytest.mark.parametrize('crop', ['area', 'pad'])
@pytest.mark.parametrize('start_step', [1, 4, 5, 13])
def test_resumed_batches_equal_uninterrupted_ones(jpeg_images, storage, crop, start_step):
  uninterrupted = train(jpeg_images, 17, crop=crop)  # More than three epochs.
  resumed = train(jpeg_images, 17 - start_step, crop=crop, start_step=start_step)
  assert_equal(resumed, uninterrupted[start_step:])


def test_two_runs_with_one_seed_are_equal(jpeg_images, storage):
  assert_equal(train(jpeg_images, 7), train(jpeg_images, 7))


def test_every_epoch_has_each_image_once(jpeg_images, storage):
  labels = train_labels(jpeg_images, 3 * TRAIN, shuffle_buffer=4)
  for epoch in range(3):
    assert sorted(labels[epoch * TRAIN : (epoch + 1) * TRAIN]) == list(range(TRAIN))


def test_streams_of_a_large_split_have_each_image_once_an_epoch(jpeg_images, monkeypatch):
  monkeypatch.setattr(records, 'IN_MEMORY_BYTES', 0)
  batches = train(jpeg_images, 40, batch_size=6, resolution=4)
  rows = np.stack([batch['label'] for batch in batches]).T  # 6 streams.
  for epoch in range(8):
    # Five of them have 4 images and one has 3.
    seen = [row[epoch * n : (epoch + 1) * n] for row, n in zip(rows, [4] * 5 + [3], strict=True)]
    assert sorted(np.concatenate(seen)) == list(range(TRAIN))
  assert len({tuple(np.argsort(row[:4])) for row in rows}) > 1  # Each in an order of its own.


@pytest.mark.parametrize(
  ('batch_size', 'process_count', 'start_step'), [(6, 3, 0), (6, 6, 5), (46, 2, 0), (70, 7, 5)]
)
def test_batches_do_not_depend_on_the_number_of_hosts(
  jpeg_images, storage, batch_size, process_count, start_step
):
  # Of 46 rows 23 streams have two each, and the hosts' border cuts one of them in two; of 70 rows
  # 14 streams have five each, and a host has two of them.
  kept = dict(batch_size=batch_size, resolution=8, start_step=start_step)
  alone = train(jpeg_images, 6, **kept)
  hosts = [
    train(jpeg_images, 6, process_index=index, process_count=process_count, **kept)
    for index in range(process_count)
  ]
  for batch, *parts in zip(alone, *hosts, strict=True):
    for key, values in batch.items():
      np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), values)


@pytest.mark.parametrize('name', ['jpeg_images', 'png_images'])  # Five files, one file.
def test_epochs_come_in_different_orders(data_dir, name, storage):
  labels = train_labels(open_dataset(name, data_dir), 4 * TRAIN)
  epochs = {tuple(labels[i * TRAIN : (i + 1) * TRAIN]) for i in range(4)}
  assert len(epochs) == 4


def test_seeds_come_in_different_orders(jpeg_images, storage):
  assert train_labels(jpeg_images, TRAIN, seed=0) != train_labels(jpeg_images, TRAIN, seed=1)


def test_order_of_the_files_is_shuffled(jpeg_images, monkeypatch):
  monkeypatch.setattr(records, 'IN_MEMORY_BYTES', 0)
  assert [len(files) for files in records.shares(jpeg_images, 'train', 1)] == [5]
  labels = train_labels(jpeg_images, 2 * TRAIN, shuffle_buffer=1)
  assert labels[:TRAIN] != labels[TRAIN:]


def test_augmentation_of_one_image_differs_between_epochs(jpeg_images, storage):
  batches = train(jpeg_images, 8, split='train[:1]', batch_size=1)
  assert len({batch['image'].tobytes() for batch in batches}) > 5


def test_augmentation_does_not_depend_on_the_batch_size(jpeg_images):
  large, small = train(jpeg_images, 2, batch_size=6), train(jpeg_images, 4, batch_size=3)
  for key in ('image', 'label'):
    np.testing.assert_array_equal(
      np.concatenate([batch[key] for batch in large]),
      np.concatenate([batch[key] for batch in small]),
    )


def test_augmented_images_are_those_of_their_position(jpeg_images):
  policy = create_policy('randaugment', layers=1, magnitude=9.0)
  # Three of its operations, because each is compiled for each size.
  policy = policy._replace(**{key: getattr(policy, key)[3:6] for key in policy._fields[:4]})
  kept = dict(
    batch_size=6, resolution=((0, 16), (2, 8)), policy=policy, cutout=0.3, random_erasing=0.5
  )
  alone = train(jpeg_images, 4, **kept)
  assert [batch['image'].shape[1] for batch in alone] == [16, 16, 8, 8]
  for start_step in (1, 3):  # Resumed before and after the change of size.
    resumed = train(jpeg_images, 4 - start_step, start_step=start_step, **kept)
    assert_equal(resumed, alone[start_step:])
  halves = [train(jpeg_images, 4, process_index=i, process_count=2, **kept) for i in range(2)]
  for batch, *parts in zip(alone, *halves, strict=True):
    for key, values in batch.items():
      np.testing.assert_array_equal(np.concatenate([part[key] for part in parts]), values)


def test_augmentation_changes_neither_order_nor_crop_nor_flip(jpeg_images):
  plain, changed = train(jpeg_images, 3), train(jpeg_images, 3, random_erasing=0.5)
  same = 0
  for a, b in zip(plain, changed, strict=True):
    np.testing.assert_array_equal(a['label'], b['label'])
    same += (a['image'] == b['image']).all((1, 2, 3)).sum()
  assert 2 < same < 13  # Of 15; half are erased.


def test_sizes_by_step_are_the_images_of_each_size(jpeg_images):
  by_step = train(jpeg_images, 3, resolution=((0, 8), (1, 12)))
  assert_equal(
    by_step, [*train(jpeg_images, 1, resolution=8), *train(jpeg_images, 3, resolution=12)[1:]]
  )


def test_half_of_the_training_images_are_mirrored(jpeg_images):
  kept = dict(crop='pad', crop_padding=0, batch_size=200)
  (flipped,), (plain,) = train(jpeg_images, 1, **kept), train(jpeg_images, 1, **kept, flip=False)
  np.testing.assert_array_equal(flipped['label'], plain['label'])
  same = (flipped['image'] == plain['image']).all((1, 2, 3))
  mirrored = (flipped['image'] == plain['image'][:, :, ::-1]).all((1, 2, 3))
  assert (same ^ mirrored).all()
  assert 70 < mirrored.sum() < 130


@pytest.mark.parametrize(
  ('split', 'batch_size', 'process_count'),
  [
    ('test', 3, 1),
    ('test', 2, 2),
    ('test', 1, 9),  # Two hosts have no image at all.
    ('train', 30, 1),
    ('train+test', 4, 3),
    ('train[:90%]', 5, 2),
  ],
)
def test_evaluation_counts_every_image_once(jpeg_images, split, batch_size, process_count):
  labels, num_batches = [], set()
  for index in range(process_count):
    batches = list(
      eval_batches(
        jpeg_images,
        split=split,
        batch_size=batch_size,
        resolution=4,
        eval_crop=1.0,
        process_index=index,
        process_count=process_count,
      )
    )
    num_batches.add(len(batches))
    for batch in batches:
      assert batch['image'].shape == (batch_size, 4, 4, 3)
      assert set(batch['mask']) <= {0.0, 1.0}
      assert not batch['image'][batch['mask'] == 0].any()
      labels += batch['label'][batch['mask'] == 1].tolist()
  assert len(num_batches) == 1
  assert len(labels) == num_images(jpeg_images, split)
  if split == 'train[:90%]':  # TFDS shuffles the images as it writes them.
    assert len(labels) == len(set(labels)) == round(0.9 * TRAIN)
    assert set(labels) < set(range(TRAIN))
  else:
    last = TRAIN + TEST if 'test' in split else TRAIN
    assert sorted(labels) == list(range(0 if 'train' in split else TRAIN, last))


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
def test_evaluation_images_equal_those_of_pil(data_dir, method):
  pngs = open_dataset('png_images', data_dir)
  (batch,) = eval_batches(
    pngs, split='test', batch_size=TEST, resolution=16, eval_crop=0.9, eval_resize=method
  )
  for image, number in zip(batch['image'], batch['label'], strict=True):
    pixels = picture(number)
    height, width = pixels.shape[:2]
    side = round(0.9 * min(height, width))
    top, left = (height - side) // 2, (width - side) // 2
    expected = PIL.Image.fromarray(pixels).crop((left, top, left + side, top + side))
    expected = np.asarray(expected.resize((16, 16), PIL.Image.Resampling[method.upper()]))
    np.testing.assert_allclose(image.astype(int), expected, atol=1)


def sentence(error) -> str:
  message = str(error.value)
  assert '\n' not in message
  return message


@pytest.mark.parametrize('split', ['validation', 'train[', 'train[:1000]', 'train[9:2]', ''])
def test_unknown_split_names_the_splits_there_are(jpeg_images, split):
  with pytest.raises(UserError) as error:
    train_batches(jpeg_images, **{**DEFAULTS, 'split': split})
  message = sentence(error)
  assert repr(split) in message and 'train (23 images), test (7 images)' in message
  with pytest.raises(UserError):
    eval_batches(jpeg_images, split=split, batch_size=2, resolution=8, eval_crop=1.0)


def test_empty_split_is_explained(jpeg_images):
  with pytest.raises(UserError) as error:
    train_batches(jpeg_images, **{**DEFAULTS, 'split': 'train[:0%]'})
  assert 'selects no images' in sentence(error)


def test_unknown_resize_names_those_there_are(jpeg_images):
  with pytest.raises(UserError) as error:
    eval_batches(
      jpeg_images, split='test', batch_size=2, resolution=8, eval_crop=1.0, eval_resize='cubic'
    )
  assert "'cubic'" in sentence(error) and "'bilinear' or 'bicubic'" in sentence(error)


def test_unknown_crop_names_the_crops_there_are(jpeg_images):
  with pytest.raises(UserError) as error:
    train_batches(jpeg_images, **{**DEFAULTS, 'crop': 'random'})
  assert "'random'" in sentence(error) and "'area' or 'pad'" in sentence(error)
