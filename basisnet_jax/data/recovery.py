"""Batches in spite of broken images and temporary failures of file systems.

TensorFlow's errors stop a pipeline. Since a batch is a function of its number alone, the pipeline
is rebuilt from the failing batch on: unchanged after a file could not be read; after a broken
image, as one that replaces such images.
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
# With more broken images than both this share and this number, the dataset counts as broken.
MOST_BROKEN, FEW_BROKEN = 0.01, 10
_MOST_NAMED = 5  # Broken images of a dataset that are named individually, once each.
FILLER_ID = -1  # The id of padding in the last batches of an evaluation.
_BATCHES_AHEAD = 2
# {builder: the broken images already named}; each evaluation meets them again.
_named = weakref.WeakKeyDictionary()


def or_replacement(example: Callable, replacement: Callable) -> Callable:
  """Returns a function for `tf.data.Dataset.map`: `example(*args)` or, on error, `replacement`.

  `replacement` takes the same arguments. This costs 0.1 to 0.2 ms per call.
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
    make: (number of the first batch, careful) -> dataset of batches: dicts of arrays [b, ...], with
      'id' (see `records.describe`, or `FILLER_ID`), 'label' and 'mask'. The mask is 0 on
      `FILLER_ID` and, if careful, on broken images; if not careful, these raise an error.
    start: number of the first batch.
    dataset: the dataset of the batches.
    policy: 'skip' masks broken images out and names a dataset's first ones in warnings, once each,
      until they are too many; 'stop' raises an error at the first.

  Returns:
    Iterator of the same dicts without 'id'.

  Raises:
    UserError: for a broken image (by policy) or too many, for a label that is no class, or for a
      file that cannot be read after several attempts.
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
      # Not a loop, whose variable would keep a batch in memory while the next one is made.
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
  """Options without tf.data's autotuning, whose clocks cost one image in 20."""
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
