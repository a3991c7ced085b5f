"""Stochastic depth: whole branches, for each image by itself, in every kind of residual network."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import cost, layers

KEY = jax.random.key(0)
RATE = 0.4
# One of each kind that has residual blocks: its blocks, and how many branches keep the shape of
# what they are added to and so may be dropped. By the tables of the papers.
NETWORKS = {
  'mobilenet_v2': (17, 10),
  'mobilenet_v3_small': (11, 6),
  'efficientnet_lite0': (16, 9),
  'fbnet_v3_a0': (19, 13),
  'once_for_all_389m': (17, 12),
  'resnet_18': (8, 8),
  'vit_tiny': (12, 24),
}


def create(name, **options):
  return models.create(name, **{'num_classes': 7, 'dropout': 0.0, **options})


def branch_rates(network):
  """{path of a block: rates of the branches that it drops in training}, in order."""
  found = {}

  def record(next_fun, args, kwargs, context):
    if isinstance(context.module, nn.Dropout) and context.module.broadcast_dims:
      found.setdefault('/'.join(context.module.path[:-1]), []).append(context.module.rate)
    return next_fun(*args, **kwargs)

  def run(images):
    return network.init_with_output({'params': KEY, 'dropout': KEY}, images, train=True)

  with nn.intercept_methods(record):
    jax.eval_shape(run, jnp.zeros((2, 64, 64, 3)))
  return found


@pytest.mark.parametrize('name', NETWORKS)
def test_rates_grow_linearly_to_the_last_block(name):
  blocks, branches = NETWORKS[name]
  rates = branch_rates(create(name, stochastic_depth=RATE))
  assert sum(map(len, rates.values())) == branches
  for i, (path, found) in enumerate(rates.items()):
    block = i + 1 if 'stage' in path else int(path.removeprefix('block_'))
    assert found == pytest.approx([RATE * block / blocks] * len(found))


def test_neither_evaluation_nor_parameters_nor_cost_know_of_it():
  images = jnp.zeros((2, 32, 32, 3))
  without, dropping = (create('mobilenet_v3_small', stochastic_depth=rate) for rate in (0.0, RATE))
  shapes = jax.eval_shape(without.init, KEY, images)
  assert jax.eval_shape(dropping.init, KEY, images) == shapes
  assert cost.count(dropping, 32) == cost.count(without, 32)
  evaluation = (str(jax.make_jaxpr(n.apply)(shapes, images)) for n in (without, dropping))
  assert next(evaluation) == next(evaluation)
  # Without it training asks for no random numbers.
  train = functools.partial(without.apply, train=True, mutable=['batch_stats'])
  jax.eval_shape(train, shapes, images)


def test_branch_is_dropped_whole_or_divided_by_the_share_that_stays():
  block = layers.InvertedResidual(8, 16, 3, 1, squeeze=4, activation=jax.nn.relu, drop_rate=RATE)
  images = jnp.asarray(np.random.default_rng(0).normal(size=(400, 4, 4, 8)), jnp.float32)

  @jax.jit
  def run(variables):
    # In training both times: the statistics of the batch normalise.
    options = {'train': True, 'mutable': ['batch_stats']}
    always, _ = block.clone(drop_rate=0.0).apply(variables, images, **options)
    sometimes, _ = block.apply(variables, images, **options, rngs={'dropout': KEY})
    return always - images, sometimes - images

  branch, found = run(jax.jit(block.init, static_argnums=2)(KEY, images, False))
  dropped = np.all(found == 0, (1, 2, 3))
  assert abs(dropped.mean() - RATE) < 0.1  # 4 standard deviations.
  np.testing.assert_allclose(found[~dropped], branch[~dropped] / (1 - RATE), rtol=1e-4, atol=1e-5)


def test_lifted_specialist_drops_its_blocks_too():
  small = models.create('mobilenet_v1', num_classes=7, width=0.1, output_stride=8)
  specialist = create('mobilenet_v3_small', stochastic_depth=RATE)
  model = models.create(
    'basisnet', lightweight=small, specialist=specialist, resolution=32, num_bases=2
  )
  rates = branch_rates(model)
  assert len(rates) == NETWORKS['mobilenet_v3_small'][1]
  assert all(path.startswith('specialist/') for path in rates)


def test_network_without_residual_blocks_refuses_in_one_sentence():
  assert create('mobilenet_v1', stochastic_depth=0.0)
  with pytest.raises(UserError, match="stochastic_depth=0.4 drops.*'mobilenet_v1' has none"):
    create('mobilenet_v1', stochastic_depth=RATE)
  with pytest.raises(UserError, match='stochastic_depth=1.0 is too large; it must be below 1'):
    create('mobilenet_v2', stochastic_depth=1.0)
