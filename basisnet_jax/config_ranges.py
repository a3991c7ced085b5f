"""Which values make sense for a recipe's keys; names are checked where they are used."""

from collections.abc import Mapping
import math
import re
from typing import Any

from basisnet_jax.errors import UserError

_WORDS = {
  bool: 'true or false',
  int: 'a whole number',
  float: 'a number',
  tuple: "a tuple such as '(0.5, 0.9)'",
}


def _are_resolutions(value):
  """Whether these are pairs of a share of the training, rising from 0, and a size."""
  if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in value):
    return False
  if not all(type(share) in (int, float) and type(size) is int for share, size in value):
    return False
  shares = [share for share, _ in value]
  rising = shares[:1] in ([], [0]) and all(a < b for a, b in zip(shares, shares[1:], strict=False))
  return rising and all(share < 1 and size >= 8 for share, size in value)


def _are_pairs(value, makes_sense):
  return all(
    isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and makes_sense(*pair)
    for pair in value
  )


def _is_rule(pattern, axes):
  """Whether this is a rule of `sharding.of_tree`."""
  try:
    re.compile(pattern)
  except re.error:
    return False
  return isinstance(axes, str) or (
    isinstance(axes, tuple) and all(isinstance(name, str) for name in axes)
  )


# (what is wanted, whether a value is that, the keys it applies to)
_RANGES = (
  (
    'a whole number of at least 1',
    lambda v: v >= 1,
    'model.num_classes model.output_stride model.num_bases model.lightweight.output_stride '
    'training.batch_size training.steps training.accumulation evaluation.batch_size '
    'data.shuffle_buffer data.randaugment_layers checkpoint.every_steps checkpoint.keep '
    'logging.every_steps distillation.teacher.output_stride',
  ),
  (
    'at least 8 pixels',
    lambda v: v >= 8,
    'model.resolution model.lightweight.resolution distillation.teacher.resolution',
  ),
  ('from 0 to 4294967295', lambda v: 0 <= v < 2**32, 'seed'),
  (
    'a number above 0',
    lambda v: 0 < v < math.inf,
    'model.width model.lightweight.width model.coefficients.temperature '
    'model.coefficients.temperature_start model.norm_epsilon '
    'model.lightweight.norm_epsilon training.epochs optimizer.decay_rate optimizer.decay_epochs '
    'optimizer.epsilon evaluation.every_epochs training.stall_timeout loss.exit_softness '
    'distillation.temperature distillation.teacher.width distillation.teacher.norm_epsilon '
    'early_exit.choose.average_madds',
  ),
  (
    'a number of at least 0',
    lambda v: 0 <= v < math.inf,
    'model.refine model.coefficients.feature_gradient model.coefficients.uniform_mix_hold_epochs '
    'model.coefficients.uniform_mix_epochs init.perturbation '
    'model.coefficients.temperature_epochs loss.load_balance '
    'data.crop_padding loss.lightweight_weight optimizer.learning_rate optimizer.warmup_epochs '
    'optimizer.weight_decay optimizer.clip_norm training.mixup training.cutmix '
    'training.alternate_steps',
  ),
  ('a finite number', math.isfinite, 'loss.coefficient_entropy'),
  (
    'from 0 up to, but not, 1',
    lambda v: 0 <= v < 1,
    'model.stochastic_depth model.lightweight.stochastic_depth model.coefficients.basis_dropout '
    'model.dropout model.lightweight.dropout model.norm_momentum loss.label_smoothing '
    'optimizer.momentum optimizer.rmsprop_decay optimizer.beta1 optimizer.beta2 ema_decay',
  ),
  (
    'from 0 to 1',
    lambda v: 0 <= v <= 1,
    'model.coefficients.uniform_mix evaluation.threshold training.cutmix_share loss.exit_aware '
    'loss.exit_threshold distillation.weight distillation.from_specialist '
    'early_exit.choose.exit_rate data.cutout data.random_erasing init.bases_correlation',
  ),
  ('points from 0.01 to 99', lambda v: 0.01 <= v <= 99, 'early_exit.choose.accuracy_loss'),
  ('a chance from 0.001 to 0.999', lambda v: 0.001 <= v <= 0.999, 'early_exit.choose.delta'),
  ('from 0 to 30', lambda v: 0 <= v <= 30, 'data.randaugment_magnitude'),
  (
    '(share of the training, pixels) pairs such as ((0.0, 128), (0.5, 224)), the first share 0, '
    'each above the one before and below 1, and at least 8 pixels',
    _are_resolutions,
    'training.resolutions',
  ),
  (
    "(regular expression, factor) pairs such as (('specialist/stem/', 0.0),)",
    lambda v: _are_pairs(v, lambda _, f: type(f) in (int, float) and 0 <= f < math.inf),
    'optimizer.learning_rate_factors',
  ),
  (
    "(axis, size) pairs such as (('data', -1),)",
    lambda v: _are_pairs(v, lambda _, size: type(size) is int and (size == -1 or size > 0)),
    'sharding.mesh',
  ),
  (
    "(regular expression, axes) pairs such as (('classifier', 'fsdp'),)",
    lambda v: _are_pairs(v, _is_rule),
    'sharding.rules',
  ),
  ('above 0 and at most 1', lambda v: 0 < v <= 1, 'data.crop_min_area data.eval_crop'),
  (
    'numbers from 0 to 1, at least one',
    lambda v: len(v) > 0 and all(0 <= x <= 1 for x in v),
    'evaluation.thresholds',
  ),
  (
    'three finite numbers',
    lambda v: len(v) == 3 and all(map(math.isfinite, v)),
    'model.pixel_mean model.lightweight.pixel_mean distillation.teacher.pixel_mean',
  ),
  (
    'three numbers above 0',
    lambda v: len(v) == 3 and all(0 < x < math.inf for x in v),
    'model.pixel_std model.lightweight.pixel_std distillation.teacher.pixel_std',
  ),
  (
    'not empty',
    lambda v: bool(v.strip()),
    'name model.name model.specialist model.lightweight.name data.name data.train_split '
    'data.eval_split',
  ),
)


