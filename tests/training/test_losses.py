"""The loss against its definition."""

import jax
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


def test_load_balance_is_zero_at_balance_and_bases_minus_one_at_collapse():
  mask = jnp.ones(6)
  each_its_own = jnp.eye(3)[jnp.array([0, 1, 2, 2, 1, 0])][:, None]
  assert losses.load_balance(each_its_own, mask) == pytest.approx(0, abs=1e-6)
  assert losses.load_balance(jnp.full((6, 2, 3), 0.2), mask) == pytest.approx(0, abs=1e-6)
  collapsed = jnp.eye(3)[jnp.array([1] * 6)][:, None]
  assert losses.load_balance(collapsed, mask) == pytest.approx(2)
  both = jnp.concatenate([each_its_own, collapsed], axis=1)  # The layers' mean.
  assert losses.load_balance(both, mask) == pytest.approx(1)


def test_load_balance_of_shares_is_bases_times_squared_means_minus_one():
  random = np.random.default_rng(0)
  coefficients = random.dirichlet([0.3] * 5, (7, 2)).astype(np.float32)
  mask = np.array([1, 1, 0, 1, 1, 0, 1], np.float32)
  means = coefficients[mask > 0].mean(0)
  expected = (5 * (means**2).sum(-1) - 1).mean()
  found = jax.jit(losses.load_balance)(coefficients, mask)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # The scale of what sums to no one, a sigmoid's, makes no difference.
  np.testing.assert_allclose(losses.load_balance(0.1 * coefficients, mask), found, rtol=1e-5)


def test_batch_without_images_has_a_finite_balance_and_no_gradient():
  gradient = jax.grad(losses.load_balance)(jnp.full((4, 2, 3), 0.3), jnp.zeros(4))
  np.testing.assert_array_equal(gradient, 0)
