"""The guarantee: by counting all outcomes, and by drawing many sets of held-out images."""

import numpy as np
import pytest
from scipy import stats

from basisnet_jax.evaluation import risk_control

SPLITS = 1000


@pytest.fixture(scope='module')
def p_values():
  """`[lost, gained]` of all outcomes of 24 images at epsilon 0.1; 2 where there is none."""
  table = np.full((25, 25), 2.0)
  for lost, gained in zip(*np.nonzero(np.add.outer(range(25), range(25)) <= 24), strict=True):
    table[lost, gained] = risk_control.p_value(int(lost), int(gained), 24, 0.1)
  return table


@pytest.mark.parametrize('more_loss', [0.0, 0.1])
def test_small_p_values_are_as_rare_as_they_say_whatever_the_shares(p_values, more_loss):
  lost, gained = np.nonzero(p_values <= 1)
  nearest = dict.fromkeys((0.01, 0.05, 0.1, 0.3), 0.0)
  for share in np.linspace(0, 0.45 - more_loss, 46):
    shares = [share + 0.1 + more_loss, share]
    counts = np.stack([lost, gained, 24 - lost - gained], 1)
    chance = stats.multinomial.pmf(counts, 24, [*shares, 1 - sum(shares)])
    for level in nearest:
      found = chance[p_values[lost, gained] <= level].sum()
      assert found <= level
      nearest[level] = max(nearest[level], found)
  if not more_loss:  # And hardly rarer: at the limit the test gives little away.
    assert nearest[0.1] > 0.085 and nearest[0.3] > 0.27


def test_without_any_difference_the_p_value_is_that_of_never_seeing_a_loss():
  assert risk_control.p_value(0, 0, 800, 0.003) == pytest.approx(0.997**800, abs=2e-4)
  assert risk_control.p_value(3, 0, 100, 0.03) == 1.0


def test_p_value_rises_with_losses_and_falls_with_gains():
  of = lambda lost, gained: risk_control.p_value(lost, gained, 2000, 0.01)  # noqa: E731
  assert of(0, 0) < of(4, 0) < of(8, 0) < of(12, 0)
  assert of(12, 8) < of(12, 4) < of(12, 0)


def draw(lost, gained, images, seed=0):
  """Counts `[SPLITS, thresholds]` of a population whose images fall into equal slices.

  Slice i exits from threshold i on; of its images the shares lost[i] and gained[i] are so.
  """
  slices = len(lost)
  shares = np.stack([lost, gained, 1 - lost - gained], 1).ravel() / slices
  counts = np.random.default_rng(seed).multinomial(images, shares, SPLITS)
  counts = counts.reshape(SPLITS, slices, 3).cumsum(1)
  return counts[..., 0], counts[..., 1]


def chosen(lost, gained, images, epsilon, delta):
  """The index of the last safe threshold in each split; -1: nobody exits."""
  found = []
  for a, b in zip(*draw(lost, gained, images), strict=True):
    p = (risk_control.p_value(int(x), int(y), images, epsilon) for x, y in zip(a, b, strict=True))
    index = risk_control.last_safe(p, delta)
    found.append(-1 if index is None else index)
  return np.array(found)


def violations(found, lost, gained, epsilon):
  loss = np.append(np.cumsum(lost - gained) / len(lost), 0.0)  # The last: nobody exits.
  return np.mean(loss[found] > epsilon - 1e-12)


@pytest.mark.parametrize(
  'lost, gained',
  [
    # The whole allowance is lost at once, and what follows makes no difference.
    (np.r_[0.2, np.zeros(19)], np.zeros(20)),
    # The same beneath much that is lost and gained alike.
    (np.r_[0.3, np.full(19, 0.05)], np.r_[0.1, np.full(19, 0.05)]),
    # First it gains, then it is over the limit, then under it, then over it.
    (np.repeat([0.02, 0.1, 0.0, 0.1], 5), np.repeat([0.06, 0.0, 0.06, 0.0], 5)),
  ],
  ids=['at once', 'noise', 'up and down'],
)
def test_loss_is_exceeded_no_more_often_than_promised(lost, gained):
  epsilon, delta, images = 0.01, 0.1, 600
  found = chosen(lost, gained, images, epsilon, delta)
  slack = 3 * np.sqrt(delta * (1 - delta) / SPLITS)
  assert violations(found, lost, gained, epsilon) <= delta + slack


def test_easy_images_exit_all_the_same():
  # The surest 60% lose 0.1 points and gain as much, the others lose much.
  lost, gained = np.repeat([0.002, 0.1], [12, 8]), np.repeat([0.002, 0.0], [12, 8])
  found = chosen(lost, gained, 4000, 0.003, 0.1)
  assert violations(found, lost, gained, 0.003) <= 0.1
  assert np.mean(found >= 10) > 0.85  # 55% of the images exit.


def test_testing_stops_at_the_first_threshold_that_fails():
  assert risk_control.last_safe(iter([0.01, 0.09, 0.2, 0.001]), 0.1) == 1
  assert risk_control.last_safe([0.2, 0.001], 0.1) is None
  assert risk_control.last_safe([], 0.1) is None


@pytest.mark.parametrize('epsilon, delta', [(0.003, 0.1), (0.02, 0.01)])
def test_least_number_of_images_is_the_one_at_which_something_can_pass(epsilon, delta):
  least = risk_control.least_images(epsilon, delta)
  assert risk_control.p_value(0, 0, least, epsilon) <= delta
  assert risk_control.p_value(0, 0, least - 2, epsilon) > delta
