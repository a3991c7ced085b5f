"""Batches of images for one host: for training (endless, resumable) and evaluation (one pass)."""

from collections.abc import Callable, Iterator, Sequence
import functools
import os

import numpy as np

from basisnet_jax.data import augmentation, autoaugment, decoding, records, recovery
from basisnet_jax.data.datasets import Dataset
from basisnet_jax.data.quiet_tensorflow import as_written, tf
from basisnet_jax.errors import UserError

CROPS = ('area', 'pad')
# Images in preparation at once, so that the next one is at hand when a core becomes free.
_CALLS = 2 * (os.cpu_count() or 1)


def train_batches(
  dataset: Dataset,
  *,
  split: str,
  batch_size: int,
  resolution: int | Sequence[tuple[int, int]],
  crop: str,
  crop_min_area: float,
  crop_padding: int,
  crop_resize: str = 'bilinear',
  flip: bool,
  policy: autoaugment.Policy | None = None,
  cutout: float = 0.0,
  random_erasing: float = 0.0,
  shuffle_buffer: int,
  seed: int,
  start_step: int = 0,
  broken_images: str = 'skip',
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns this host's training batches, endlessly.

  Epochs follow each other seamlessly (a batch may hold the end of one and the beginning of the
  next), and each has every image once. Batch n over all hosts is a function of the arguments alone,
  not of the number of hosts, each of which makes its own rows. Starting at `start_step` gives, bit
  for bit, what an uninterrupted iterator gives from there on.

  Args:
    dataset: from `open_dataset`.
    split: a split's name, or a part of one in TFDS's syntax: 'train[:90%]'.
    batch_size: images per batch over all hosts.
    resolution: height and width of the images, pixels; or pairs (batch number, size from that batch
      on) in order, beginning with batch 0.
    crop: 'area' (random area and aspect ratio) or 'pad' (resize, pad, shift).
    crop_min_area: for 'area', the smallest share of the image's area, in (0, 1].
    crop_padding: for 'pad', pixels on each side.
    crop_resize: for 'pad', should be the same as eval_resize of `eval_batches`.
    flip: whether half of the images are mirrored left-right.
    policy: augmentation applied next, from `autoaugment.create_policy`; None is nothing.
    cutout: side of a square to paint gray, as a share of the image's; 0 is none.
    random_erasing: probability that, last of all, noise replaces a rectangle.
    shuffle_buffer: encoded records in the shuffle buffers of all hosts together. A split that fits
      into memory (200 MB) is shuffled as a whole instead.
    seed: determines order and augmentation, at least 0.
    start_step: batches to skip.
    broken_images: 'skip' replaces an image that cannot be decoded with a black one of label 0 and
      mask 0, and names the first few; 'stop' raises an error.
    process_index: this host.
    process_count: number of hosts; it must divide `batch_size`.

  Returns:
    Iterator of {'image': uint8 [batch_size / process_count, resolution, resolution, 3],
    'label': int32 [batch_size / process_count], 'mask': float32 [batch_size / process_count]};
    the arrays may be read-only.

  Raises:
    UserError: bad split, crop or `crop_resize`, missing files; while reading, also the errors of
      `recovery.batches`.
  """
  _check(crop, CROPS, 'data.crop')
  _check(crop_resize, decoding.RESIZES, 'data.eval_resize')
  _check(broken_images, recovery.POLICIES, 'data.broken_images')
  _, crop_key, flip_key, policy_key, cutout_key, erasing_key = _keys(seed)
  local_size = batch_size // process_count
  order = dict(
    batch_size=batch_size,
    shuffle_buffer=shuffle_buffer,
    seed=seed,
    process_index=process_index,
    process_count=process_count,
  )

  def seed_of(key, position):
    return tf.stack([tf.constant(key, tf.int64), position])

  def image(encoded, position, size):
    if crop == 'area':
      image = decoding.decode_area_crop(encoded, size, crop_min_area, seed_of(crop_key, position))
    else:
      crop_seed = seed_of(crop_key, position)
      image = decoding.decode_pad_crop(encoded, size, crop_padding, crop_seed, crop_resize)
    if flip:
      image = augmentation.random_flip(image, seed_of(flip_key, position))
    if policy:
      image = autoaugment.augment(image, policy, seed_of(policy_key, position))
    if cutout:
      image = augmentation.cutout(image, cutout, seed_of(cutout_key, position))
    if random_erasing:
      image = augmentation.random_erasing(image, random_erasing, seed_of(erasing_key, position))
    return image

  at_its_size = functools.partial(_at_its_size, resolution, batch_size)

  def example(position, record_id, record):
    encoded, label = records.parse(record)
    pixels = at_its_size(position, functools.partial(image, encoded, position))
    return {'image': pixels, 'label': label, 'mask': tf.ones([]), 'id': record_id}

  def black(position, record_id, record):
    return at_its_size(position, lambda size: _black(size, record_id))

  def make(step, careful):
    read = recovery.or_replacement(example, black) if careful else example
    stream, find = _in_training_order(dataset, split, start_step=step, **order)
    made = as_written(lambda *found: read(*find(*found)))
    stream = stream.map(made, _CALLS, deterministic=True)
    return stream.batch(local_size, drop_remainder=True)

  records.check_files(dataset, split)  # Now, not at the first batch.
  return recovery.batches(make, start_step, dataset=dataset, policy=broken_images)


def train_records(
  dataset: Dataset,
  step: int,
  *,
  split: str,
  batch_size: int,
  shuffle_buffer: int,
  seed: int,
  process_index: int = 0,
  process_count: int = 1,
) -> list[str]:
  """Returns where the images of this host's training batch number `step` are stored.

  The first batch has number 0. The other arguments are those of `train_batches`.
  """
  stream, find = _in_training_order(
    dataset,
    split,
    batch_size=batch_size,
    shuffle_buffer=shuffle_buffer,
    seed=seed,
    start_step=step,
    process_index=process_index,
    process_count=process_count,
  )
  rows = stream.take(batch_size // process_count)
  ids = rows.map(as_written(lambda *found: find(*found)[1]))
  return [records.describe(dataset, record_id) for record_id in ids.as_numpy_iterator()]


def eval_batches(
  dataset: Dataset,
  *,
  split: str,
  batch_size: int,
  resolution: int,
  eval_crop: float,
  eval_resize: str = 'bilinear',
  broken_images: str = 'skip',
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns this host's evaluation batches, one pass through its share of the split.

  Over all hosts, every image comes once with mask 1. All hosts have the same number of batches,
  padded with black images of label 0 and mask 0.

  Args:
    dataset: from `open_dataset`.
    split: a split's name, or a part of one in TFDS's syntax: 'train[90%:]'.
    batch_size: images per batch on this host.
    resolution: height and width of the images, pixels.
    eval_crop: the central crop's side as a share of the image's shorter side, in (0, 1].
    eval_resize: 'bilinear' or 'bicubic', both with antialiasing.
    broken_images: see `train_batches`.
    process_index: this host.
    process_count: number of hosts; each reads an even share.

  Returns:
    Iterator of {'image': uint8 [batch_size, resolution, resolution, 3],
    'label': int32 [batch_size], 'mask': float32 [batch_size], 1 for real images};
    the arrays may be read-only.

  Raises:
    UserError: bad split or `eval_resize`, missing files; while reading, also the errors of
      `recovery.batches`.
  """
  _check(eval_resize, decoding.RESIZES, 'data.eval_resize')
  _check(broken_images, recovery.POLICIES, 'data.broken_images')
  records.check_files(dataset, split)
  shares = records.shares(dataset, split, process_count)
  files = shares[process_index]
  num_batches = -(-records.count_records(shares[0]) // batch_size)
  num_fillers = num_batches * batch_size - records.count_records(files)

  def example(record_id, record):
    encoded, label = records.parse(record)
    image = decoding.decode_central_crop(encoded, resolution, eval_crop, eval_resize)
    return {'image': image, 'label': label, 'mask': tf.ones([]), 'id': record_id}

  def black(record_id, record):
    return _black(resolution, record_id)

  def make(batch, careful):
    filler = _black(resolution, tf.constant(recovery.FILLER_ID, tf.int64))
    images = tf.data.Dataset.from_tensors(filler).repeat(num_fillers)
    if files:
      read = recovery.or_replacement(example, black) if careful else example
      real = records.in_order(dataset, files).skip(batch * batch_size)
      images = real.map(as_written(read), _CALLS, deterministic=True).concatenate(images)
    return images.batch(batch_size, drop_remainder=True)

  return recovery.batches(make, 0, dataset=dataset, policy=broken_images)


def num_images(dataset: Dataset, split: str) -> int:
  """Returns the number of images in a split, or in a part of one.

  Raises:
    UserError: bad split.
  """
  return records.count_records(*records.shares(dataset, split, 1))


def num_common_images(dataset: Dataset, split: str, other: str) -> int:
  """Returns how many images two splits, or parts of them, share.

  Raises:
    UserError: bad split.
  """
  (some,), (others,) = (records.shares(dataset, name, 1) for name in (split, other))
  return records.count_common(some, others)


def _check(value, possible, key):
  if value not in possible:
    raise UserError(f'{key} is {value!r}: use {" or ".join(map(repr, possible))}.')


def _keys(seed):
  """Independent keys, one for each use, so that no two uses draw the same numbers."""
  keys = np.random.SeedSequence([seed, 0]).generate_state(6) % np.uint32(2**31)
  return [int(key) for key in keys]


def _in_training_order(
  dataset, split, *, batch_size, shuffle_buffer, seed, start_step, process_index, process_count
):
  """This host's rows of all batches, and the function from a row to (position, id, record)."""
  (files,) = records.shares(dataset, split, 1)
  order_key, *_ = _keys(seed)
  local_size = batch_size // process_count
  rows = range(process_index * local_size, (process_index + 1) * local_size)
  order = dict(batch_size=batch_size, rows=rows, key=order_key, start_step=start_step)
  if records.fit_in_memory(dataset, files):
    return records.shuffled_in_memory(dataset, files, **order)
  return records.shuffled_from_files(dataset, split, buffer=shuffle_buffer, **order)


def _at_its_size(
  resolution: int | Sequence[tuple[int, int]],
  batch_size: int,
  position: tf.Tensor,
  make: Callable[[int], tf.Tensor],
) -> tf.Tensor:
  """Calls `make` with the size for the batch that holds this position, and with no other size."""
  if isinstance(resolution, int):
    return make(resolution)
  first, sizes = zip(*resolution, strict=True)
  begun = position // batch_size >= tf.constant(first, tf.int64)
  last_begun = tf.reduce_sum(tf.cast(begun, tf.int32)) - 1
  return tf.switch_case(last_begun, [functools.partial(make, size) for size in sizes])


def _black(resolution, record_id):
  return {
    'image': tf.zeros([resolution, resolution, 3], tf.uint8),
    'label': tf.zeros([], tf.int32),
    'mask': tf.zeros([]),
    'id': record_id,
  }
