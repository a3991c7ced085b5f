"""Chooses the threshold of early termination on held-out images."""

from collections.abc import Mapping, Sequence
import contextlib
import itertools
import math
import numbers
from typing import Any, NamedTuple

import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import calibration, confidence, early_exit, risk_control

NOBODY = 2.0  # A threshold above every confidence.
WAYS = ('accuracy_loss', 'guarantee', 'average_madds', 'exit_rate')
_STEP = 0.02  # Between the exit rates that the guarantee tests one after another.


class Goal(NamedTuple):
  """What a threshold has to reach.

  Attributes:
    by: one of `WAYS`; says which of the others counts ('guarantee': accuracy_loss and delta).
    accuracy_loss: top-1 points below always running the specialist.
    delta: the probability that the guaranteed loss is exceeded.
    average_madds: millions per image.
    exit_rate: a fraction.
  """

  by: str
  accuracy_loss: float = 0.3
  delta: float = 0.1
  average_madds: float = 198.0
  exit_rate: float = 0.35

  def as_dict(self) -> dict[str, Any]:
    """`by` and the numbers that count with it."""
    names = ('accuracy_loss', 'delta') if self.by == 'guarantee' else (self.by,)
    return {'by': self.by, **{name: getattr(self, name) for name in names}}


class Heldout(NamedTuple):
  """The confidence in held-out images, and whether each stage is right; `[images]` each."""

  confidence: np.ndarray
  lightweight_correct: np.ndarray
  specialist_correct: np.ndarray


def number(name: str, value: Any) -> float:
  """Converts a threshold or budget to float; raises a UserError, with `name`, for other values."""
  with contextlib.suppress(OverflowError):  # A fraction or whole number may be too large.
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
      return float(value)
  raise UserError(f'{name}={value!r} cannot be kept; give a finite number.')


def check(goal: Goal, lightweight_madds: float) -> None:
  """Raises a UserError for an unknown way of choosing, or a cost that cannot be reached."""
  if goal.by not in WAYS:
    raise UserError(
      f'config.early_exit.choose.by is {goal.by!r}: use {", ".join(map(repr, WAYS))}.'
    )
  if goal.by == 'average_madds' and goal.average_madds * 1e6 < lightweight_madds:
    raise UserError(
      f'config.early_exit.choose.average_madds={goal.average_madds:g} million cannot be reached: '
      f'if all images exit, one still costs {lightweight_madds / 1e6:.4g} million.'
    )


def choose(
  goal: Goal, heldout: Heldout, *, lightweight_madds: float, total_madds: float
) -> tuple[float, str]:
  """Chooses the threshold that reaches a goal other than 'guarantee' on the held-out images.

  'accuracy_loss': the lowest threshold down to which none loses more. 'average_madds': the most
  accurate threshold within that cost, and of equally accurate ones the cheapest. 'exit_rate': the
  highest threshold at which at least that share exits.

  Returns:
    The threshold, `NOBODY` if no image may exit, and in words how it was found.

  Raises:
    UserError: `goal.by` is 'guarantee', for which there is `guarantee`, or unknown.
  """
  ways = [way for way in WAYS if way != 'guarantee']
  if goal.by not in ways:
    raise UserError(
      f'choose() knows no goal by {goal.by!r}: use {", ".join(map(repr, ways))}; for '
      "'guarantee' there is guarantee()."
    )
  curve = early_exit.cost_accuracy_curve(
    *heldout, lightweight_madds=lightweight_madds, total_madds=total_madds
  )
  exit_rate, top1 = np.array(curve['exit_rate']), np.array(curve['top1'])
  madds = np.array(curve['average_madds']) / 1e6
  if goal.by == 'accuracy_loss':
    # Compares counts, since a difference of two fractions may be off by a bit.
    lost = np.round((top1[0] - top1) * len(heldout.confidence))
    too_many = lost > goal.accuracy_loss / 100 * len(heldout.confidence) + 1e-9
    # Lower thresholds may lose less again, by luck: choosing among all of them would lose about
    # twice the goal on other images (docs/results.md).
    index = max(np.append(too_many, True).argmax() - 1, 0)
    limit = f'{goal.accuracy_loss:g} points on held-out images'
    reason = f'the lowest down to which none loses more than {limit}'
  elif goal.by == 'average_madds':
    allowed = np.flatnonzero(madds <= goal.average_madds * (1 + 1e-12))
    allowed = allowed if allowed.size else np.array([len(madds) - 1])  # NaN images never exit.
    index = allowed[np.flatnonzero(top1[allowed] == top1[allowed].max())[-1]]
    reason = f'the most accurate for at most {goal.average_madds:g} million MAdds on average'
  else:
    enough = np.flatnonzero(exit_rate >= goal.exit_rate)
    index = enough[0] if enough.size else -1
    reason = f'the highest at which {100 * goal.exit_rate:g}% of the held-out images exit'
  threshold = NOBODY if exit_rate[index] == 0 else curve['threshold'][index]
  return threshold, reason


def parts(goal: Goal, images: int) -> tuple[np.ndarray, np.ndarray]:
  """Selects the held-out images to fit temperatures on, and those to choose the threshold on.

  Both are all images, except for the guarantee: its test may not use images on which the tested
  confidence was fitted, so every fifth image is only for fitting.

  Returns:
    Two bool arrays `[images]`.
  """
  if goal.by != 'guarantee':
    return np.ones(images, bool), np.ones(images, bool)
  fifth = np.arange(images) % 5 == 0
  return fifth, ~fifth


