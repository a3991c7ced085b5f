"""A split's record files: names them, writes those that are missing, and reads them back."""

from collections.abc import Iterator
from concurrent import futures
import io
import os

import imagenet_tars
import numpy as np
from tensorflow_datasets.datasets.imagenet2012 import imagenet2012_dataset_builder as official

from basisnet_jax.data.quiet_tensorflow import tf, tfds
from basisnet_jax.errors import UserError
from basisnet_jax.training.progress import Progress

_DECODED_FILES = 8  # In each split, files whose first record the check decodes.
_SIGNATURES = (b'\xff\xd8', b'\x89PNG')  # The first bytes of JPEG and PNG.


def lengths(num_images: int, num_files: int) -> list[int]:
  """The number of records in each file, as TFDS distributes them."""
  bounds = tfds.core.utils.shard_utils.get_shard_boundaries(num_images, num_files)
  return np.diff([0, *bounds]).tolist()


def paths(builder: tfds.core.DatasetBuilder, split: str, num_files: int) -> list[str]:
  """The split's files, named as TFDS does."""
  template = tfds.core.ShardedFileTemplate(
    data_dir=builder.data_path, dataset_name=builder.name, split=split, filetype_suffix='tfrecord'
  )
  return [
    os.fspath(template.sharded_filepath(shard_index=i, num_shards=num_files))
    for i in range(num_files)
  ]


def write(builder: tfds.core.DatasetBuilder, split: str, shards: list, tar_path: str) -> None:
  """Writes the files that are not there yet.

  Args:
    builder: TFDS's builder of imagenet2012.
    split: 'train' or 'validation'.
    shards: (path, places of its images in the tar) for each file.
    tar_path: the tar.

  Raises:
    UserError: the disk is full, or the like.
  """
  there = set(tf.io.gfile.listdir(os.fspath(builder.data_path)))
  missing = [(path, part) for path, part in shards if os.path.basename(path) not in there]
  total = sum(len(part) for _, part in shards)
  done = total - sum(len(part) for _, part in missing)
  encode = _encoder(builder)
  tar = os.open(tar_path, os.O_RDONLY)
  try:
    with progress(total, f'writing {split}', done) as line, pool() as readers:
      for path, part in missing:
        write_file(
          path, (encode(place, image) for place, image in _read(readers, tar_path, tar, part))
        )
        done += len(part)
        line.update(done)
  except (OSError, tf.errors.OpError) as error:
    raise UserError(
      f'Writing {split} to {builder.data_path} failed ({error}); mend that, and the same command '
      'goes on.'
    ) from error
  finally:
    os.close(tar)


def write_file(path: str, records: Iterator[bytes]) -> None:
  """Writes a record file, completely or not at all."""
  with tf.io.TFRecordWriter(f'{path}.tmp') as writer:
    for record in records:
      writer.write(record)
  tf.io.gfile.rename(f'{path}.tmp', path, overwrite=True)


def _read(pool, tar_path, tar, places):
  """Yields (place, its bytes) in order; several are read in parallel."""

  def read(place):
    found = os.pread(tar, place['size'], place['offset'])
    if len(found) != place['size'] or not found.startswith(_SIGNATURES):
      raise UserError(
        f'{tar_path} is damaged: {place["name"].decode()} in it is no image; fetch it again, and '
        'the same command goes on.'
      )
    return place, found

  return pool.map(read, places)


def _encoder(builder):
  """Returns a function from an image's place and bytes to its record, like TFDS's builder."""
  features = builder.info.features
  serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())

  def encode(place, image):
    name = place['name'].decode()
    if name in official.CMYK_IMAGES:
      image = tfds.core.utils.jpeg_cmyk_to_rgb(image)
    elif name in official.PNG_IMAGES:
      image = tfds.core.utils.png_to_jpeg(image)
    example = {'file_name': name, 'image': io.BytesIO(image), 'label': int(place['label'])}
    record = serializer.get_tf_example(features.encode_example(example))
    # By default, protobuf's order of the features differs between processes.
    return record.SerializeToString(deterministic=True)

  return encode


def check(builder: tfds.core.DatasetBuilder, split: str, shards: list) -> None:
  """Reads all files of a split: checks checksums and counts, and in some files the first image.

  Raises:
    UserError: a file is not what it should be; it has been removed.
  """
  decoded = {path for path, _ in shards[:: -(-len(shards) // _DECODED_FILES)]}

  def count(shard):
    path, part = shard
    problem = _problem(path, part, builder.info.features if path in decoded else None)
    if problem:
      tf.io.gfile.remove(path)
      raise UserError(
        f'{path} {problem} and was removed; the same command writes it again. If that repeats, the '
        'disk or the tar is damaged.'
      )
    return len(part)

  done = 0
  with (
    progress(sum(len(part) for _, part in shards), f'reading {split}') as line,
    pool() as readers,
  ):
    for found in readers.map(count, shards):
      done += found
      line.update(done)


def _problem(path, places, features):
  """What is wrong with a record file, or ''; with `features`, also decodes the first record."""
  records = tf.data.TFRecordDataset(path)
  try:
    count = int(records.reduce(np.int64(0), lambda count, _: count + 1))
    if count != len(places):
      return f'has {count} records, not {len(places)},'
    if features:
      first = features.deserialize_example(next(iter(records)))
      name, label = first['file_name'].numpy(), int(first['label'])
      if (name, label) != (places[0]['name'], places[0]['label']):
        return f'begins with {name.decode()} of class {label}'
  except tf.errors.OpError as error:
    return f'cannot be read ({str(error.message).splitlines()[0]})'
  return ''


def progress(total: int, name: str, done: int = 0) -> Progress:
  """A progress line that counts images."""
  return Progress(total, done, name=name, first='starting...')


def pool() -> futures.ThreadPoolExecutor:
  """Threads that wait for the disk."""
  return futures.ThreadPoolExecutor(imagenet_tars.READERS)