def check(
  values: Mapping[str, Any],
  defaults: Mapping[str, Any],
  *,
  prefix: str = '--config.',
  mend: str = '',
) -> dict[str, tuple]:
  """Checks values against their ranges, and elements of tuples against the defaults' types.

  Args:
    values: {dotted key: value}, each of its key's type; None is not set.
    defaults: the same for all keys.
    prefix: text before a key in errors.
    mend: how to fix it, with a leading semicolon.

  Returns:
    The tuples, with whole numbers made floats where floats are wanted.

  Raises:
    UserError: a value makes no sense; the first such is named.
  """
  tuples = {
    key: _elements(prefix + key, values[key], default, mend)
    for key, default in defaults.items()
    if isinstance(default, tuple) and default
  }
  values = {**values, **tuples}
  for wanted, makes_sense, keys in _RANGES:
    for key in keys.split():
      value = values.get(key)
      if value is not None and not makes_sense(value):
        raise UserError(f'{prefix}{key} is {value!r}, wanted {wanted}{mend}.')
  return tuples


def _elements(name, value, default, mend):
  """Checks the elements of a tuple; ml_collections accepts any."""
  wanted = type(default[0])
  if wanted is float:
    value = tuple(decimal(v) if type(v) is int else v for v in value)
  if wrong := [v for v in value if type(v) is not wanted]:
    raise UserError(
      f'{name} has the element {wrong[0]!r}, wanted {describe(wanted)} like those of '
      f'{default}{mend}.'
    )
  return value


def decimal(value: int) -> float:
  """Converts to float; infinity if it does not fit."""
  try:
    return float(value)
  except OverflowError:
    return math.inf


def describe(wanted: type) -> str:
  """Says in words what a key of this type takes: 'a whole number'."""
  return _WORDS.get(wanted, 'a text')
