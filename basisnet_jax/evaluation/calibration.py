"""Calibration: whether a confidence of 0.8 is right in 8 of 10 cases, and a temperature for it."""

from typing import NamedTuple

import numpy as np

BINS = 15  # Guo et al. 2017.
_TEMPERATURES = (0.01, 100.0)


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
  """Returns the temperature T for which `softmax(logits / T)` has the lowest cross-entropy.

  This is temperature scaling (Guo et al. 2017). The cross-entropy is convex in 1 / T, so its
  derivative increases: Newton's method finds its zero, with bisection where a step would leave the
  interval.

  Args:
    logits: `[images, classes]`, floating; images with a logit that is not finite are left out.
    labels: `[images]`, int.

  Returns:
    T, from 0.01 to 100. It is 1 if the cross-entropy has no minimum: every image is right, or the
    answers are no better than equal probabilities.
  """
  logits = np.asarray(logits, np.float64)
  finite = np.isfinite(logits).all(axis=1)
  logits, labels = logits[finite], np.asarray(labels)[finite]
  if not labels.size:
    return 1.0
  logits = logits - logits.max(axis=1, keepdims=True)
  own = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
  if own.max() == own.min() == 0 or logits.mean() >= own.mean():
    return 1.0

  def slope(inverse):
    """The first two derivatives of the cross-entropy with respect to 1 / T."""
    weights = np.exp(inverse * logits)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = (weights * logits).sum(axis=1)
    variance = (weights * logits**2).sum(axis=1) - mean**2
    return mean.mean() - own.mean(), variance.mean()

  low, high = 1 / _TEMPERATURES[1], 1 / _TEMPERATURES[0]
  inverse = 1.0
  for _ in range(100):
    first, second = slope(inverse)
    if first < 0:
      low = inverse
    else:
      high = inverse
    newton = inverse - first / second if second > 0 else np.inf
    former, inverse = inverse, newton if low < newton < high else np.sqrt(low * high)
    if abs(inverse - former) <= 1e-10 * former:
      break
  return float(1 / inverse)


class Reliability(NamedTuple):
  """Images by confidence, in bins of equal width from 0 to 1.

  Attributes:
    images: int `[bins]`.
    confidence: `[bins]`, the mean in each bin; NaN in empty bins.
    accuracy: `[bins]`, the share of right answers; NaN in empty bins.
  """

  images: np.ndarray
  confidence: np.ndarray
  accuracy: np.ndarray

  @property
  def ece(self) -> float:
    """Expected calibration error: the mean of |accuracy - confidence|, weighted by images."""
    gaps = np.nan_to_num(np.abs(self.accuracy - self.confidence))
    return float((gaps * self.images).sum() / max(1, self.images.sum()))


def reliability(probability: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
  """Compares how confident answers are with how often they are right.

  Args:
    probability: `[images]`, the largest softmax; NaNs are left out.
    correct: `[images]`, bool or 0 and 1.
    bins: number of bins; bin k holds probabilities above k / bins, up to (k + 1) / bins.
  """
  probability = np.asarray(probability, np.float64)
  known = ~np.isnan(probability)
  probability, correct = probability[known], np.asarray(correct, np.float64)[known]
  index = np.clip(np.ceil(probability * bins).astype(int) - 1, 0, bins - 1)
  images = np.bincount(index, minlength=bins)
  with np.errstate(invalid='ignore'):
    means = [np.bincount(index, values, bins) / images for values in (probability, correct)]
  return Reliability(images, *means)
