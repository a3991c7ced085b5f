"""Temperatures and calibration errors against closed forms."""

import numpy as np
import pytest

from basisnet_jax.evaluation import calibration


@pytest.mark.parametrize('logit, right', [(4.0, 0.9), (0.5, 0.8), (30.0, 0.7)])
def test_temperature_of_two_classes_has_a_closed_form(logit, right):
  labels = (np.arange(200) >= 200 * right).astype(int)  # Class 0 is right in that share.
  logits = np.tile(np.float32([logit, 0]), (200, 1))
  # The sigmoid of logit / T must be the share.
  expected = logit / np.log(right / (1 - right))
  assert calibration.fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-6)


def entropy_at(temperature, logits, labels):
  scaled = logits / temperature
  own = np.take_along_axis(scaled, labels[:, None], 1)[:, 0]
  return np.mean(np.log(np.exp(scaled).sum(1)) - own)


@pytest.mark.parametrize('scale', [0.02, 1.0, 20.0])
def test_temperature_is_the_least_cross_entropy_on_a_fine_grid(scale):
  random = np.random.default_rng(0)
  clean = 2 * random.standard_normal((400, 12))
  labels = (clean + random.gumbel(size=clean.shape)).argmax(1)  # Of softmax(clean).
  found = calibration.fit_temperature(scale * clean, labels)
  grid = found * np.linspace(0.9, 1.1, 201)
  costs = [entropy_at(t, scale * clean, labels) for t in grid]
  assert np.argmin(costs) == 100
  assert found == pytest.approx(scale, rel=0.15)
  assert found == pytest.approx(scale * calibration.fit_temperature(clean, labels), rel=1e-6)


def test_nothing_to_learn_from_leaves_the_logits_as_they_are():
  logits = np.float32([[3, 0], [0, 2]])
  assert calibration.fit_temperature(logits, np.array([0, 1])) == 1.0  # All right.
  assert calibration.fit_temperature(logits, np.array([1, 0])) == 1.0  # All wrong.
  assert calibration.fit_temperature(np.zeros((3, 2)), np.zeros(3, int)) == 1.0
  assert calibration.fit_temperature(np.full((2, 2), np.nan), np.zeros(2, int)) == 1.0


def test_images_of_a_diverged_network_do_not_count():
  logits = np.float32([[4, 0]] * 10 + [[np.nan, 0]] * 5)
  labels = np.array([0] * 9 + [1] + [1] * 5)
  assert calibration.fit_temperature(logits, labels) == pytest.approx(4 / np.log(9), rel=1e-6)


def test_calibration_error_is_the_weighted_gap():
  probability = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55, np.nan])
  found = calibration.reliability(probability, np.array([1, 1, 1, 0, 1, 0, 1]), bins=10)
  assert found.images.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 4]
  assert found.accuracy[[5, 9]].tolist() == [0.5, 0.75]
  assert found.ece == pytest.approx((4 * 0.2 + 2 * 0.05) / 6)


def test_bins_take_their_upper_edge_and_zero():
  found = calibration.reliability(np.array([0, 0.25, 0.26, 0.5, 1.0]), np.ones(5), bins=4)
  assert found.images.tolist() == [2, 2, 0, 1]
  assert calibration.BINS == 15
