"""The losses and an image's weight against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax.training import losses


def random_logits(seed, scale=3.0):
  return np.random.default_rng(seed).normal(0, scale, (6, 5)).astype(np.float32)


def softmax(logits):
  """In float64."""
  powers = np.exp(logits.astype(np.float64))
  return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_equals_its_definition(smoothing):
  logits, labels = random_logits(0), np.random.default_rng(1).integers(0, 5, 6)
  targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
  expected = -(targets * np.log(softmax(logits))).sum(1)
  found = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_cross_entropy_of_shares_is_the_shares_of_cross_entropies():
  logits, first, second = random_logits(0), np.arange(6) % 5, np.arange(6) * 2 % 5
  share = np.linspace(0, 1, 6)[:, None]
  targets = share * np.eye(5)[first] + (1 - share) * np.eye(5)[second]
  of_each = [np.asarray(losses.cross_entropy(logits, labels, 0.1)) for labels in (first, second)]
  found = losses.cross_entropy(jnp.asarray(logits), jnp.asarray(targets, jnp.float32), 0.1)
  expected = share[:, 0] * of_each[0] + (1 - share[:, 0]) * of_each[1]
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_large_logits_do_not_overflow():
  found = losses.cross_entropy(jnp.array([[1e4, 0.0], [0.0, 1e4]]), jnp.array([0, 0]))
  np.testing.assert_array_equal(found, [0.0, 1e4])
  found = losses.distillation(jnp.array([[1e4, 0.0]]), jnp.array([[0.0, 1e4]]), 2.0)
  np.testing.assert_allclose(found, [4 * 5e3])


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_distillation_equals_its_definition(temperature):
  logits, teacher = random_logits(0), random_logits(1)
  p, q = softmax(teacher / temperature), softmax(logits / temperature)
  found, pull = jax.vjp(lambda *x: losses.distillation(*x, temperature), logits, teacher)
  np.testing.assert_allclose(found, temperature**2 * (p * np.log(p / q)).sum(1), rtol=1e-4)
  # Of the soft cross-entropy, by hand: what Hinton et al. write in their equation 2, squared.
  to_student, to_teacher = pull(np.ones(6, np.float32))
  np.testing.assert_allclose(to_student, temperature * (q - p), rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(to_teacher, np.zeros_like(teacher))
  np.testing.assert_allclose(losses.distillation(teacher, teacher, temperature), 0, atol=1e-6)


def test_image_that_would_be_kept_counts_less():
  logits, options = random_logits(0, 1.0), {'share': 0.75, 'threshold': 0.4, 'softness': 0.05}
  confidence = softmax(logits).max(1)
  assert confidence.min() < 0.4 < confidence.max()
  found, pull = jax.vjp(lambda x: losses.exit_weight(x, **options), logits)
  expected = 1 - 0.75 / (1 + np.exp(-(confidence - 0.4) / 0.05))
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_array_equal(pull(np.ones(6, np.float32))[0], np.zeros_like(logits))


def test_weight_of_a_sharp_threshold_leaves_the_loss_of_what_reaches_the_specialist():
  logits, loss = random_logits(0, 1.0), np.random.default_rng(2).uniform(0, 1, 6)
  weight = losses.exit_weight(logits, share=1.0, threshold=0.4, softness=1e-5)
  reaching = softmax(logits).max(1) < 0.4
  np.testing.assert_allclose((weight * loss).mean(), loss[reaching].sum() / 6, rtol=1e-5)


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
