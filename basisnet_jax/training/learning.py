"""From a recipe to how it is learned: what is made small, by schedule, in which step."""

from collections.abc import Callable

from flax import linen as nn
import jax
import ml_collections
import optax

from basisnet_jax import sharding
from basisnet_jax.models import coefficients
from basisnet_jax.training import experiment
from basisnet_jax.training import objective as objective_lib
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib


def annealed(
  config: ml_collections.ConfigDict, schedule: experiment.Schedule
) -> Callable[[jax.Array], coefficients.Annealed]:
  """What the coefficients are annealed by, from the step's number; all of it linear."""
  k = config.model.coefficients
  mix = optax.linear_schedule(k.uniform_mix, 0.0, max(1, schedule.steps(k.uniform_mix_epochs)))
  if not k.temperature_epochs:
    return lambda step: coefficients.Annealed(mix(step))
  temperature = optax.linear_schedule(
    k.temperature_start, k.temperature, schedule.steps(k.temperature_epochs)
  )
  return lambda step: coefficients.Annealed(mix(step), temperature(step))


def objective(
  config: ml_collections.ConfigDict, model: nn.Module, schedule: experiment.Schedule
) -> objective_lib.Objective:
  """What the recipe's training makes small."""
  return objective_lib.make_objective(
    model,
    label_smoothing=config.loss.label_smoothing,
    lightweight_weight=config.loss.lightweight_weight,
    annealed=annealed(config, schedule),
    load_balance=config.loss.load_balance,
    coefficient_entropy=config.loss.coefficient_entropy,
  )


def train_step(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  update: optax.GradientTransformation,
  schedule: experiment.Schedule,
  mesh: jax.sharding.Mesh,
  shardings: train_state.TrainState,
  *,
  skip_nonfinite: bool = False,
):
  """The recipe's compiled step; `shardings` are the state's, and see `step.make_train_step`."""
  step = step_lib.make_train_step(
    objective(config, model, schedule),
    update,
    experiment.learning_rate(config, schedule),
    seed=config.seed,
    ema_decay=config.ema_decay,
    accumulation=config.training.accumulation,
    skip_nonfinite=skip_nonfinite,
    gather=sharding.gather(mesh),
  )
  return step_lib.jit_train_step(step, mesh, shardings)
