"""The peers' routing: CondConv and dynamic convolution around a network that is not ours."""

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import routed
from basisnet_jax.models.coefficients import AT_REST, Annealed

IMAGES = np.random.default_rng(0).normal(size=(4, 9, 9, 3)).astype(np.float32)
NUM_BASES = 3


class Block(nn.Module):
  """Two convolutions, whose coefficients CondConv makes of the block's input."""

  @nn.compact
  def __call__(self, x, train):
    x = nn.relu(nn.Conv(6, (3, 3), use_bias=False, name='first')(x))
    return nn.Conv(5, (1, 1), 2, use_bias=False, name='second')(x)


class Network(nn.Module):
  """A shared stem, a block, a classifier."""

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.relu(nn.Conv(4, (3, 3), name='stem')(x))
    return nn.Dense(7, name='classifier')(Block(name='block')(x, train).mean((1, 2)))


def make(kind, *layers):
  network = kind(network=Network(), layers=layers, num_bases=NUM_BASES)
  shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
  random = np.random.default_rng(1)
  variables = jax.tree.map(lambda s: random.normal(size=s.shape).astype(np.float32), shapes)
  return network, variables, variables['params']['network']


def convolve(x, kernels, strides=1):
  """One kernel for each image, by XLA's own convolution of one image at a time."""
  rows = [
    lax.conv_general_dilated(
      image[None], kernel, (strides,) * 2, 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    for image, kernel in zip(x, kernels, strict=True)
  ]
  return np.concatenate(rows)


def blend(coefficients, bases):
  return np.einsum('bk,k...->b...', coefficients, bases)


def dense(x, params):
  return x @ params['kernel'] + params['bias']


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize('annealed', [AT_REST, Annealed(0.25, 4.0)])
def test_condconv_routes_a_block_by_its_input_and_the_classifier_by_its_own(annealed):
  def route(x, params):
    mix = annealed.uniform_mix
    outputs = dense(x, params['routing']) / (annealed.temperature or 1)
    return (1 - mix) * sigmoid(outputs) + mix / NUM_BASES

  network, variables, params = make(routed.CondConv, 'block/first', 'block/second', 'classifier')
  block, classifier = params['block'], params['classifier']
  x = np.maximum(convolve(IMAGES, [params['stem']['kernel']] * 4) + params['stem']['bias'], 0)
  coefficients = route(x.mean((1, 2)), block)
  y = np.maximum(convolve(x, blend(coefficients, block['first']['bases'])), 0)
  y = convolve(y, blend(coefficients, block['second']['bases']), strides=2).mean((1, 2))
  kernels = blend(route(y, classifier), classifier['bases'])
  expected = np.einsum('bi,bio->bo', y, kernels) + classifier['bias']
  logits = jit(network.apply)(variables, IMAGES, annealed=annealed)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('annealed', [AT_REST, Annealed(0.25, 4.0)])
def test_dynamic_convolution_attends_to_each_layers_own_input(annealed):
  network, variables, params = make(routed.DynamicConvolution, 'block/first', 'block/second')
  x = np.maximum(convolve(IMAGES, [params['stem']['kernel']] * 4) + params['stem']['bias'], 0)
  for name, strides in (('first', 1), ('second', 2)):
    layer = params['block'][name]
    hidden = np.maximum(dense(x.mean((1, 2)), layer['routing']['reduce']), 0)
    assert hidden.shape[1] == x.shape[-1] // 4
    outputs = dense(hidden, layer['routing']['expand']) / (annealed.temperature or 1)
    mix = annealed.uniform_mix
    coefficients = (1 - mix) * jax.nn.softmax(outputs) + mix / NUM_BASES
    x = convolve(x, blend(coefficients, layer['bases']), strides)
    x = np.maximum(x, 0) if name == 'first' else x
  expected = dense(x.mean((1, 2)), params['classifier'])
  logits = jit(network.apply)(variables, IMAGES, annealed=annealed)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_temperature_makes_the_attention_uniform():
  network, variables, _ = make(routed.DynamicConvolution, 'block/first')
  mean = jax.tree_util.tree_map_with_path(
    lambda path, leaf: (
      np.broadcast_to(leaf.mean(0), leaf.shape) if path[-1].key == 'bases' else leaf
    ),
    variables,
  )
  hot = network.clone(temperature=1e6)
  expected = jit(network.apply)(mean, IMAGES)  # Of equal bases any blend is the same.
  np.testing.assert_allclose(jit(hot.apply)(variables, IMAGES), expected, rtol=1e-4, atol=1e-4)
  assert np.abs(network.apply(variables, IMAGES) - expected).max() > 1e-2


@pytest.mark.parametrize('kind', ['condconv', 'dynamic_convolution'])
def test_registry_gives_bases_to_the_layers_of_the_papers(kind):
  network = models.create(f'{kind}_efficientnet_b0', num_classes=5, width=0.25, num_bases=2)
  blocks = {
    int(layer.split('/')[0].split('_')[1]) for layer in network.layers if layer != 'last/conv'
  }
  assert blocks == set(range(9, 17) if kind == 'condconv' else range(1, 17))
  assert not any('squeeze' in layer or 'stem' in layer for layer in network.layers)
  assert network.num_bases == 2


def test_user_may_choose_the_layers():
  pattern = r'block_1[56]/expand|classifier'
  network = models.create(
    'condconv_efficientnet_b0', num_classes=5, width=0.25, based_layers=pattern
  )
  assert network.layers == ('block_15/expand/conv', 'block_16/expand/conv', 'classifier')
  with pytest.raises(UserError, match="No layer matches based_layers='head_9'; the layers are"):
    models.create('condconv_efficientnet_b0', num_classes=5, width=0.25, based_layers='head_9')


def test_cascade_is_two_plain_networks():
  light, special = Network(), Network()
  model = models.create('cascade', lightweight=light, specialist=special, resolution=9)
  variables = jit(model.init)(jax.random.key(0), IMAGES)
  assert set(variables['params']) == {'lightweight', 'specialist'}
  outputs = jit(model.apply)(variables, IMAGES)
  assert outputs.coefficients.shape == (4, 0, 16)
  for stage in ('lightweight', 'specialist'):
    expected = Network().apply({'params': variables['params'][stage]}, IMAGES)
    np.testing.assert_allclose(getattr(outputs, stage), expected, rtol=1e-5, atol=1e-5)
  assert jnp.abs(outputs.lightweight - outputs.specialist).max() > 1e-3
