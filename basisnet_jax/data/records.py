"""Encoded records: which parts of files are read, and in what order.

A record is a serialized tf.Example. Nothing is decoded here, so skipping to the middle of a run
costs little. A record's id, int64, encodes its file and its number in the file (`describe`).
"""

from collections.abc import Callable
import os

import numpy as np

from basisnet_jax.data.datasets import Dataset
from basisnet_jax.data.quiet_tensorflow import as_written, tf, tfds
from basisnet_jax.errors import UserError

# A split up to this size is held in memory, still encoded.
IN_MEMORY_BYTES = 200_000_000
# A larger one is cut into streams, each of which supplies its own rows of every batch.
MOST_STREAMS = 64
_PARALLEL_FILES = 16
_NUMBER_BITS = 40  # Low bits of an id: the number in the file; above them, the file's number.


def shares(dataset: Dataset, split: str, count: int) -> list[list]:
  """Returns the parts of files that make up each share of a split.

  The shares are disjoint, cover the split, and differ in size by at most one record for each split
  that `split` names; none is larger than the first.

  Args:
    dataset: from `open_dataset`.
    split: a split's name, or TFDS's syntax for parts and sums: 'train[:90%]'.
    count: number of shares.

  Returns:
    `count` lists of objects with `filename`, `skip`, `take`, `examples_in_shard`.

  Raises:
    UserError: there is no such split, or it has no images.
  """
  splits = dataset.builder.info.splits
  have = ', '.join(f'{name} ({count} images)' for name, count in dataset.splits.items())
  try:
    total = splits[split].num_examples
    parts = [splits[share].file_instructions for share in tfds.even_splits(split, count)]
  except (ValueError, KeyError, AssertionError) as error:
    raise UserError(
      f"Dataset '{dataset.name}' has no split '{split}': use one of {have}, or a part of one "
      "such as 'train[:90%]'."
    ) from error
  if total < 1:
    raise UserError(
      f"Split '{split}' of dataset '{dataset.name}' selects no images: widen it; there are {have}."
    )
  return parts


def check_files(dataset: Dataset, split: str) -> None:
  """Raises a UserError if `shares` would, or if files of the split are missing."""
  (files,) = shares(dataset, split, 1)
  present = set(tf.io.gfile.listdir(os.path.dirname(files[0].filename)))
  missing = [f.filename for f in files if os.path.basename(f.filename) not in present]
  if missing:
    raise UserError(
      f"Split '{split}' of dataset '{dataset.name}' lacks {len(missing)} of its {len(files)} "
      f'files, such as {missing[0]}: copy them there, or delete the folder to prepare it again.'
    )


def count_records(files: list) -> int:
  """Returns the number of records in parts of files."""
  return sum(f.take for f in files)


def count_common(some: list, others: list) -> int:
  """Returns how many records are in both of two sets of parts of files."""
  return sum(
    max(0, min(a.skip + a.take, b.skip + b.take) - max(a.skip, b.skip))
    for a in some
    for b in others
    if a.filename == b.filename
  )


def fit_in_memory(dataset: Dataset, files: list) -> bool:
  """Returns whether the records are few enough to hold in memory."""
  info = dataset.builder.info
  bytes_per_record = info.dataset_size / max(sum(dataset.splits.values()), 1)
  return bytes_per_record * count_records(files) <= IN_MEMORY_BYTES


def in_order(dataset: Dataset, files: list) -> tf.data.Dataset:
  """Returns each (id, record) once, always in the same order: int64 and string scalars."""
  return _read(_as_tensors(dataset, files))


def describe(dataset: Dataset, record_id: int) -> str:
  """Returns where a record is stored: 'record 17 of digits-train.tfrecord-00000-of-00001'."""
  file, number = divmod(int(record_id), 2**_NUMBER_BITS)
  return f'record {number} of {_filenames(dataset)[file]}'


def shuffled_in_memory(
  dataset: Dataset, files: list, *, batch_size: int, rows: range, key: int, start_step: int
) -> tuple[tf.data.Dataset, Callable]:
  """Returns records epoch after epoch, endlessly, each epoch in its own order.

  Every epoch has each record once. The order is a function of `key`, the epoch and the files. All
  records are read at once.

  Args:
    dataset: from `open_dataset`.
    files: parts of files, one of `shares`.
    batch_size: records in a batch over all hosts.
    rows: the wanted rows of each batch.
    key: the seed, at least 0.
    start_step: batches to skip, counted from the beginning of the first epoch.

  Returns:
    Endless dataset, and the function from its elements to (position in the sequence, id, record):
    int64, int64 and string scalars. Call the function in a parallel map, as it copies the record.
  """
  ids, records = in_order(dataset, files).batch(count_records(files)).get_single_element()

  @as_written
  def one_epoch(epoch):
    order = tf.random.experimental.stateless_shuffle(tf.range(len(ids)), [key, epoch])
    return tf.data.Dataset.from_tensor_slices(order)

  start = start_step * batch_size
  first_epoch, skipped = divmod(start, count_records(files))
  epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
  indices = epochs.flat_map(one_epoch).skip(skipped).enumerate(start)

  def find(position, index):
    return position, tf.gather(ids, index), tf.gather(records, index)

  return _only(rows, batch_size, indices), find


