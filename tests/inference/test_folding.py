"""Normalisation folded into convolutions: the same network."""

import functools
import zlib

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax import models
from basisnet_jax.inference import folding

SIDE = 32


def shaken(model):
  """As after training: no statistic is what it was at first."""
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))

  def shake(path, leaf):
    noise = jax.random.normal(jax.random.key(zlib.crc32(str(path).encode())), leaf.shape)
    return leaf * jnp.exp(0.3 * noise) if path[-1].key == 'var' else leaf + 0.1 * noise

  return jax.tree_util.tree_map_with_path(shake, variables)


@functools.cache
def network(name):
  if name == 'basisnet':
    model = models.create(
      'basisnet',
      lightweight=models.create('mobilenet_v3_small', num_classes=10, width=0.5),
      specialist=models.create('mobilenet_v3_small', num_classes=10, width=0.5),
      resolution=SIDE,
      num_bases=3,
      based_layers=r'block_\d+/(expand|depthwise)/conv',
    )
  elif name == 'shared':
    model = Shared()
  else:
    model = models.create(name, num_classes=10)
  return model, shaken(model)


class Shared(nn.Module):
  """One convolution, normalised twice; and one with a bias, normalised once."""

  @nn.compact
  def __call__(self, x):
    conv, norm = nn.Conv(3, (3, 3)), functools.partial(nn.BatchNorm, use_running_average=True)
    y = norm()(conv(x)) + norm()(conv(x + 1))
    y = norm()(nn.Conv(4, (1, 1), name='biased')(nn.relu(y)))
    y = norm(use_scale=False)(nn.Conv(5, (1, 1))(y))
    shortcut = nn.Conv(5, (3, 3), name='shortcut')(y)  # As before a block that starts with a norm.
    return (shortcut + nn.relu(norm()(shortcut))).mean((1, 2))


@pytest.mark.parametrize('equalize', [False, True])
@pytest.mark.parametrize('name', ['basisnet', 'shared', 'resnet_10'])
def test_it_is_the_same_network(name, equalize):
  model, variables = network(name)
  folded = folding.fold(model, variables, SIDE, equalize=equalize)
  images = np.float32(np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE, 3)))
  # No convolution loses accuracy to another order of the same products.
  run = jax.jit(lambda v, x: jax.tree.leaves(model.apply(v, x)))
  for found, wanted in zip(run(folded, images), run(variables, images), strict=True):
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)
    assert np.ptp(wanted) > 1e-3


@pytest.mark.parametrize('name', ['basisnet', 'resnet_10'])
def test_only_a_bias_is_left(name):
  model, variables = network(name)
  folded = folding.fold(model, variables, SIDE)
  stats = traverse_util.flatten_dict(folded['batch_stats'])
  params = traverse_util.flatten_dict(folded['params'])
  assert stats
  for (*path, kind), leaf in stats.items():
    if kind == 'mean':
      np.testing.assert_array_equal(leaf, 0)
      np.testing.assert_array_equal(params[*path, 'scale'], 1)


def test_equalized_bases_have_one_largest_weight_for_each_channel():
  model, variables = network('basisnet')
  params = folding.fold(model, variables, SIDE, equalize=True)['params']
  bases = {k: v for k, v in traverse_util.flatten_dict(params).items() if k[-1] == 'bases'}
  assert len(bases) == len(model.layers) > 10
  for leaf in bases.values():
    np.testing.assert_allclose(np.abs(leaf).max((0, 1, 2, 3)), 1, rtol=1e-6)


def test_layers_that_run_twice_or_cannot_hold_a_bias_stay():
  model, variables = network('shared')
  folded = folding.fold(model, variables, SIDE)
  old, new = (traverse_util.flatten_dict(v['params'], sep='/') for v in (variables, folded))
  changed = {path for path in old if not np.array_equal(old[path], new[path])}
  assert changed == {'biased/kernel', 'biased/bias', 'BatchNorm_2/scale', 'BatchNorm_2/bias'}
