"""Programs that compile in half the time, and random arrays to run them on."""

import functools

import jax
import numpy as np

jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def normal(seed, shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_variables(model, x):
  """Variables of a module that is called with `x`, none of them zero."""
  shapes = jax.eval_shape(model.init, jax.random.key(0), x)
  variables = jax.tree.map(lambda leaf: 0.3 * normal(leaf.size, leaf.shape), shapes)
  if 'batch_stats' in variables:  # Variances are positive.
    variables['batch_stats'] = jax.tree.map(np.abs, variables['batch_stats'])
  return variables
