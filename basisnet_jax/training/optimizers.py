"""Learning-rate schedules and optimizers by name."""

from collections.abc import Callable, Sequence
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from basisnet_jax.errors import UserError

# Leaves that weight decay applies to: not biases or normalisation.
_DECAYED = ('kernel', 'bases')


def create_schedule(
  name: str,
  *,
  learning_rate: float,
  total_steps: int,
  warmup_steps: int,
  decay_rate: float,
  decay_steps: int,
) -> optax.Schedule:
  """Linear warm-up from 0, then 'cosine' decay (to 0) or 'exponential' decay (a staircase).

  Both count from step 0, as in TensorFlow's recipes: the warm-up overlaps the start of the decay.
  Raises a UserError for another name.
  """
  if name == 'cosine':
    decay = optax.cosine_decay_schedule(learning_rate, max(total_steps, 1))
  elif name == 'exponential':
    decay = optax.exponential_decay(learning_rate, max(decay_steps, 1), decay_rate, staircase=True)
  else:
    raise UserError(f"config.optimizer.schedule is {name!r}; it can be 'cosine' or 'exponential'.")
  if warmup_steps == 0:
    return decay

  def schedule(step):
    return decay(step) * jnp.minimum(1.0, (step + 1) / warmup_steps)

  return schedule


def create(
  name: str,
  schedule: optax.Schedule,
  *,
  momentum: float,
  rmsprop_decay: float,
  epsilon: float,
  beta1: float,
  beta2: float,
  weight_decay: float,
  scale_bases: bool = False,
) -> optax.GradientTransformation:
  """Creates 'rmsprop' (TensorFlow's form), 'sgd' (Nesterov) or 'adamw'.

  Weight decay applies only to kernels and bases: decoupled for 'adamw', added to the gradient (L2)
  for the others. `scale_bases`, only for 'sgd', multiplies the gradients of bases `[K, *kernel]` by
  K, before any decay: while the coefficients are 1 / K, as softmax makes them at first, the mean of
  the bases then learns like a plain kernel.

  Raises:
    UserError: the name is unknown, or `scale_bases` is set for an optimizer other than 'sgd'.
  """
  if scale_bases and name in ('adamw', 'rmsprop'):
    raise UserError(
      f"config.optimizer.scale_bases is for 'sgd', not for {name!r}, whose steps do not grow with "
      'the gradient; set it to False.'
    )
  if name == 'adamw':
    return optax.adamw(
      schedule, beta1, beta2, epsilon, weight_decay=weight_decay, mask=decayed_mask
    )
  if name == 'rmsprop':
    # TensorFlow: epsilon inside the root, squares start at one, momentum after the rate.
    update = optax.rmsprop(
      schedule, decay=rmsprop_decay, eps=epsilon, initial_scale=1.0, momentum=momentum
    )
  elif name == 'sgd':
    update = optax.sgd(schedule, momentum, nesterov=True)
  else:
    raise UserError(f"config.optimizer.name is {name!r}; it can be 'rmsprop', 'sgd' or 'adamw'.")
  decayed = optax.chain(optax.add_decayed_weights(weight_decay, decayed_mask), update)
  return optax.chain(_scale_bases(), decayed) if scale_bases else decayed


def alternating(
  create_own: Callable[[optax.Schedule], optax.GradientTransformation],
  schedule: optax.Schedule,
  num_steps: int,
) -> optax.GradientTransformation:
  """Makes the stages of a two-stage network take turns of `num_steps` steps each.

  First comes the part that `preview` runs, the lightweight network and the coefficient head, then
  the specialist. The stage whose turn it is not keeps its parameters and its optimizer state
  (momentum, averages, counts), and its gradients count in no norm. The learning rate follows the
  steps of both.

  Args:
    create_own: makes a stage's optimizer from its schedule.
    schedule: learning rate by step.
    num_steps: steps in a turn.
  """

  def taking_turns(index):
    def rate(count):  # `count` is the steps that this stage has taken.
      turns, within = count // num_steps, count % num_steps
      return schedule((2 * turns + index) * num_steps + within)

    return optax.conditionally_mask(create_own(rate), lambda step: step // num_steps % 2 == index)

  def stages(params):
    return {name: 'specialist' if name == 'specialist' else 'preview' for name in params}

  return optax.partition({'preview': taking_turns(0), 'specialist': taking_turns(1)}, stages)


def scale_by_path(factors: Sequence[tuple[str, float]], params) -> optax.GradientTransformation:
  """Multiplies each parameter's update by the factor of the first pattern that matches its path.

  Args:
    factors: (regular expression, factor) in order, matched from the start of a path
      ('specialist/block_1/expand/conv/kernel'); 0 freezes, and without a match the factor is 1.
    params: the model's parameters, or their shapes.

  Raises:
    UserError: a pattern is no regular expression, or is no parameter's first match.
  """
  by_path = _by_path(factors, params)
  return optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, by_path))


def frozen(factors: Sequence[tuple[str, float]], params) -> list[str]:
  """Paths of the kernels and bases that `scale_by_path` freezes; raises the same errors."""
  by_path, _ = jax.tree_util.tree_flatten_with_path(_by_path(factors, params))
  return [_name(path) for path, factor in by_path if not factor and path[-1].key in _DECAYED]


def _by_path(factors, params):
  unused = dict(factors)

  def factor(path, _):
    for pattern, value in factors:
      if re.match(pattern, _name(path)):
        unused.pop(pattern, None)
        return value
    return 1.0

  try:
    by_path = jax.tree_util.tree_map_with_path(factor, params)
  except re.error as error:
    raise UserError(
      f'config.optimizer.learning_rate_factors has {error.pattern!r}, which is no regular '
      f'expression: {error}.'
    ) from error
  if unused:
    raise UserError(
      f'config.optimizer.learning_rate_factors has {next(iter(unused))!r}, which is the first '
      'match of no parameter; --mode=cost writes their paths to cost.json.'
    )
  return by_path


def _name(path):
  return '/'.join(key.key for key in path)


def _scale_bases() -> optax.GradientTransformation:
  def scale(path, update):
    return len(update) * update if path[-1].key == 'bases' else update

  return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def decayed_mask(params) -> Any:
  """True for the leaves that weight decay applies to."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYED, params)
