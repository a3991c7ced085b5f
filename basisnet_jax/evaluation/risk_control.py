"""A distribution-free guarantee on how much accuracy early termination loses at most.

Learn then Test (Angelopoulos et al. 2021): thresholds are tried from the most cautious one on, each
with a test of the hypothesis "it loses epsilon or more", until a test does not reject. The
probability that the last threshold whose hypothesis was rejected loses epsilon or more is at most
delta, for any images and networks, as long as the images to choose on are drawn like future ones.

The loss of an image is +1 (lost: it exits, and only the specialist is right), -1 (gained: it exits,
and only the lightweight network is right) or 0. Bounds for any loss between -1 and 1 would have to
allow for the largest variance, and bounds on the lost images alone would not credit the gained
ones. With three values the test can be exact: counts are multinomial. Its statistic is the
likelihood ratio, which is also the most that a bettor against the hypothesis could have gained with
one fixed stake (Waudby-Smith and Ramdas 2024); the unknown share of gained images, a nuisance
parameter, is maximised over a confidence set (Berger and Boos 1994).
"""

from collections.abc import Iterable
import functools
import math

import numpy as np
import scipy  # `scipy.stats`, which takes a second to import, is loaded on first use.

# The probability that the confidence set misses; the p-value includes it.
_MISS = 1e-4
_CELLS = 100  # Cells of the confidence set. More tighten the bound a little.
_TAIL = 1e-9  # Probability of the counts too unlikely to be examined; the p-value includes it.


@functools.lru_cache(maxsize=4096)
def p_value(lost: int, gained: int, images: int, epsilon: float) -> float:
  """The p-value of the hypothesis that exits lose at least `epsilon` of accuracy.

  If it holds, the p-value is at most x with probability at most x, for every x and any number of
  images.

  Args:
    lost: number of images that exit wrong where the specialist is right.
    gained: number of images that exit right where the specialist is wrong.
    images: number of all images, including those that do not exit.
    epsilon: a fraction, above 0 and below 1.
  """
  observed = _log_ratio(lost, gained, images, epsilon)
  if observed == 0:
    return 1.0
  # Clopper-Pearson interval; under the hypothesis, less than half of the images can be gained.
  beta, binom = scipy.stats.beta, scipy.stats.binom
  low = beta.ppf(_MISS / 2, gained, images - gained + 1) if gained else 0.0
  high = beta.ppf(1 - _MISS / 2, gained + 1, images - gained) if gained < images else 1.0
  low, high = (min(share, (1 - epsilon) / 2) for share in (low, high))
  edges = np.linspace(low, high, _CELLS + 1)
  least, most = binom.ppf(_TAIL, images, low), binom.isf(_TAIL, images, high)
  rows = np.arange(int(least), int(most) + 1)
  most_lost = _most_lost(rows, images, epsilon, observed)
  # The rejection region's probability grows with the share gained and shrinks with the share lost.
  # So for every share gained within a cell, it is at most its value with the share gained at the
  # cell's upper edge and the share lost from the lower edge.
  gain, loss = edges[1:, None], edges[:-1, None] + epsilon
  inside = binom.cdf(most_lost, images - rows, np.minimum(1.0, loss / (1 - gain)))
  chance = (binom.pmf(rows, images, gain) * inside).sum(axis=1).max()
  return float(min(1.0, chance + _MISS + 2 * _TAIL))


def last_safe(p_values: Iterable[float], delta: float) -> int | None:
  """Fixed-sequence testing: returns the index of the last p-value before the first above `delta`.

  The iterable is read no further than that. None if the first p-value is above.
  """
  last = None
  for index, value in enumerate(p_values):
    if value > delta:
      break
    last = index
  return last


def least_images(epsilon: float, delta: float) -> int:
  """The number of images below which no threshold can pass, even without loss; delta > 0.0002."""
  chance = delta - _MISS - 2 * _TAIL
  return math.ceil(math.log(chance) / math.log1p(-epsilon))


def _log_ratio(lost, gained, images, epsilon):
  """Log likelihood ratio: any shares, against those that lose `epsilon` or more.

  It is the maximum over a stake x of `lost * log(1 - x (1 - e)) + gained * log(1 + x (1 + e)) +
  others * log(1 + x e)`, whose derivative is zero where a quadratic is. It decreases in `lost` and
  increases in `gained`; it is 0 if the observed loss is `epsilon` or more.
  """
  lost, gained = np.asarray(lost, np.float64), np.asarray(gained, np.float64)
  down, up, others = 1 - epsilon, 1 + epsilon, images - lost - gained
  square = down * up * epsilon * images
  linear = (
    -lost * down * (up + epsilon) + gained * up * (epsilon - down) + others * epsilon * (up - down)
  )
  constant = np.maximum(0.0, images * epsilon - lost + gained)
  root = np.sqrt(linear**2 + 4 * square * constant)
  # Of the solution's two forms, the one that does not subtract nearly equal numbers.
  stake = np.where(
    linear > 0,
    (linear + root) / (2 * square),
    2 * constant / np.maximum(root - linear, np.finfo(float).tiny),
  )
  stake = np.minimum(stake, 1 / down)
  with np.errstate(divide='ignore', invalid='ignore'):
    worst = np.where(lost > 0, lost * np.log1p(-stake * down), 0.0)
  return worst + gained * np.log1p(stake * up) + others * np.log1p(stake * epsilon)


def _most_lost(gained, images, epsilon, observed):
  """For each number of gained images, the most lost ones with `_log_ratio` >= observed, or -1."""
  low = np.full(gained.shape, -1)
  high = np.minimum(gained + math.ceil(images * epsilon), images - gained) + 1
  while np.any(high - low > 1):
    middle = (low + high) // 2
    # Rounding must not exclude the observed counts themselves.
    inside = _log_ratio(middle, gained, images, epsilon) >= observed - 1e-9
    low, high = np.where(inside, middle, low), np.where(inside, high, middle)
  return low
