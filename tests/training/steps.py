"""A training step of the tiny networks, and what tests look at of it."""

import jax.numpy as jnp
import optax

from basisnet_jax.models.coefficients import Annealed
from basisnet_jax.training import optimizers
from basisnet_jax.training import step as step_lib
from basisnet_jax.training.objective import make_objective

BATCH = 16
EMA_DECAY = 0.15


def optimizer(rate=0.1):
  return optimizers.create(
    'rmsprop',
    optax.constant_schedule(rate),
    momentum=0.9,
    rmsprop_decay=0.9,
    epsilon=1e-3,
    beta1=0.9,
    beta2=0.999,
    weight_decay=0.01,
  )


def new_step(model, update, seed=0, objective=None, **options):
  """A step; `objective` and `options` are those of its objective and its own, beside these."""
  objective = make_objective(
    model,
    label_smoothing=0.2,
    lightweight_weight=0.5,
    # Wholly uniform at step 0 alone.
    annealed=lambda step: Annealed(jnp.where(step == 0, 1.0, 0.0)),
    **(objective or {}),
  )
  return step_lib.make_train_step(
    objective,
    update,
    optax.constant_schedule(0.1),
    seed=seed,
    ema_decay=EMA_DECAY,
    **options,
  )


def averaged(state):
  """What the moving averages are of."""
  return {'params': state.params, 'batch_stats': state.batch_stats}


def values(metrics):
  return {key: float(value) for key, value in metrics.compute().items()}
