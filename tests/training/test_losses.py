"""The loss against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax.training import losses


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_equals_its_definition(smoothing):
  random = np.random.default_rng(0)
  logits = random.normal(0, 3, (6, 5)).astype(np.float32)
  labels = random.integers(0, 5, 6)
  probabilities = np.exp(logits.astype(np.float64))
  probabilities /= probabilities.sum(1, keepdims=True)
  targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
  expected = -(targets * np.log(probabilities)).sum(1)
  found = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_large_logits_do_not_overflow():
  found = losses.cross_entropy(jnp.array([[1e4, 0.0], [0.0, 1e4]]), jnp.array([0, 0]))
  np.testing.assert_array_equal(found, [0.0, 1e4])
