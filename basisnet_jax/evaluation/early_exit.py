"""The arithmetic of early termination: cost and accuracy at every threshold.

The lightweight network's answer is final if its confidence (by a rule of `confidence.RULES`)
reaches the threshold; the specialist answers for the other images. All images pay for the first
stage, and only those others for the rest.
"""

from collections.abc import Sequence

import numpy as np


def operating_point(
  threshold: float,
  confidence: np.ndarray,
  lightweight_correct: np.ndarray,
  specialist_correct: np.ndarray,
  *,
  lightweight_madds: float,
  total_madds: float,
) -> dict[str, float]:
  """Returns what early termination at one threshold costs and gets right.

  Args:
    threshold: images whose confidence is at least this exit early. 0 lets all exit, anything
      above 1 none.
    confidence: [images], floating; the lightweight network's, by any rule. It is compared in its
      own dtype, as on the device. A NaN never exits.
    lightweight_correct: [images], bool (or 0 and 1); whether the lightweight answer is right.
    specialist_correct: [images], bool (or 0 and 1); whether the specialist's is.
    lightweight_madds: multiply-adds per image of the first stage, with the
      coefficient head.
    total_madds: multiply-adds per image of both stages, with the synthesis.

  Returns:
    `threshold`, `exit_rate` and `top1` (fractions), `average_madds` (per image).

  Raises:
    ValueError: the arrays are empty, not flat, or of different lengths.
  """
  confidence, light, special = _checked(confidence, lightweight_correct, specialist_correct)
  exits = confidence >= float(threshold)
  exit_rate = float(exits.mean())
  return {
    'threshold': float(threshold),
    'exit_rate': exit_rate,
    'average_madds': float(_average_madds(exit_rate, lightweight_madds, total_madds)),
    'top1': float(np.where(exits, light, special).mean()),
  }


def operating_points(
  thresholds: Sequence[float],
  confidence: np.ndarray,
  lightweight_correct: np.ndarray,
  specialist_correct: np.ndarray,
  *,
  lightweight_madds: float,
  total_madds: float,
) -> list[dict[str, float]]:
  """Returns `operating_point` at each threshold, in the order given."""
  return [
    operating_point(
      threshold,
      confidence,
      lightweight_correct,
      specialist_correct,
      lightweight_madds=lightweight_madds,
      total_madds=total_madds,
    )
    for threshold in thresholds
  ]


def cost_accuracy_curve(
  confidence: np.ndarray,
  lightweight_correct: np.ndarray,
  specialist_correct: np.ndarray,
  *,
  lightweight_madds: float,
  total_madds: float,
) -> dict[str, list[float]]:
  """Returns every possible operating point, from "none exits" to "all exit".

  Sorts once: O(images log images). The arguments are those of `operating_point`.

  Returns:
    `threshold`, `exit_rate`, `average_madds` and `top1` as lists of equal length: first an entry
    for no exits, at the lowest threshold that lets no image exit, then one for each distinct
    confidence. Thresholds and costs decrease. (Images with NaN confidence never exit.)

  Raises:
    ValueError: the arrays are empty, not flat, or of different lengths.
  """
  confidence, light, special = _checked(confidence, lightweight_correct, specialist_correct)
  images = confidence.size
  order = np.argsort(-confidence, kind='stable')  # NaNs come last.
  ranked = confidence[order][: images - np.count_nonzero(np.isnan(confidence))]
  # Images of equal confidence exit together, so only the end of each tie counts.
  exits = np.concatenate([[0], np.flatnonzero(ranked[1:] != ranked[:-1]) + 1])
  if ranked.size:
    exits = np.append(exits, ranked.size)
  gained = np.concatenate([[0], np.cumsum(light[order].astype(int) - special[order])])
  highest = ranked[0] if ranked.size else confidence.dtype.type(1)
  exit_rate = exits / images
  return {
    'threshold': [float(np.nextafter(highest, np.inf)), *ranked[exits[1:] - 1].tolist()],
    'exit_rate': exit_rate.tolist(),
    'average_madds': _average_madds(exit_rate, lightweight_madds, total_madds).tolist(),
    'top1': ((np.count_nonzero(special) + gained[exits]) / images).tolist(),
  }


def oracle_curve(
  lightweight_correct: np.ndarray,
  specialist_correct: np.ndarray,
  *,
  lightweight_madds: float,
  total_madds: float,
) -> dict[str, list[float]]:
  """Returns the accuracy that no order of exits can exceed, at each cost.

  An oracle first lets images exit for which only the lightweight network is right, then those for
  which it makes no difference, and last those for which only the specialist is right. The arguments
  are those of `operating_point`. (Random exits lie on a straight line between the two networks.)

  Returns:
    `exit_rate`, `average_madds` and `top1` at the curve's four corners, between which it is
    straight.
  """
  _, light, special = _checked(lightweight_correct, lightweight_correct, specialist_correct)
  gained, lost = (light & ~special).mean(), (special & ~light).mean()
  exit_rate = np.array([0.0, gained, 1 - lost, 1.0])
  best = special.mean() + gained
  return {
    'exit_rate': exit_rate.tolist(),
    'average_madds': _average_madds(exit_rate, lightweight_madds, total_madds).tolist(),
    'top1': [float(special.mean()), float(best), float(best), float(light.mean())],
  }


def _average_madds(exit_rate, lightweight_madds, total_madds):
  # This form is exact at both ends, where all images or none pay for the second stage.
  return lightweight_madds + (1 - exit_rate) * (total_madds - lightweight_madds)


def _checked(confidence, lightweight_correct, specialist_correct):
  confidence = np.asarray(confidence)
  light = np.asarray(lightweight_correct).astype(bool)
  special = np.asarray(specialist_correct).astype(bool)
  if (
    confidence.ndim != 1
    or not confidence.size
    or not (confidence.shape == light.shape == special.shape)
  ):
    raise ValueError(
      'confidence, lightweight_correct and specialist_correct must be flat, of one length and '
      f'not empty; their shapes are {confidence.shape}, {light.shape} and {special.shape}.'
    )
  return confidence, light, special
