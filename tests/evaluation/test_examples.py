"""The images that are shown are the extremes of all, one of a class, whatever the batches."""

import jax
import numpy as np
import pytest

from basisnet_jax import sharding
from basisnet_jax.evaluation import examples

IMAGES, CLASSES = 96, 8


@pytest.fixture(scope='module')
def values():
  random = np.random.default_rng(0)
  light, special = random.random((2, IMAGES)) < 0.5
  mask = np.ones(IMAGES, np.float32)
  mask[::10] = 0  # Fillers; they would win.
  sure = np.where(mask > 0, random.random(IMAGES), 1.5).astype(np.float32)
  return {
    'label': random.integers(0, CLASSES, IMAGES).astype(np.int32),
    'mask': mask,
    'confidence': sure,
    'lightweight_top1': light.astype(np.float32),
    'specialist_top1': special.astype(np.float32),
    'lightweight_logits': random.random((IMAGES, CLASSES)),
    'coefficients': random.random((IMAGES, 2, 3)).astype(np.float32),
  }


def watched(values, size, devices):
  """What is kept of batches of that size, by numbers of images."""
  found = examples.Examples(examples.of_two_stages(0.6), count=5)
  split = sharding.over_data(sharding.create_mesh(devices=jax.devices()[:devices]))
  number = np.arange(IMAGES, dtype=np.uint8)
  images = np.tile(number[:, None, None, None], (1, 2, 2, 3))
  for start in range(0, IMAGES, size):
    part = slice(start, start + size)
    rows = jax.device_put({key: value[part] for key, value in values.items()}, split)
    found.watch(rows, {'image': jax.device_put(images[part], split)})
  return found.best()


def expected(values, eligible, score):
  """The same, from all at once: the best of each class, the best of those."""
  best = {}
  for i in np.flatnonzero((values['mask'] > 0) & eligible):
    label = values['label'][i]
    if label not in best or score[i] > score[best[label]]:
      best[label] = i
  return sorted(best.values(), key=lambda i: -score[i])[:5]


@pytest.mark.parametrize('size, devices', [(96, 1), (8, 1), (24, 8)])
def test_best_of_each_class_are_kept_whatever_the_batches(values, size, devices):
  found = watched(values, size, devices)
  sure, exits = values['confidence'], values['confidence'] >= 0.6
  only_special = (values['specialist_top1'] > 0) & (values['lightweight_top1'] == 0)
  wanted = {
    'early': expected(values, exits, sure),
    'late': expected(values, ~exits, -sure),
    'rescued': expected(values, ~exits & only_special, -sure),
    'lost': expected(values, exits & only_special, sure),
  }
  assert {name: [e.image[0, 0, 0] for e in kept] for name, kept in found.items()} == wanted
  first = found['late'][0]
  assert first.values['label'] == values['label'][wanted['late'][0]]
  assert 'lightweight_logits' not in first.values
  np.testing.assert_array_equal(first.coefficients, values['coefficients'][wanted['late'][0]])


def test_mistakes_of_one_network_are_wrong_and_of_a_diverged_one_there_are_some():
  found = examples.Examples(examples.of_one_network(), count=2)
  rows = {
    'label': np.arange(4, dtype=np.int32),
    'mask': np.ones(4, np.float32),
    'network_probability': np.float32([0.9, 0.8, 0.7, np.nan]),
    'network_top1': np.float32([1, 0, 1, 0]),
  }
  rows = {key: jax.numpy.asarray(value) for key, value in rows.items()}
  found.watch(rows, {'image': jax.numpy.zeros((4, 2, 2, 3), jax.numpy.uint8)})
  labels = {name: [e.values['label'] for e in kept] for name, kept in found.best().items()}
  assert labels == {'surest': [0, 1], 'unsure': [3, 2], 'mistakes': [1, 3]}
