"""Synthesis, and the lift of single plain layers."""

from flax import linen as nn
import jax
import jax.numpy as jnp
from lifting import assert_trees_close, run_lifted, stack
import numpy as np
import pytest
from quick import jit, normal

from basisnet_jax.models import convolution, synthesis

BATCH = 3
NUM_BASES = 3


# The two ways to run a matrix layer.


def test_synthesis_is_the_weighted_sum_of_the_bases():
  coefficients, bases = normal(0, (BATCH, 16)), normal(1, (16, 3, 3, 5, 7))
  expected = np.einsum('bk,kpqio->bpqio', coefficients.astype(float), bases.astype(float))
  np.testing.assert_allclose(synthesis.synthesize(coefficients, bases), expected, atol=1e-5)


def test_synthesis_keeps_the_type_of_the_bases():
  blended = synthesis.synthesize(normal(0, (2, 4)), jnp.ones((4, 5, 6), jnp.bfloat16))
  assert blended.dtype == jnp.bfloat16 and blended.shape == (2, 5, 6)


KERNELS = [(1, 1, 5, 7), (3, 3, 5, 7), (3, 3, 1, 7), (5, 7)]


@pytest.mark.parametrize('kernel', KERNELS, ids=str)
def test_one_images_kernel_is_the_one_that_it_has_in_a_batch(kernel):
  coefficients, bases = normal(0, (BATCH, 16)), normal(1, (16, *kernel))

  def run(c, b):
    y, back = jax.vjp(synthesis.synthesize, c, b)
    return y, *back(jnp.cos(y))

  both = jax.jit(run)(coefficients, bases)
  alone = [jax.jit(run)(coefficients[i : i + 1], bases) for i in range(BATCH)]
  values, of_coefficients, of_bases = zip(*alone, strict=True)
  np.testing.assert_allclose(jnp.concatenate(values), both[0], atol=1e-5)
  np.testing.assert_allclose(jnp.concatenate(of_coefficients), both[1], rtol=1e-5, atol=1e-4)
  np.testing.assert_allclose(sum(of_bases), both[2], atol=1e-5)


@pytest.mark.parametrize('kernel', [(1, 1, 5, 7), (5, 7)], ids=str)
def test_mixing_outputs_equals_blending_kernels_in_values_and_gradients(kernel):
  is_conv = len(kernel) == 4
  x = normal(0, (BATCH, 2, 3, 5) if is_conv else (BATCH, 5))
  coefficients, bases = normal(1, (BATCH, NUM_BASES)), normal(2, (NUM_BASES, *kernel))

  def by_kernels(x, coefficients, bases):
    kernels = synthesis.synthesize(coefficients, bases)
    return convolution.convolve(x, kernels) if is_conv else jnp.einsum('bi,bio->bo', x, kernels)

  cotangent = normal(3, (*x.shape[:-1], 7))
  results = []
  for function in (synthesis.mix_outputs, by_kernels):
    y, back = jax.vjp(function, x, coefficients, bases)
    results.append((y, *back(cotangent)))
  assert_trees_close(*results)


# Single layers.

CONVOLUTIONS = [
  nn.Conv(6, (1, 1)),
  nn.Conv(6, (1, 1), use_bias=False, strides=2),
  nn.Conv(6, (1, 1), padding=1),
  nn.Conv(6, (3, 3), strides=(2, 1), bias_init=nn.initializers.normal()),
  nn.Conv(6, (3, 3), padding='VALID', kernel_dilation=2, use_bias=False),
  nn.Conv(6, (5, 3), padding=((2, 1), (0, 3)), strides=2),
  nn.Conv(6, (3, 3), padding=(1, 0), feature_group_count=2),
  nn.Conv(4, (3, 3), strides=None, feature_group_count=4),
  nn.Conv(4, [5, 5], strides=2, padding='SAME', feature_group_count=4, use_bias=False),
]
DENSE = [
  (nn.Dense(6), (4,)),
  (nn.Dense(6, use_bias=False), (9, 4)),
  (nn.DenseGeneral((2, 3), bias_init=nn.initializers.normal()), (9, 4)),
  (nn.DenseGeneral(6, axis=(-2, -1)), (9, 2, 3)),
  (nn.DenseGeneral((2, 3), axis=(-2, -1), use_bias=False), (4, 3)),
]


