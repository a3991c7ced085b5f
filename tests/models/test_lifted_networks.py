"""The lift of whole networks that are not ours."""

import functools

from flax import traverse_util
import foreign_networks
import jax
import jax.numpy as jnp
from lifting import assert_trees_close, run_lifted, stack
import numpy as np
import pytest
from quick import jit, normal, random_variables

from basisnet_jax.models import synthesis

BATCH = 3
NUM_BASES = 3
NETWORKS = {'resnet': foreign_networks.ResNet(), 'vit': foreign_networks.VisionTransformer()}
SHAPE = (16, 16, 3)


@functools.cache
def example(name):
  """Images, random variables and logits of a plain network."""
  network, x = NETWORKS[name], normal(0, (BATCH, *SHAPE))
  variables = random_variables(network, x)
  return x, variables, jit(network.apply)(variables, x)


@functools.cache
def layers_of(name):
  return tuple(synthesis.based_layers(NETWORKS[name], SHAPE))


@functools.partial(jit, static_argnums=0)
def run_network(name, variables, x, coefficients):
  """A network with all its layers lifted; coefficients `[b, layers, K]`."""
  by_layer = {path: coefficients[:, i] for i, path in enumerate(layers_of(name))}
  return run_lifted(NETWORKS[name], variables, x, by_layer)


def random_bases(path, shape):
  return 0.3 * normal(len('/'.join(path)), shape)


def test_layers_are_listed_in_order_with_the_shapes_of_their_kernels():
  assert synthesis.based_layers(NETWORKS['resnet'], SHAPE) == {
    'stem': (7, 7, 3, 8),
    'Conv_0': (1, 1, 8, 8),
    'Conv_1': (3, 3, 2, 8),
    'Conv_2': (3, 3, 8, 8),
    'Conv_3': (1, 1, 8, 16),
    'Conv_4': (3, 3, 4, 16),
    'Conv_5': (3, 3, 16, 16),
    'skip_16': (1, 1, 8, 16),
    'logits': (16, 5),
  }
  layers = synthesis.based_layers(NETWORKS['resnet'], SHAPE)
  assert list(layers)[:2] == ['stem', 'Conv_0'] and list(layers)[-2:] == ['skip_16', 'logits']


def test_attention_of_stock_flax_is_lifted_too():
  layers = synthesis.based_layers(NETWORKS['vit'], SHAPE, 'attention_0')
  assert layers == {
    'attention_0/query': (12, 3, 4),
    'attention_0/key': (12, 3, 4),
    'attention_0/value': (12, 3, 4),
    'attention_0/out': (3, 4, 12),
  }


@pytest.mark.parametrize('name', NETWORKS)
def test_listed_shapes_are_those_of_the_plain_kernels(name):
  _, variables, _ = example(name)
  flat = traverse_util.flatten_dict(variables['params'], sep='/')
  for path, shape in synthesis.based_layers(NETWORKS[name], SHAPE).items():
    assert flat[f'{path}/kernel'].shape == shape


def test_pattern_selects_layers_from_the_start_of_their_path():
  def select(pattern):
    return list(synthesis.based_layers(NETWORKS['vit'], SHAPE, pattern))

  assert select('mlp') == ['mlp_0_in', 'mlp_0_out', 'mlp_1_in', 'mlp_1_out']
  assert select('.*out') == ['attention_0/out', 'mlp_0_out', 'attention_1/out', 'mlp_1_out']
  assert select('out') == []
  assert 'logits' not in select('(?!logits)') and len(select('(?!logits)')) == len(select('')) - 1


@pytest.mark.parametrize('name', NETWORKS)
def test_network_with_equal_bases_is_the_plain_network(name):
  x, variables, logits = example(name)
  params = stack(variables['params'], layers_of(name), NUM_BASES)
  assert not any('kernel' in path for path in traverse_util.flatten_dict(params))
  coefficients = jax.nn.softmax(normal(1, (BATCH, len(layers_of(name)), NUM_BASES)))
  actual = run_network(name, {**variables, 'params': params}, x, coefficients)
  np.testing.assert_allclose(actual, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', NETWORKS)
def test_network_with_one_hot_coefficients_is_for_each_image_the_plain_network_chosen(name):
  # Each image selects one of three plain networks: the judge runs them without any lift.
  x, variables, _ = example(name)
  params = stack(variables['params'], layers_of(name), NUM_BASES, random_bases)
  chosen = [2, 0, 1]
  one_hot = np.eye(NUM_BASES, dtype=np.float32)[chosen]
  coefficients = np.repeat(one_hot[:, None], len(layers_of(name)), axis=1)
  actual = run_network(name, {**variables, 'params': params}, x, coefficients)
  apply = jit(NETWORKS[name].apply)
  for i, k in enumerate(chosen):
    one = {}
    for path, leaf in traverse_util.flatten_dict(params).items():
      is_bases = path[-1] == 'bases'
      one[(*path[:-1], 'kernel') if is_bases else path] = leaf[k] if is_bases else leaf
    expected = apply({**variables, 'params': traverse_util.unflatten_dict(one)}, x)[i]
    np.testing.assert_allclose(actual[i], expected, rtol=1e-4, atol=1e-4)


def test_batch_statistics_of_a_lifted_network_move_as_the_plain_ones():
  x, variables, _ = example('resnet')
  network = NETWORKS['resnet']
  lifted = {**variables, 'params': stack(variables['params'], layers_of('resnet'), 2)}
  options = {'train': True, 'mutable': ['batch_stats']}
  half = dict.fromkeys(layers_of('resnet'), jnp.full((BATCH, 2), 0.5))
  actual = jit(lambda v: run_lifted(network, v, x, half, **options))(lifted)
  expected = jit(lambda v: network.apply(v, x, **options))(variables)
  assert_trees_close(actual, expected, 1e-3)


@pytest.mark.parametrize('name', NETWORKS)
def test_each_images_result_is_its_own(name):
  x, variables, _ = example(name)
  params = stack(variables['params'], layers_of(name), NUM_BASES, random_bases)
  run = functools.partial(run_network, name, {**variables, 'params': params})
  c = np.array(jax.nn.softmax(normal(5, (BATCH, len(layers_of(name)), NUM_BASES))))
  logits = run(x, c)
  order = np.array([2, 0, 1])
  np.testing.assert_allclose(run(x[order], c[order]), logits[order], rtol=1e-4, atol=1e-5)
  other_x, other_c = x.copy(), c.copy()
  other_x[1:], other_c[1:] = 9.0, 1.0
  np.testing.assert_allclose(run(other_x, other_c)[0], logits[0], rtol=1e-4, atol=1e-5)
  same_images = run(np.repeat(x[:1], BATCH, 0), c)
  assert np.abs(same_images[0] - same_images[1]).max() > 1e-2  # The coefficients matter.
