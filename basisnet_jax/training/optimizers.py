"""Learning-rate schedules and optimizers by name."""

from typing import Any

import jax
import optax

from basisnet_jax.errors import UserError

# Leaves that weight decay applies to; not biases, not normalisation.
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
  """Linear warm-up from 0, then 'cosine' (to 0) or 'exponential' (in stairs).

  Both count from step 0, as TensorFlow's recipes do: the warm-up covers the decay's start.
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
    return decay(step) * jax.numpy.minimum(1.0, (step + 1) / warmup_steps)

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
) -> optax.GradientTransformation:
  """'rmsprop' (TensorFlow's form), 'sgd' (Nesterov) or 'adamw'.

  Weight decay touches kernels and bases only: decoupled for 'adamw', added to the gradient
  (L2) for the others.
  """
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
  return optax.chain(optax.add_decayed_weights(weight_decay, decayed_mask), update)


def decayed_mask(params) -> Any:
  """True for the leaves that weight decay applies to."""
  return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in _DECAYED, params)
