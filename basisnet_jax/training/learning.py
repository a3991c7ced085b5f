"""From a recipe to how it is learned: what is made small, by schedule, in which step."""

from flax import linen as nn
import jax
import ml_collections
import optax

from basisnet_jax import sharding
from basisnet_jax.training import experiment
from basisnet_jax.training import objective as objective_lib
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib


def uniform_mix(config: ml_collections.ConfigDict, schedule: experiment.Schedule) -> optax.Schedule:
  """The share of uniform coefficients by step: linear from its start to 0."""
  k = config.model.coefficients
  return optax.linear_schedule(k.uniform_mix, 0.0, max(1, schedule.steps(k.uniform_mix_epochs)))


def objective(
  config: ml_collections.ConfigDict, model: nn.Module, schedule: experiment.Schedule
) -> objective_lib.Objective:
  """What the recipe's training makes small."""
  return objective_lib.make_objective(
    model,
    label_smoothing=config.loss.label_smoothing,
    lightweight_weight=config.loss.lightweight_weight,
    uniform_mix=uniform_mix(config, schedule),
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
