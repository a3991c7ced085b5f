"""Batches of images for one host: training (endless, resumable) and evaluation (once through)."""

from collections.abc import Iterator

import numpy as np

from basisnet_jax.data import augmentation, decoding, records
from basisnet_jax.data.datasets import Dataset
from basisnet_jax.data.quiet_tensorflow import tf
from basisnet_jax.errors import UserError

CROPS = ('area', 'pad')
_BATCHES_AHEAD = 2


def train_batches(
  dataset: Dataset,
  *,
  split: str,
  batch_size: int,
  resolution: int,
  crop: str,
  crop_min_area: float,
  crop_padding: int,
  flip: bool,
  shuffle_buffer: int,
  seed: int,
  start_step: int = 0,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns this host's training batches, for ever.

  Epochs follow each other without a seam (a batch may hold the end of one and the
  beginning of the next), and each has every image once. Batch n of all hosts together is a
  function of the arguments alone and not of the number of hosts, of which each makes its
  own rows: starting at `start_step` gives, bit for bit, what an uninterrupted iterator
  gives from there on.

  Args:
    dataset: from `open_dataset`.
    split: a split's name, or a part of one in TFDS's syntax: 'train[:90%]'.
    batch_size: images per batch on all hosts together.
    resolution: height and width of the images, pixels.
    crop: 'area' (random area and aspect ratio) or 'pad' (resize, pad, shift).
    crop_min_area: for 'area', the smallest share of the image's area, in (0, 1].
    crop_padding: for 'pad', pixels on each side.
    flip: whether half of the images are mirrored left-right.
    shuffle_buffer: records, still encoded, in the buffers of all hosts that shuffle them. A
      split small enough for memory (200 MB) is shuffled as a whole instead.
    seed: what order and augmentation follow from, at least 0.
    start_step: batches to skip.
    process_index: this host.
    process_count: how many hosts there are; it must divide `batch_size`.

  Returns:
    Iterator of {'image': uint8 [batch_size / process_count, resolution, resolution, 3],
    'label': int32 [batch_size / process_count]}; the arrays are read-only.

  Raises:
    UserError: bad split or crop, or missing files.
  """
  if crop not in CROPS:
    raise UserError(f"data.crop is '{crop}': use {' or '.join(map(repr, CROPS))}.")
  (files,) = records.shares(dataset, split, 1)
  # Independent keys, one for each use, so that no two draw the same numbers.
  keys = np.random.SeedSequence([seed, 0]).generate_state(3) % np.uint32(2**31)
  order_key, crop_key, flip_key = (int(key) for key in keys)
  local_size = batch_size // process_count
  rows = range(process_index * local_size, (process_index + 1) * local_size)
  order = dict(batch_size=batch_size, rows=rows, key=order_key, start_step=start_step)

  def example(position, record):
    encoded, label = records.parse(record)
    crop_seed = tf.stack([tf.constant(crop_key, tf.int64), position])
    if crop == 'area':
      image = decoding.decode_area_crop(encoded, resolution, crop_min_area, crop_seed)
    else:
      image = decoding.decode_pad_crop(encoded, resolution, crop_padding, crop_seed)
    if flip:
      flip_seed = tf.stack([tf.constant(flip_key, tf.int64), position])
      image = augmentation.random_flip(image, flip_seed)
    return {'image': image, 'label': label}

  if records.fit_in_memory(dataset, files):
    stream = records.shuffled_in_memory(files, **order)
  else:
    stream = records.shuffled_from_files(dataset, split, buffer=shuffle_buffer, **order)
  stream = stream.map(example, tf.data.AUTOTUNE, deterministic=True)
  return _as_numpy(stream.batch(local_size, drop_remainder=True))


def eval_batches(
  dataset: Dataset,
  *,
  split: str,
  batch_size: int,
  resolution: int,
  eval_crop: float,
  eval_resize: str = 'bilinear',
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns this host's evaluation batches, once through its share of the split.

  Over all hosts every image comes once with mask 1. All hosts have the same number of
  batches, filled up with black images of label 0 and mask 0.

  Args:
    dataset: from `open_dataset`.
    split: a split's name, or a part of one in TFDS's syntax: 'train[90%:]'.
    batch_size: images per batch on this host.
    resolution: height and width of the images, pixels.
    eval_crop: the central crop's side as a share of the image's shorter side, in (0, 1].
    eval_resize: 'bilinear' or 'bicubic', both with antialiasing.
    process_index: this host.
    process_count: how many hosts there are; each reads its own even share.

  Returns:
    Iterator of {'image': uint8 [batch_size, resolution, resolution, 3],
    'label': int32 [batch_size], 'mask': float32 [batch_size], 1 for real images};
    the arrays are read-only.

  Raises:
    UserError: bad split or `eval_resize`, or missing files.
  """
  if eval_resize not in decoding.RESIZES:
    raise UserError(
      f"data.eval_resize is '{eval_resize}': use {' or '.join(map(repr, decoding.RESIZES))}."
    )
  shares = records.shares(dataset, split, process_count)
  files = shares[process_index]
  num_batches = -(-records.count_records(shares[0]) // batch_size)

  def example(record):
    encoded, label = records.parse(record)
    image = decoding.decode_central_crop(encoded, resolution, eval_crop, eval_resize)
    return {'image': image, 'label': label, 'mask': tf.ones([])}

  filler = {
    'image': tf.zeros([resolution, resolution, 3], tf.uint8),
    'label': tf.zeros([], tf.int32),
    'mask': tf.zeros([]),
  }
  num_fillers = num_batches * batch_size - records.count_records(files)
  images = tf.data.Dataset.from_tensors(filler).repeat(num_fillers)
  if files:
    real = records.in_order(files).map(example, tf.data.AUTOTUNE, deterministic=True)
    images = real.concatenate(images)
  return _as_numpy(images.batch(batch_size, drop_remainder=True))


def num_images(dataset: Dataset, split: str) -> int:
  """Returns how many images a split has, or a part of one.

  Raises:
    UserError: bad split or missing files.
  """
  return records.count_records(*records.shares(dataset, split, 1))


def _as_numpy(batches: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
  return batches.prefetch(_BATCHES_AHEAD).as_numpy_iterator()
