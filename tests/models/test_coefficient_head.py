"""The coefficient head: softmax and sigmoid, annealing, dropout of bases, entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit, normal, random_variables

from basisnet_jax.models.coefficients import (
  Annealed,
  CoefficientHead,
  entropy,
  survival_rate,
  surviving,
)

BATCH = 4


def coefficients_of(annealed=Annealed(), train=False, batch=BATCH, **options):  # noqa: B008
  head = CoefficientHead(num_layers=5, num_bases=4, **options)
  features = normal(1, (batch, 7))
  variables, rngs = random_variables(head, features), {'dropout': jax.random.key(0)}
  run = jit(lambda variables: head.apply(variables, features, annealed, train, rngs=rngs))
  return np.asarray(run(variables))


def test_softmax_coefficients_of_a_layer_sum_to_one():
  coefficients = coefficients_of()
  assert coefficients.shape == (BATCH, 5, 4) and coefficients.dtype == np.float32
  np.testing.assert_allclose(coefficients.sum(-1), 1, rtol=1e-6)
  assert np.ptp(coefficients, axis=1).max() > 0.01  # Each layer has its own.


def test_sigmoid_coefficients_are_free_of_each_other():
  coefficients = coefficients_of(activation='sigmoid')
  assert coefficients.min() > 0 and coefficients.max() < 1
  assert np.abs(coefficients.sum(-1) - 1).max() > 0.1


def test_shared_coefficients_are_the_same_for_all_layers():
  coefficients = coefficients_of(shared=True)
  assert coefficients.shape == (BATCH, 5, 4)
  np.testing.assert_array_equal(coefficients, coefficients[:, :1].repeat(5, 1))


def test_temperature_divides_the_logarithms_of_the_coefficients():
  cold, warm = (np.log(coefficients_of(temperature=t)) for t in (1.0, 4.0))
  np.testing.assert_allclose(cold - cold[..., :1], 4 * (warm - warm[..., :1]), atol=1e-4)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_uniform_mix_goes_from_the_heads_coefficients_to_exactly_uniform(activation):
  none, half, full = (
    coefficients_of(Annealed(mix), activation=activation) for mix in (0.0, 0.5, 1.0)
  )
  np.testing.assert_array_equal(full, 1 / 4)
  np.testing.assert_allclose(half, (none + 1 / 4) / 2, rtol=1e-6)


def test_annealed_temperature_is_in_place_of_the_heads():
  annealed = coefficients_of(Annealed(temperature=np.float32(4.0)), temperature=0.1)
  np.testing.assert_allclose(annealed, coefficients_of(temperature=4.0), rtol=1e-5)


@pytest.mark.parametrize('mix', [0.0, 0.4])
def test_softmax_of_the_surviving_bases_sums_to_one(mix):
  options = {'annealed': Annealed(mix), 'batch': 400}
  without, found = (
    coefficients_of(**options, train=True, basis_dropout=rate) for rate in (0.0, 0.6)
  )
  alive = found > 0
  assert alive.any(-1).all() and not alive.all()
  np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
  # Softmax over the survivors alone, mixed with the uniform ones over the survivors alone.
  own = (without - mix / 4) / (1 - mix) * alive
  expected = (1 - mix) * own / own.sum(-1, keepdims=True)
  expected += mix * alive / alive.sum(-1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  np.testing.assert_array_equal(
    coefficients_of(**options, basis_dropout=0.6), without
  )  # Not train.


def test_bases_fall_for_each_image_and_layer_by_itself_at_the_rate():
  alive = coefficients_of(batch=4000, train=True, basis_dropout=0.5) > 0
  for one, other in [((0, 0), (1, 0)), ((0, 0), (0, 1))]:  # Of two layers; of two bases.
    a, b = alive[:, *one], alive[:, *other]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
  # 1 - 1/2, and a fourth of the cases in which all four would have been shut off.
  assert survival_rate(0.5, 4) == 0.5 + 0.5**4 / 4
  np.testing.assert_allclose(alive.mean(0), survival_rate(0.5, 4), atol=0.04)  # 5 deviations.
  shared = coefficients_of(batch=50, train=True, basis_dropout=0.5, shared=True)
  np.testing.assert_array_equal(shared, shared[:, :1].repeat(5, 1))


def test_last_basis_always_survives():
  alive = surviving(jax.random.key(0), 0.999, (300, 3))
  np.testing.assert_array_equal(alive.sum(-1), 1)
  assert (alive.sum(0) > 60).all()  # And it is any of them.


def test_sigmoid_keeps_its_mean_under_basis_dropout():
  options = {'activation': 'sigmoid', 'annealed': Annealed(0.3)}
  without = coefficients_of(**options)
  head = CoefficientHead(5, 4, 'sigmoid', basis_dropout=0.4)
  features = normal(1, (BATCH, 7))
  variables = random_variables(head, features)

  def draw(key):
    return head.apply(variables, features, options['annealed'], True, rngs={'dropout': key})

  mean = jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)).mean(0)
  np.testing.assert_allclose(mean, without, rtol=0.08)  # 6 standard deviations.


def test_gradient_is_finite_where_only_hopeless_bases_survive():
  # Their softmax among all is 0: divided by their sum it would be no number.
  head = CoefficientHead(num_layers=1, num_bases=3, basis_dropout=0.7)
  features = np.ones((64, 1), np.float32)
  params = {'dense': {'kernel': np.float32([[0.0, 0.0, 900.0]]), 'bias': np.zeros(3, np.float32)}}

  def loss(params):
    rngs = {'dropout': jax.random.key(0)}
    found = head.apply({'params': params}, features, train=True, rngs=rngs)
    return (found * np.float32([1, 2, 3])).sum(), found

  gradients, found = jit(jax.grad(loss, has_aux=True))(params)
  assert (found[:, 0, 2] == 0).any() and np.isfinite(found).all()
  assert np.isfinite(gradients['dense']['kernel']).all()
  assert np.abs(gradients['dense']['kernel']).max() > 0


@pytest.mark.parametrize(
  ('coefficients', 'expected'),
  [
    ([0.25, 0.25, 0.25, 0.25], 1.0),
    ([0.0, 1.0, 0.0, 0.0], 0.0),
    ([0.5, 0.5, 0.0, 0.0], 0.5),
    ([0.2, 0.0, 0.2, 0.0], 0.5),  # Of shares: a sigmoid's sum to anything.
    ([0.7], 0.0),
  ],
)
def test_entropy_is_of_shares_by_its_largest_value(coefficients, expected):
  found, gradient = jax.value_and_grad(entropy)(jnp.array(coefficients))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert np.isfinite(gradient).all()
