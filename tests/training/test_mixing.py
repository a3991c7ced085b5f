"""Mixup and CutMix: each mixed image is put together again from the two that it was made of."""

import functools

import jax
import numpy as np
from programs import collectives
import pytest
import scipy.stats

from basisnet_jax import sharding
from basisnet_jax.training import mixing

CLASSES, SIZE = 10, 4096
KEY = jax.random.key(0)
BOTH = {'mixup': 1.0, 'cutmix': 1.0, 'cutmix_share': 0.25}


@functools.cache
def mixed(mixup=0.0, cutmix=0.0, cutmix_share=0.5):
  """(batch before, batch after) on the host; image 6 does not count, classes are its neighbour's
  plus one, and images have pixels that differ from their neighbours' everywhere."""
  random = np.random.default_rng(0)
  images = random.integers(0, 128, (SIZE, 8, 12, 3), np.uint8)
  images[1::2] += 128
  labels = np.repeat(random.integers(0, CLASSES, SIZE // 2), 2)
  labels[1::2] = (labels[1::2] + 1) % CLASSES
  batch = {'image': images, 'label': labels.astype(np.int32), 'mask': np.ones(SIZE, np.float32)}
  batch['mask'][6] = 0
  mix = mixing.make_mixer(CLASSES, mixup=mixup, cutmix=cutmix, cutmix_share=cutmix_share)
  return batch, jax.device_get(jax.jit(mix)(batch, KEY))


def own_shares(before, after):
  """What the targets say that an image has of itself; the targets must say nothing else."""
  labels, rows = before['label'], np.arange(SIZE)
  own, other = after['target'][rows, labels], after['target'][rows, labels[rows ^ 1]]
  np.testing.assert_allclose(own + other, 1, rtol=1e-6)
  np.testing.assert_allclose(after['target'].sum(1), 1, rtol=1e-6)
  return own


def test_mixup_blends_images_as_it_blends_targets():
  before, after = mixed(mixup=0.4)
  own = own_shares(before, after)
  images = before['image'].astype(np.float64)
  share = own[:, None, None, None]
  expected = share * images + (1 - share) * images[np.arange(SIZE) ^ 1]
  np.testing.assert_allclose(after['image'], expected, rtol=1e-4, atol=1e-3)
  # Beta(0.4, 0.4): mean 1/2, variance 1 / (4 * (2 * 0.4 + 1)).
  assert own.mean() == pytest.approx(0.5, abs=0.02)
  assert own.var() == pytest.approx(1 / 7.2, rel=0.05)


@pytest.mark.parametrize('alpha', [0.2, 1.0, 8.0])
def test_mixups_ratios_are_betas(alpha):
  own = own_shares(*mixed(mixup=alpha))
  own = np.delete(own, 6)
  assert scipy.stats.kstest(own, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_cutmix_puts_a_box_of_the_neighbour_in_and_counts_its_pixels():
  before, after = mixed(cutmix=1.0)
  own = own_shares(before, after)
  images = before['image'].astype(np.float32)
  is_own = after['image'] == images
  assert np.all(is_own | (after['image'] == images[np.arange(SIZE) ^ 1]))
  assert np.all(is_own == is_own[..., :1])
  inside = ~is_own[..., 0]
  np.testing.assert_allclose(1 - inside.mean((1, 2)), own, rtol=1e-6, atol=1e-6)
  # A box holds all pixels of its rows and columns.
  boxes = inside.any(2)[:, :, None] & inside.any(1)[:, None, :]
  np.testing.assert_array_equal(inside, boxes)
  heights, widths = inside.any(2).sum(1), inside.any(1).sum(1)
  assert {*range(6)} <= {*heights} and {*range(9)} <= {*widths}
  # How often a box about any centre covers a pixel, over all shares, which are uniform.
  shares = (np.arange(1000) + 0.5) / 1000

  def covered(size):
    half = np.floor(size * np.sqrt(1 - shares)).astype(int)[:, None, None] // 2
    distance = np.arange(size)[:, None] - np.arange(size)
    return ((distance >= -half) & (distance < half)).mean(2)

  expected = (covered(8)[:, :, None] * covered(12)[:, None]).mean(0)
  np.testing.assert_allclose(inside.mean(0), expected, atol=0.025)  # Four standard deviations.


def test_label_is_the_larger_parts():
  for options in ({'mixup': 0.4}, {'cutmix': 1.0}):
    before, after = mixed(**options)
    of_label = after['target'][np.arange(SIZE), after['label']]
    np.testing.assert_array_equal(of_label, after['target'].max(1))
    assert 0.02 < (after['label'] != before['label']).mean() < 0.5


def test_of_both_each_gets_its_share_of_images():
  before, after = mixed(**BOTH)
  blended = (after['image'] % 1 != 0).any((1, 2, 3))
  assert blended.mean() == pytest.approx(0.75, abs=0.06)
  assert own_shares(before, after)[~blended].mean() < 0.9


@pytest.mark.parametrize('options', [{'mixup': 0.4}, {'cutmix': 1.0}])
def test_broken_image_mixes_with_nothing(options):
  before, after = mixed(**options)
  np.testing.assert_array_equal(after['image'][6:8], before['image'][6:8])
  np.testing.assert_array_equal(after['target'][6:8], np.eye(CLASSES)[before['label'][6:8]])
  np.testing.assert_array_equal(after['label'][6:8], before['label'][6:8])
  np.testing.assert_array_equal(after['mask'], before['mask'])


def test_devices_mix_what_one_does_and_exchange_nothing():
  mesh = sharding.create_mesh()
  split, whole = sharding.over_data(mesh), sharding.replicated(mesh)
  mix = mixing.make_mixer(CLASSES, **BOTH)
  before, expected = mixed(**BOTH)
  program = jax.jit(mix, in_shardings=(split, whole), out_shardings=split)
  program = program.lower(before, KEY).compile()
  assert collectives(program.as_text()) == set()
  found, other = program(before, KEY), program(before, jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert not np.array_equal(found['target'], other['target'])
