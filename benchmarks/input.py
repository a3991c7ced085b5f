"""The input pipeline, against bare JPEG decoding of the same files.

  python -m benchmarks.input --data_dir=DIR [--seconds=10] [--output=DIR]

DIR holds imagenet2012 as TFDS prepares it; the validation images are read.
"""

from collections.abc import Iterator
import itertools
import time

import numpy as np

from basisnet_jax import sharding
from basisnet_jax.data.quiet_tensorflow import tf
from basisnet_jax.training import experiment
from benchmarks import measure, ours, table

_BATCH = 64
_WARM_UP = 2  # Batches.
_MEASURED = 8


def cases(seconds: float, data_dir: str) -> Iterator[table.Row]:
  """How much of the speed of bare decoding remains with each step of the pipeline."""
  dataset = experiment.open_dataset(ours.recipe(data__data_dir=data_dir))
  makes = {'bare decoding': lambda: _bare(dataset)}
  for name, augment in {
    'crop, flip': '',
    'crop, flip, AutoAugment': 'autoaugment_imagenet',
  }.items():
    makes[name] = lambda augment=augment: _pipeline(dataset, augment)
  rates, end = {name: [] for name in makes}, time.perf_counter() + seconds * len(makes)
  while time.perf_counter() < end or len(rates['bare decoding']) < 5:
    for name, make in makes.items():
      rates[name].append(_rate(make()))
  bare = np.array(rates['bare decoding'])
  for name, found in rates.items():
    compared = {}
    if name != 'bare decoding':
      bar = 'at least 0.8' if 'AutoAugment' in name else ''
      ratio = measure.spread(np.array(found) / bare)
      compared = {'against': 'bare decoding', 'ratio': ratio, 'bar': bar}
    case = 'imagenet2012 to 224 pixels'
    yield table.Row(case, name, measure.spread(found), 'images/s', **compared)


def _pipeline(dataset, augment):
  config = ours.recipe(
    data__train_split='validation', data__augment=augment, training__batch_size=_BATCH
  )
  return experiment.train_batches(config, dataset, sharding.create_mesh(config.sharding.mesh), 0)


def _bare(dataset):
  """Whole images, decoded and discarded."""
  files = dataset.builder.info.splits['validation'].filepaths
  features = {'image': tf.io.FixedLenFeature([], tf.string)}

  def decode(record):
    encoded = tf.io.parse_single_example(record, features)['image']
    return tf.reduce_sum(tf.shape(tf.io.decode_jpeg(encoded, channels=3)))

  records = tf.data.TFRecordDataset(files).cache().repeat()
  return iter(records.map(decode, tf.data.AUTOTUNE).batch(_BATCH).prefetch(tf.data.AUTOTUNE))


def _rate(batches):
  for _ in itertools.islice(batches, _WARM_UP):
    pass
  start = time.perf_counter()
  for _ in itertools.islice(batches, _MEASURED):
    pass
  return _BATCH * _MEASURED / (time.perf_counter() - start)


if __name__ == '__main__':
  table.main('input', 'Input pipeline: images/s, over bare decoding', cases, data_dir=True)
