"""Encoded records: which files and parts a host reads, and in what order.

A record is a serialized tf.Example. Nothing is decoded here, so that skipping to
the middle of a run costs little.
"""

import os

from basisnet_jax.data.datasets import Dataset
from basisnet_jax.data.quiet_tensorflow import tf, tfds
from basisnet_jax.errors import UserError

# A host's share of a split up to this size is held in memory, still encoded.
IN_MEMORY_BYTES = 200_000_000
_PARALLEL_FILES = 16


def host_files(dataset: Dataset, split: str, process_index: int, process_count: int) -> list:
  """Returns the parts of files that hold one host's share of a split.

  The shares are disjoint, cover the split, and differ by at most one record for
  each split that `split` names; no host's share is larger than that of host 0.

  Args:
    dataset: from `open_dataset`.
    split: a split's name, or TFDS's syntax for parts and sums: 'train[:90%]'.
    process_index: this host.
    process_count: how many hosts there are.

  Returns:
    List of objects with `filename`, `skip`, `take`, `examples_in_shard`.

  Raises:
    UserError: no such split, no images in it, or files of it are missing.
  """
  splits = dataset.builder.info.splits
  have = ', '.join(f'{name} ({count} images)' for name, count in dataset.splits.items())
  try:
    total = splits[split].num_examples
    share = tfds.even_splits(split, process_count)[process_index]
    files = splits[share].file_instructions
  except (ValueError, KeyError, AssertionError) as error:
    raise UserError(
      f"Dataset '{dataset.name}' has no split '{split}': use one of {have}, or a part of one "
      "such as 'train[:90%]'."
    ) from error
  if total < 1:
    raise UserError(
      f"Split '{split}' of dataset '{dataset.name}' selects no images: widen it; there are {have}."
    )
  if files:
    folder = os.path.dirname(files[0].filename)
    present = set(tf.io.gfile.listdir(folder))
    missing = [f.filename for f in files if os.path.basename(f.filename) not in present]
    if missing:
      raise UserError(
        f"Split '{split}' of dataset '{dataset.name}' lacks {len(missing)} of its {len(files)} "
        f'files, such as {missing[0]}: copy them there, or delete the folder to prepare it again.'
      )
  return files


def count_records(files: list) -> int:
  """Returns the number of records in parts of files."""
  return sum(f.take for f in files)


def fit_in_memory(dataset: Dataset, files: list) -> bool:
  """Tells whether the records are few enough to be held in memory."""
  info = dataset.builder.info
  bytes_per_record = info.dataset_size / max(sum(dataset.splits.values()), 1)
  return bytes_per_record * count_records(files) <= IN_MEMORY_BYTES


def in_order(files: list) -> tf.data.Dataset:
  """Returns each record once, always in the same order: string scalars."""
  return _read(_as_tensors(files))


def shuffled_epochs(
  files: list, *, in_memory: bool, buffer: int, key: int, start: int
) -> tf.data.Dataset:
  """Returns the records epoch after epoch for ever, each epoch in its own order.

  Every epoch has each record once. The order is a function of `key`, the epoch, the
  files, `in_memory` and `buffer`.

  Args:
    files: from `host_files`.
    in_memory: True reads all records at once and shuffles them as a whole. False
      shuffles the order of the files, reads several at a time, and shuffles the
      records in a buffer.
    buffer: records in that buffer.
    key: the seed, at least 0.
    start: how many records to skip, counted from the beginning of the first epoch.

  Returns:
    Endless dataset of string scalars.
  """
  first_epoch, skipped = divmod(start, count_records(files))
  epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
  if in_memory:
    records = in_order(files).batch(count_records(files)).get_single_element()

    def one_epoch(epoch):
      order = tf.random.experimental.stateless_shuffle(tf.range(len(records)), [key, epoch])
      return tf.data.Dataset.from_tensor_slices(order)

    return epochs.flat_map(one_epoch).skip(skipped).map(lambda index: records[index])

  tensors = _as_tensors(files)

  def one_epoch_from_files(epoch):
    order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), [key, epoch])
    ordered = {name: tf.gather(values, order) for name, values in tensors.items()}
    # One number out of both: the epochs' seeds of two keys have nothing in common.
    seed = tf.random.stateless_uniform([], [key, epoch], maxval=2**31 - 1, dtype=tf.int64)
    return _read(ordered).shuffle(buffer, seed=seed, reshuffle_each_iteration=False)

  return epochs.flat_map(one_epoch_from_files).skip(skipped)


def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns a record's image, still encoded (string scalar), and label (int32 scalar)."""
  features = {
    'image': tf.io.FixedLenFeature([], tf.string),
    'label': tf.io.FixedLenFeature([], tf.int64),
  }
  example = tf.io.parse_single_example(record, features)
  return example['image'], tf.cast(example['label'], tf.int32)


def _as_tensors(files: list) -> dict[str, tf.Tensor]:
  return {
    'filename': tf.constant([f.filename for f in files], tf.string),
    'skip': tf.constant([f.skip for f in files], tf.int64),
    'take': tf.constant([f.take for f in files], tf.int64),
  }


def _read(files: dict[str, tf.Tensor]) -> tf.data.Dataset:
  return tf.data.Dataset.from_tensor_slices(files).interleave(
    lambda f: tf.data.TFRecordDataset(f['filename']).skip(f['skip']).take(f['take']),
    cycle_length=_PARALLEL_FILES,
    block_length=16,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
