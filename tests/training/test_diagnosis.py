"""What is said when numbers or memory fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.training import diagnosis


def test_finite_looks_at_every_floating_point_number():
  tree = {'a': jnp.ones(3), 'b': [jnp.int32(2), jnp.ones((2, 2), jnp.bfloat16)]}
  assert diagnosis.is_finite(tree)
  assert not diagnosis.is_finite(tree | {'a': jnp.array([1, jnp.inf, 2])})
  assert not diagnosis.is_finite(tree | {'c': jnp.full((2, 2), np.nan, jnp.bfloat16)})


def test_lack_of_memory_names_the_batch_size_and_what_to_do():
  sentence = (
    r'^The memory does not suffice for config.training.batch_size=2048, 256 images on each device '
    r'\(.*RESOURCE_EXHAUSTED.*\); lower it, or set config.training.accumulation=2\.$'
  )
  with pytest.raises(UserError, match=sentence):
    with diagnosis.out_of_memory(
      'config.training.batch_size', 2048, ', or set config.training.accumulation=2'
    ):
      jax.block_until_ready(jax.jit(lambda: jnp.zeros(2**50, jnp.int8))())  # A petabyte.


def test_other_errors_of_the_runtime_pass():
  with pytest.raises(jax.errors.JaxRuntimeError, match='INVALID_ARGUMENT'):
    with diagnosis.out_of_memory('key', 8):
      raise jax.errors.JaxRuntimeError('INVALID_ARGUMENT: something else')