@pytest.mark.parametrize(
  ('layer', 'shape'),
  [*((layer, (7, 9, 4)) for layer in CONVOLUTIONS), *DENSE],
  ids=[
    *(f'conv_{i}' for i in range(len(CONVOLUTIONS))),
    *(f'dense_{i}' for i in range(len(DENSE))),
  ],
)
def test_lifted_layer_equals_the_plain_one_with_each_images_kernel(layer, shape):
  x = normal(0, (BATCH, *shape))
  params = layer.init(jax.random.key(0), x)['params']
  params = stack(params, [''], NUM_BASES, lambda path, shape: normal(1, shape))
  coefficients = normal(2, (BATCH, NUM_BASES))

  def lifted(params, coefficients, x):
    return run_lifted(layer, {'params': params}, x, {'': coefficients})

  def each(params, coefficients, x):
    def one(i):
      kernel = jnp.tensordot(coefficients[i], params['bases'], 1)
      rest = {name: leaf for name, leaf in params.items() if name != 'bases'}
      return layer.apply({'params': {**rest, 'kernel': kernel}}, x[i : i + 1])

    return jnp.concatenate([one(i) for i in range(BATCH)])

  def values_and_gradients(function):
    y, back = jax.vjp(function, params, coefficients, x)
    return y, back(normal(3, y.shape))

  actual, expected = (jit(values_and_gradients, static_argnums=0)(f) for f in (lifted, each))
  assert_trees_close(actual, expected, 5e-5)


@pytest.mark.parametrize(
  ('layer', 'shape'),
  [(CONVOLUTIONS[3], (7, 9, 4)), (DENSE[3][0], (9, 2, 3))],
  ids=['conv', 'dense'],
)
def test_parameters_of_a_lifted_layer_are_the_plain_ones_with_a_stack_of_bases(layer, shape):
  x = jnp.zeros((BATCH, *shape))
  plain = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  with synthesis.lifted((), {'': jnp.ones((BATCH, NUM_BASES))}):
    lifted = jax.eval_shape(layer.init, jax.random.key(0), x)['params']
  assert lifted['bases'].shape == (NUM_BASES, *plain['kernel'].shape)
  assert lifted['bias'].shape == plain['bias'].shape
  assert set(lifted) == {'bases', 'bias'}


@pytest.mark.parametrize(
  ('layer', 'shape'),
  [(nn.Conv(64, (3, 3)), (4, 4, 32)), (nn.DenseGeneral((8, 16)), (3, 64))],
  ids=['conv', 'dense'],
)
def test_every_basis_starts_as_an_independent_kernel_of_the_usual_spread(layer, shape):
  def init(key):
    x = jnp.zeros((1, *shape))
    plain = layer.init(key, x)['params']
    with synthesis.lifted((), {'': jnp.ones((1, 3))}):
      lifted = layer.init(key, x)['params']
    return plain['kernel'], lifted['bases']

  kernel, bases = jit(init)(jax.random.key(0))
  np.testing.assert_allclose(bases.std(axis=tuple(range(1, bases.ndim))), kernel.std(), rtol=0.05)
  correlation = np.corrcoef(bases.reshape(3, -1)) - np.eye(3)
  assert np.abs(correlation).max() < 0.05


@pytest.mark.parametrize('correlation', [0.0, 0.3, 0.9, 1.0])
def test_correlated_bases_have_that_correlation_and_the_spread_they_had(correlation):
  params = {'layer': {'bases': normal(0, (4, 200, 50)), 'bias': normal(1, (50,))}}
  found = synthesis.correlated(params, correlation)['layer']
  np.testing.assert_array_equal(found['bias'], params['layer']['bias'])
  bases = found['bases'].reshape(4, -1)
  np.testing.assert_allclose(bases.std(1), 1, rtol=0.05)
  expected = np.full((4, 4), correlation) + (1 - correlation) * np.eye(4)
  np.testing.assert_allclose(np.corrcoef(bases), expected, atol=0.03)