def shuffled_from_files(
  dataset: Dataset,
  split: str,
  *,
  batch_size: int,
  rows: range,
  buffer: int,
  key: int,
  start_step: int,
) -> tuple[tf.data.Dataset, Callable]:
  """Returns records epoch after epoch, endlessly, without holding them all in memory.

  The split is cut into streams, whose number depends on the batch size but not on the hosts. Each
  stream supplies its own rows of every batch, and each host reads the streams of its rows, so the
  sequence is the same for any number of hosts. A stream's epoch has each of its records once: the
  order of its files is shuffled, several are read in parallel, and a buffer shuffles the records.

  Args:
    dataset: from `open_dataset`.
    split: see `shares`.
    buffer: records in the buffers of all streams together.
    batch_size, rows, key, start_step: see `shuffled_in_memory`, also for what is returned.
  """
  most = min(MOST_STREAMS, dataset.builder.info.splits[split].num_examples)
  num_streams = max(n for n in range(1, most + 1) if batch_size % n == 0)
  block = batch_size // num_streams  # Rows of a stream.
  first, last = rows.start // block, -(-rows.stop // block)
  files = shares(dataset, split, num_streams)[first:last]
  tensors = _as_tensors(dataset, [file for share in files for file in share])
  begins = tf.constant(np.cumsum([0, *(len(share) for share in files)]), tf.int64)
  sizes = tf.constant([count_records(share) for share in files], tf.int64)
  parallel_files = max(2, _PARALLEL_FILES // num_streams)

  @as_written
  def stream(number):
    own = number - first
    size, begin, end = sizes[own], begins[own], begins[own + 1]
    start = tf.constant(start_step * block, tf.int64)

    def one_epoch(epoch):
      seeds = [key, epoch * MOST_STREAMS + number]
      order = tf.random.experimental.stateless_shuffle(tf.range(begin, end), seeds)
      ordered = {name: tf.gather(values, order) for name, values in tensors.items()}
      # One number from both, so that the epochs' seeds for different keys are unrelated.
      seed = tf.random.stateless_uniform([], seeds, maxval=2**31 - 1, dtype=tf.int64)
      records = _read(ordered, parallel_files)
      return records.shuffle(max(1, buffer // num_streams), seed, reshuffle_each_iteration=False)

    epochs = tf.data.Dataset.range(start // size, tf.int64.max)
    indexed = epochs.flat_map(one_epoch).skip(start % size).enumerate(start)

    def with_position(index, numbered):
      return index // block * batch_size + number * block + index % block, *numbered

    return indexed.map(with_position)

  streams = tf.data.Dataset.range(first, last)
  numbered = streams.interleave(stream, len(files), block)
  return _only(rows, batch_size, numbered), lambda *found: found


def _only(rows, batch_size, numbered):
  @as_written
  def wanted(position, *_):
    row = position % batch_size
    return (rows.start <= row) & (row < rows.stop)

  return numbered if len(rows) == batch_size else numbered.filter(wanted)


def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Returns a record's image, still encoded (string scalar), and label (int32 scalar)."""
  features = {
    'image': tf.io.FixedLenFeature([], tf.string),
    'label': tf.io.FixedLenFeature([], tf.int64),
  }
  example = tf.io.parse_single_example(record, features)
  return example['image'], tf.cast(example['label'], tf.int32)


def _filenames(dataset):
  """All files of the dataset, in an order that all hosts agree on."""
  return [name for split in dataset.splits for name in dataset.builder.info.splits[split].filenames]


def _as_tensors(dataset: Dataset, files: list) -> dict[str, tf.Tensor]:
  numbers = {name: number for number, name in enumerate(_filenames(dataset))}
  first_ids = [(numbers[os.path.basename(f.filename)] << _NUMBER_BITS) + f.skip for f in files]
  return {
    'filename': tf.constant([f.filename for f in files], tf.string),
    'skip': tf.constant([f.skip for f in files], tf.int64),
    'take': tf.constant([f.take for f in files], tf.int64),
    'first_id': tf.constant(first_ids, tf.int64),
  }


def _read(files: dict[str, tf.Tensor], parallel_files: int = _PARALLEL_FILES) -> tf.data.Dataset:
  @as_written
  def read(f):
    records = tf.data.TFRecordDataset(f['filename']).skip(f['skip']).take(f['take'])
    return records.enumerate(f['first_id'])

  return tf.data.Dataset.from_tensor_slices(files).interleave(
    read,
    cycle_length=parallel_files,
    block_length=16,
    num_parallel_calls=tf.data.AUTOTUNE,
    deterministic=True,
  )
