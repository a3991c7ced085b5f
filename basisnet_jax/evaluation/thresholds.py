"""Choosing the threshold of early termination on held-out images."""

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
_STEP = 0.02  # Of the exit rates that the guarantee's test tries one after another.


class Goal(NamedTuple):
  """What a threshold is to reach.

  Attributes:
    by: of `WAYS`: which of the others counts ('guarantee': two of them).
    accuracy_loss: points of top-1 against always running the specialist.
    delta: the chance that a guaranteed loss is exceeded.
    average_madds: millions per image.
    exit_rate: a fraction.
  """

  by: str
  accuracy_loss: float = 0.3
  delta: float = 0.1
  average_madds: float = 198.0
  exit_rate: float = 0.35

  def as_dict(self) -> dict[str, Any]:
    """`by` and what counts with it."""
    names = ('accuracy_loss', 'delta') if self.by == 'guarantee' else (self.by,)
    return {'by': self.by, **{name: getattr(self, name) for name in names}}


class Heldout(NamedTuple):
  """Held-out images as the rule and the two stages see them, `[images]` each."""

  confidence: np.ndarray
  lightweight_correct: np.ndarray
  specialist_correct: np.ndarray


def number(name: str, value: Any) -> float:
  """A threshold or a budget; raises a UserError, with this name, for what is no number."""
  with contextlib.suppress(OverflowError):  # A fraction, or a whole number, may be too large.
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
      return float(value)
  raise UserError(f'{name}={value!r} cannot be kept; give a finite number.')


def check(goal: Goal, lightweight_madds: float) -> None:
  """Raises a UserError for a way of choosing that there is not, or a cost that cannot be."""
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
  """The threshold that reaches a goal other than 'guarantee' on the held-out images.

  'accuracy_loss': the lowest down to which none loses more. 'average_madds': of those that cost at
  most so much the most accurate one, and of equal ones the cheapest. 'exit_rate': the highest at
  which so many exit.

  Returns:
    The threshold, `NOBODY` where nobody may exit, and how it was found, a sentence.
  """
  curve = early_exit.cost_accuracy_curve(
    *heldout, lightweight_madds=lightweight_madds, total_madds=total_madds
  )
  exit_rate, top1 = np.array(curve['exit_rate']), np.array(curve['top1'])
  madds = np.array(curve['average_madds']) / 1e6
  if goal.by == 'accuracy_loss':
    # Counts: a difference of two fractions may be off by a bit.
    lost = np.round((top1[0] - top1) * len(heldout.confidence))
    too_many = lost > goal.accuracy_loss / 100 * len(heldout.confidence) + 1e-9
    # Lower ones may lose less again, by luck: choosing among them all would lose, on other images,
    # about twice the goal (docs/results.md).
    index = max(np.append(too_many, True).argmax() - 1, 0)
    limit = f'{goal.accuracy_loss:g} points on held-out images'
    reason = f'the lowest down to which none loses more than {limit}'
  elif goal.by == 'average_madds':
    allowed = np.flatnonzero(madds <= goal.average_madds * (1 + 1e-12))
    allowed = allowed if allowed.size else np.array([len(madds) - 1])  # Some are NaN, and stay.
    index = allowed[np.flatnonzero(top1[allowed] == top1[allowed].max())[-1]]
    reason = f'the most accurate for at most {goal.average_madds:g} million MAdds on average'
  else:
    enough = np.flatnonzero(exit_rate >= goal.exit_rate)
    index = enough[0] if enough.size else -1
    reason = f'the highest at which {100 * goal.exit_rate:g}% of the held-out images exit'
  threshold = NOBODY if exit_rate[index] == 0 else curve['threshold'][index]
  return threshold, reason


def parts(goal: Goal, images: int) -> tuple[np.ndarray, np.ndarray]:
  """Which held-out images to fit temperatures on, and which to choose the threshold on.

  All for both, but for the guarantee: its test may not have seen how the confidence that it tests
  was made, so every fifth image is for that.

  Returns:
    Two bool arrays `[images]`.
  """
  if goal.by != 'guarantee':
    return np.ones(images, bool), np.ones(images, bool)
  fifth = np.arange(images) % 5 == 0
  return fifth, ~fifth


def guarantee(goal: Goal, fitted_on: np.ndarray, heldout: Heldout) -> tuple[float, str]:
  """A threshold that loses at most `goal.accuracy_loss`, with a chance of 1 - `goal.delta`.

  The chance is over the held-out images: of all sets of them, at most delta lead to a threshold
  whose loss, on all images of that kind, is as large (`risk_control`).

  Args:
    goal: its accuracy_loss and delta.
    fitted_on: the confidences of other images, those that temperatures were fitted on; the
      thresholds that are tried are their quantiles.
    heldout: those to choose on.

  Returns:
    As `choose`.
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
  """The least confidence of held-out images, of 99% of them, ... and the largest: 101 numbers."""
  known = np.where(np.isnan(confidence), 0, confidence)  # NaN never exits.
  shares = np.linspace(0, 1, 101)
  return [float(value) for value in np.quantile(known, shares, method='lower')]


def are_quantiles(values: Any) -> bool:
  """Whether they can be of `confidence_quantiles`."""
  return (
    isinstance(values, list)
    and len(values) == 101
    and all(type(value) in (int, float) for value in values)
    and all(low <= high for low, high in itertools.pairwise(values))
  )


def of_exit_rate(exit_rate: float, quantiles: Sequence[float]) -> float:
  """The threshold at which at least so many exit, by `confidence_quantiles`; `NOBODY` for none."""
  if exit_rate <= 0:
    return NOBODY
  # A share such as 0.29 is a bit more than 29%, in binary.
  return quantiles[max(0, math.floor(100 * (1 - exit_rate) + 1e-9))]


class Fit(NamedTuple):
  """What held-out images say.

  Attributes:
    temperatures: {stage: T}.
    threshold: of early termination; None for a single network.
    reason: how it was found.
    expected: 'exit_rate', 'average_madds' and 'top1' of the 'images' that it was chosen on,
      'specialist_top1', always running the specialist, and their `confidence_quantiles`; None for
      a single network.
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
  """Temperatures of all stages and, for two, the threshold that reaches a goal.

  Args:
    results: of held-out images: 'label' `[images]`, and of each stage 'logits'
      `[images, classes]` and 'top1' `[images]` (`specialist_top1`, ...).
    rule: of `confidence.RULES`.
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
  # On a device and in float32, as where it will be compared with the threshold.
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