def test_lifted_layer_computes_in_the_type_of_the_layer():
  layer = nn.Conv(4, (3, 3), dtype=jnp.bfloat16)
  x = normal(0, (BATCH, 6, 6, 3))
  with synthesis.lifted((), {'': jnp.ones((BATCH, NUM_BASES))}):
    y, variables = layer.init_with_output(jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  assert variables['params']['bases'].dtype == jnp.float32


# Layers that need care.


class Called(nn.Module):
  """A network of one function."""

  function: object

  @nn.compact
  def __call__(self, x):
    return self.function(x)


class StandardizedConv(nn.Conv):
  """Computes something else than its base class."""


def windows(x):
  """A layer on image quarters: its first axis is not the batch."""
  b, h, w, c = x.shape
  x = x.reshape(b, 2, h // 2, 2, w // 2, c).swapaxes(2, 3).reshape(4 * b, h // 2, w // 2, c)
  return nn.Conv(4, (3, 3), name='layer')(x).reshape(b, 4, -1)


@pytest.mark.parametrize(
  'function',
  [
    lambda x: StandardizedConv(4, (3, 3), name='layer')(x),
    lambda x: nn.Conv(4, (3, 3), mask=jnp.ones((3, 3, 3, 4)), name='layer')(x),
    lambda x: nn.Conv(4, (3, 3), padding='CIRCULAR', name='layer')(x),
    lambda x: nn.Conv(4, (3, 3), padding='REFLECT', name='layer')(x),
    lambda x: nn.Conv(4, (3, 3), padding=1, input_dilation=2, name='layer')(x),
    lambda x: nn.ConvTranspose(4, (3, 3), name='layer')(x),
    lambda x: nn.Conv(4, (3,), name='layer')(x.reshape(x.shape[0], -1, 3)),
    lambda x: nn.Conv(4, (3, 3), name='layer')(x[:, None]),
    lambda x: nn.DenseGeneral(4, axis=1, name='layer')(x),
    lambda x: nn.DenseGeneral(4, batch_dims=(0,), name='layer')(x),
    lambda x: nn.Dense(4, name='layer')(x[0]),
    lambda x: nn.WeightNorm(nn.Conv(4, (3, 3), name='layer'))(x),
    lambda x: nn.SpectralNorm(nn.Dense(4, name='layer'))(x, update_stats=False),
    windows,
  ],
)
def test_layer_that_cannot_hold_bases_is_not_listed(function):
  assert synthesis.based_layers(Called(function), (8, 8, 3)) == {}


def test_layer_called_twice_has_one_set_of_bases():
  def twice(x):
    layer = nn.Conv(3, (3, 3), name='layer')
    return layer(layer(x))

  network, x = Called(twice), normal(0, (BATCH, 6, 6, 3))
  assert synthesis.based_layers(network, x.shape[1:]) == {'layer': (3, 3, 3, 3)}
  variables = network.init(jax.random.key(0), x)
  params = stack(variables['params'], ['layer'], 1)
  actual = run_lifted(network, {'params': params}, x, {'layer': jnp.ones((BATCH, 1))})
  np.testing.assert_allclose(actual, network.apply(variables, x), atol=1e-5)


def test_input_by_name_recomputation_and_annotated_kernels_are_fine():
  init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, 'model'))

  class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.DenseGeneral(4, kernel_init=init, name='layer')(inputs=x)

  network, x = Called(lambda x: nn.remat(Block)(name='block')(x)), normal(0, (BATCH, 50, 3))
  assert synthesis.based_layers(network, x.shape[1:]) == {'block/layer': (3, 4)}

  def loss(x):
    with synthesis.lifted((), {'block/layer': jnp.ones((BATCH, 2))}):
      y, variables = network.init_with_output(jax.random.key(0), x)
    return (y**2).sum(), variables['params']['block']['layer']['bases']

  (value, bases), gradient = jax.value_and_grad(loss, has_aux=True)(x)
  kernel = bases.sum(0)
  np.testing.assert_allclose(value, ((x @ kernel) ** 2).sum(), rtol=1e-5)
  np.testing.assert_allclose(gradient, 2 * x @ kernel @ kernel.T, rtol=1e-4, atol=1e-5)


def test_only_the_network_below_root_is_lifted():
  class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
      with synthesis.lifted(('second',), {'': jnp.ones((len(x), 2))}):
        return nn.Dense(3, name='first')(x) + nn.Dense(3, name='second')(x)

  params = Pair().init(jax.random.key(0), jnp.ones((2, 4)))['params']
  assert jax.tree.map(jnp.shape, params) == {
    'first': {'kernel': (4, 3), 'bias': (3,)},
    'second': {'bases': (2, 4, 3), 'bias': (3,)},
  }


def test_network_is_called_with_train_only_if_it_takes_it():
  class Takes(nn.Module):
    def __call__(self, x, train):
      return x + train

  class TakesNone(nn.Module):
    def __call__(self, x):
      return x

  assert synthesis.call(Takes(), 1, train=True) == 2
  assert synthesis.call(Takes(), 1, train=False) == 1
  assert synthesis.call(TakesNone(), 1, train=True) == 1
