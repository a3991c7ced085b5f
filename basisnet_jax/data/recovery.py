"""Batches in spite of broken images and of file systems that fail for a while.

TensorFlow's errors stop a pipeline. A batch is a function of its number alone, so the pipeline is
built anew from the failing batch on: as it was after a file could not be read, or, after a broken
image, one that replaces such images.
"""

from collections.abc import Callable, Iterator
import re
import time
import weakref

from absl import logging
import numpy as np

from basisnet_jax.data import records
from basisnet_jax.data.datasets import Dataset
from basisnet_jax.data.quiet_tensorflow import tf
from basisnet_jax.errors import UserError

POLICIES = ('skip', 'stop')
# Seconds before each new attempt to read a file.
RETRIES = (1, 5, 25, 125)
# More broken images than this share, and than so many, is a broken dataset.
MOST_BROKEN, FEW_BROKEN = 0.01, 10
_MOST_NAMED = 5  # Broken images of a dataset that are named one by one, once each.
FILLER_ID = -1  # Of what fills up the last batches of an evaluation.
_BATCHES_AHEAD = 2
# {builder: the broken images that were named}; an evaluation meets them again and again.
_named = weakref.WeakKeyDictionary()


def or_replacement(example: Callable, replacement: Callable) -> Callable:
  """Returns a function for `tf.data.Dataset.map`: `example(*args)`, or `replacement(*args)`.

  The latter where the former raises an error. It costs 0.1 to 0.2 ms a call.
  """

  def map_fn(*args):
    once = tf.data.Dataset.from_tensors(args)
    found = once.map(example).ignore_errors()
    return found.concatenate(once.map(replacement)).take(1).get_single_element()

  return map_fn


def batches(
  make: Callable[[int, bool], tf.data.Dataset],
  start: int,
  *,
  dataset: Dataset,
  policy: str,
) -> Iterator[dict[str, np.ndarray]]:
  """Returns the batches of `make` from number `start` on.

  Args:
    make: (number of the first batch, careful) -> dataset of batches: dicts of arrays that start
      with [b], with 'id' (`records.describe`, or `FILLER_ID`), 'label' and 'mask', 0 on
      `FILLER_ID` and, if careful, on broken images; if not, these raise an error.
    start: number of the first batch.
    dataset: what they are of.
    policy: 'skip' leaves broken images to the mask and names the first ones of a dataset in a
      warning, once each, until they are too many; 'stop' raises an error at the first.

  Returns:
    Iterator of the same dicts without 'id'.

  Raises:
    UserError: at a broken image, by policy; at a label that is no class; where a file cannot be
      read, after some attempts.
  """
  seen = broken = failures = 0
  number, careful = start, False
  named = _named.setdefault(dataset.builder, set())

  def checked(batch):
    nonlocal seen, broken, number, failures
    ids = batch.pop('id')
    _check_labels(batch['label'], ids, dataset)
    real = ids != FILLER_ID
    lost = ids[(batch['mask'] == 0) & real]
    seen, broken = seen + np.count_nonzero(real), broken + len(lost)
    if len(lost):
      _tell(lost, named, seen, broken, dataset, policy)
    number, failures = number + 1, 0
    return batch

  while True:
    try:
      ahead = make(number, careful).prefetch(_BATCHES_AHEAD).with_options(_untuned())
      # No loop: its variable would keep a batch's memory while the next one is made.
      yield from map(checked, ahead.as_numpy_iterator())
      return
    except tf.errors.InvalidArgumentError:
      if careful:
        raise
      careful = True
    except tf.errors.OpError as error:
      reason = re.sub(r'^{{.*}} | \[Op:.*', '', error.message.strip().split('\n')[0])[:300]
      if failures == len(RETRIES):
        raise UserError(
          f'The files of dataset {dataset.name!r} cannot be read ({reason}); mend or copy them '
          'again, and the same command continues from the last checkpoint.'
        ) from None
      logging.warning('Reading failed (%s); next attempt in %d s.', reason, RETRIES[failures])
      time.sleep(RETRIES[failures])
      failures += 1


def _untuned():
  """Options without tf.data's search for its parallelism, whose clocks cost one image in 20."""
  options = tf.data.Options()
  options.autotune.enabled = False
  return options


def _check_labels(labels, ids, dataset):
  wrong = (labels < 0) | (labels >= dataset.num_classes)
  if wrong.any():
    (first, *_) = np.flatnonzero(wrong)
    raise UserError(
      f'Label {labels[first]} of {records.describe(dataset, ids[first])} is none of the '
      f'{dataset.num_classes} classes of dataset {dataset.name!r}; prepare it again.'
    )


def _tell(lost, named, seen, broken, dataset, policy):
  names = {record_id: records.describe(dataset, record_id) for record_id in lost}
  first = names[lost[0]]
  if policy == 'stop':
    raise UserError(
      f'{first} of dataset {dataset.name!r} is no readable image (JPEG, PNG, BMP or GIF); mend it, '
      "or set config.data.broken_images='skip'."
    )
  if broken > max(FEW_BROKEN, MOST_BROKEN * seen):
    raise UserError(
      f'{broken} of the first {seen} images of dataset {dataset.name!r} cannot be read, such as '
      f'{first}: that is more than {MOST_BROKEN:.0%}; prepare it again.'
    )
  for record_id, name in names.items():
    if record_id not in named and len(named) < _MOST_NAMED:
      named.add(record_id)
      logging.warning('%s is no readable image and is left out.', name)