def guarantee(goal: Goal, fitted_on: np.ndarray, heldout: Heldout) -> tuple[float, str]:
  """Chooses a threshold that loses at most `goal.accuracy_loss`, with probability 1 - `goal.delta`.

  The probability is over the held-out images: at most a share delta of all such sets lead to a
  threshold that loses this much or more on all images of that kind (`risk_control`).

  Args:
    goal: its accuracy_loss and delta.
    fitted_on: confidences of the other images, on which temperatures were fitted; their quantiles
      are the thresholds to try.
    heldout: the images to choose on.

  Returns:
    As in `choose`.
  """
  images, epsilon = len(heldout.confidence), goal.accuracy_loss / 100
  shares = np.arange(_STEP, 1 + _STEP / 2, _STEP)
  known = fitted_on[~np.isnan(fitted_on)]
  candidates = (
    np.quantile(known, 1 - np.minimum(shares, 1), method='lower') if known.size else known
  )
  candidates = np.unique(candidates)[::-1]
  light, special = (np.asarray(c).astype(bool) for c in heldout[1:])

  def p_values():
    for threshold in candidates:
      exits = heldout.confidence >= threshold
      lost, gained = (np.count_nonzero(exits & c) for c in (special & ~light, light & ~special))
      yield risk_control.p_value(lost, gained, images, epsilon)

  index = risk_control.last_safe(p_values(), goal.delta)
  test = (
    f'passed the test, on {images:,} other images than the temperatures were fitted on, of losing '
    f'at most {goal.accuracy_loss:g} points, with a confidence of {100 * (1 - goal.delta):g}%'
  )
  if index is not None:
    return float(candidates[index]), f'the lowest that {test}'
  reason = f'nobody exits, since none {test}'
  if images < (least := risk_control.least_images(epsilon, goal.delta)):
    reason += f'; that takes at least {least:,} images'
  return NOBODY, reason


def confidence_quantiles(confidence: np.ndarray) -> list[float]:
  """101 quantiles of the confidence of held-out images, from the smallest to the largest."""
  known = np.where(np.isnan(confidence), 0, confidence)  # NaN never exits.
  shares = np.linspace(0, 1, 101)
  return [float(value) for value in np.quantile(known, shares, method='lower')]


def are_quantiles(values: Any) -> bool:
  """Whether the values can be a result of `confidence_quantiles`."""
  return (
    isinstance(values, list)
    and len(values) == 101
    and all(type(value) in (int, float) for value in values)
    and all(low <= high for low, high in itertools.pairwise(values))
  )


def of_exit_rate(exit_rate: float, quantiles: Sequence[float]) -> float:
  """The threshold at which at least that share exits, by `confidence_quantiles`; `NOBODY` for 0."""
  if exit_rate <= 0:
    return NOBODY
  # The tolerance is for rounding: in binary, a share such as 0.29 is not exactly 29%.
  return quantiles[max(0, math.floor(100 * (1 - exit_rate) + 1e-9))]


class Fit(NamedTuple):
  """What was fitted and chosen on held-out images.

  Attributes:
    temperatures: {stage: T}.
    threshold: for early termination; None for a single network.
    reason: how it was found.
    expected: 'exit_rate', 'average_madds' and 'top1' on the 'images' it was chosen on, their
      'specialist_top1' (always running the specialist) and 'confidence_quantiles'; None for a
      single network.
  """

  temperatures: dict[str, float]
  threshold: float | None = None
  reason: str = ''
  expected: dict[str, Any] | None = None


def fit(
  results: Mapping[str, np.ndarray],
  *,
  rule: str,
  goal: Goal,
  lightweight_madds: float | None,
  total_madds: float,
) -> Fit:
  """Fits temperatures of all stages and, for two stages, chooses the threshold for a goal.

  Args:
    results: of held-out images: 'label' `[images]` and, for each stage, 'logits'
      `[images, classes]` and 'top1' `[images]` (`specialist_top1`, ...).
    rule: one of `confidence.RULES`.
    goal: what to reach.
    lightweight_madds, total_madds: see `early_exit.operating_point`.
  """
  stages = [key.removesuffix('_logits') for key in results if key.endswith('_logits')]
  for_fit, for_choice = parts(goal, len(results['label']))
  temperatures = {
    stage: calibration.fit_temperature(
      results[f'{stage}_logits'][for_fit], results['label'][for_fit]
    )
    for stage in stages
  }
  if lightweight_madds is None:
    return Fit(temperatures)
  # On a device and in float32, as when it will be compared with the threshold.
  sure = np.asarray(confidence.of(results['lightweight_logits'], rule, temperatures['lightweight']))
  heldout = Heldout(sure, results['lightweight_top1'], results['specialist_top1'])
  heldout = Heldout(*(values[for_choice] for values in heldout))
  costs = {'lightweight_madds': lightweight_madds, 'total_madds': total_madds}
  if goal.by == 'guarantee':
    threshold, reason = guarantee(goal, sure[for_fit], heldout)
  else:
    threshold, reason = choose(goal, heldout, **costs)
  expected = early_exit.operating_point(threshold, *heldout, **costs)
  del expected['threshold']
  expected['images'] = len(heldout.confidence)
  expected['specialist_top1'] = float(np.mean(heldout.specialist_correct, dtype=np.float64))
  expected['confidence_quantiles'] = confidence_quantiles(heldout.confidence)
  return Fit(temperatures, threshold, reason, expected)
