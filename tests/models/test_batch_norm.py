"""Batch normalisation as one multiplication and addition; Flax's is the judge."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax.models import layers

SHAPE = (4, 9, 9, 6)
SETTINGS = {'momentum': 0.9, 'epsilon': 1e-3}


def draws():
  """Input whose means are as large as its deviations, what is to be reached, variables."""
  random = np.random.default_rng(0)
  x, target = random.normal(2, 1.5, SHAPE), random.normal(size=SHAPE)
  scale, bias, mean, var = random.uniform(0.5, 2, (4, SHAPE[-1]))
  variables = {'params': {'scale': scale, 'bias': bias}, 'batch_stats': {'mean': mean, 'var': var}}
  return jax.tree.map(jnp.float32, (x, target, variables))


def trained(make):
  """Output, new averages, and gradients by input and parameters, of a loss in training."""
  x, target, variables = draws()
  module = make(use_running_average=False, dtype=jnp.float32, **SETTINGS)

  def loss(x, params):
    y, changed = module.apply(variables | {'params': params}, x, mutable=['batch_stats'])
    return ((y - target) ** 3).mean(), (y, changed)

  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(x, variables['params'])


def test_it_trains_as_flax():
  found, wanted = trained(layers.BatchNorm), trained(nn.BatchNorm)
  assert jax.tree.structure(found) == jax.tree.structure(wanted)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 2e-5, 2e-6), found, wanted)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_it_evaluates_as_flax(dtype):
  x, _, variables = draws()
  found, wanted = (
    make(use_running_average=True, dtype=dtype, **SETTINGS).apply(variables, x.astype(dtype))
    for make in (layers.BatchNorm, nn.BatchNorm)
  )
  assert found.dtype == wanted.dtype == dtype
  # Both compute in float32: in bfloat16 an ulp is 2^-8.
  np.testing.assert_allclose(
    *map(np.float32, (found, wanted)), 2e-6 if dtype == 'float32' else 2**-8, 2e-6
  )


def test_it_starts_as_flax():
  x, *_ = draws()
  start = {'use_running_average': False, 'scale_init': nn.initializers.zeros}
  found, wanted = (
    make(**start).init(jax.random.key(0), x) for make in (layers.BatchNorm, nn.BatchNorm)
  )
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_the_backward_pass_keeps_the_input_alone():
  """Judge: what the compiled step holds of the activations' size, beside Flax's."""
  x = jnp.zeros((64, 32, 32, 8))

  def temporary(make):
    module = make(use_running_average=False, dtype=jnp.float32)
    variables = module.init(jax.random.key(0), x)

    def loss(kernel):
      y, _ = module.apply(variables, jnp.sin(x * kernel), mutable=['batch_stats'])
      return (jax.nn.relu(y) ** 3).sum()

    step = jax.jit(jax.grad(loss)).lower(jnp.ones(8)).compile()
    return step.memory_analysis().temp_size_in_bytes / x.nbytes

  assert temporary(layers.BatchNorm) < temporary(nn.BatchNorm) - 0.9
