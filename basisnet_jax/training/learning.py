"""Builds a recipe's training: the objective to minimise, the schedule, the step."""

from collections.abc import Callable
import functools
from typing import Any

from etils import epath
from flax import linen as nn
import jax
import ml_collections
import numpy as np
import optax

from basisnet_jax import models, sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import coefficients, target
from basisnet_jax.training import distillation, experiment, kept_step, losses, mixing, optimizers
from basisnet_jax.training import objective as objective_lib
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib
from basisnet_jax.training import teacher as teacher_lib
from basisnet_jax.training import weights as weights_lib


def annealed(
  config: ml_collections.ConfigDict, schedule: experiment.Schedule
) -> Callable[[jax.Array], coefficients.Annealed]:
  """Returns the linear annealing of the coefficients as a function of the step number."""
  k = config.model.coefficients
  mix = optax.linear_schedule(
    k.uniform_mix,
    0.0,
    transition_steps=max(1, schedule.steps(k.uniform_mix_epochs)),
    transition_begin=schedule.steps(k.uniform_mix_hold_epochs),
  )
  if not k.temperature_epochs:
    return lambda step: coefficients.Annealed(mix(step))
  temperature = optax.linear_schedule(
    k.temperature_start, k.temperature, schedule.steps(k.temperature_epochs)
  )
  return lambda step: coefficients.Annealed(mix(step), temperature(step))


def objective(
  config: ml_collections.ConfigDict,
  model: nn.Module,
  schedule: experiment.Schedule,
  teacher: teacher_lib.Teacher | None = None,
) -> objective_lib.Objective:
  """Makes the objective of the recipe's training; `teacher` is the recipe's, or None.

  Raises:
    UserError: an option is for two stages or for bases, and the network has none such.
  """
  loss, s, remat = config.loss, config.distillation, config.training.remat_preview
  for key, value in (
    ('training.remat_preview', remat),
    ('loss.exit_aware', loss.exit_aware),
    ('distillation.from_specialist', s.from_specialist),
  ):
    if value and not isinstance(model, models.BasisNet):
      raise UserError(
        f'config.{key}={value} is for two stages, and {config.model.name!r} has one; set it to 0.'
      )
  for key in ('load_balance', 'coefficient_entropy'):
    if loss[key] and not (isinstance(model, models.BasisNet) and model.layers):
      raise UserError(
        f"config.loss.{key}={loss[key]} is for 'basisnet', and this is {config.model.name!r}; "
        'set it to 0.'
      )
  distill = exit_weight = None
  if teacher is not None or s.from_specialist:
    distill = distillation.make_distill(
      teacher and distillation.make_teacher(teacher.model, teacher.resolution),
      weight=s.weight,
      temperature=s.temperature,
      lightweight=s.lightweight,
      from_specialist=s.from_specialist,
    )
  if loss.exit_aware:
    exit_weight = functools.partial(
      losses.exit_weight,
      share=loss.exit_aware,
      threshold=loss.exit_threshold,
      softness=loss.exit_softness,
    )
  return objective_lib.make_objective(
    model,
    label_smoothing=config.loss.label_smoothing,
    lightweight_weight=config.loss.lightweight_weight,
    annealed=annealed(config, schedule),
    load_balance=config.loss.load_balance,
    coefficient_entropy=config.loss.coefficient_entropy,
    distill=distill,
    exit_weight=exit_weight,
    remat_preview=target.platform() == 'cpu' if remat is None else remat,
  )


def mixer(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh):
  """Makes the recipe's `mixing.make_mixer`; None if the recipe mixes no images.

  Raises:
    UserError: a device's share of the batch is not an even number of images.
  """
  t = config.training
  if not (t.mixup or t.cutmix):
    return None
  if t.batch_size % (2 * mesh.size):
    raise UserError(
      f'config.training.batch_size={t.batch_size} does not give each of {mesh.size} devices pairs '
      f'of images for mixup or CutMix; make it a multiple of {2 * mesh.size}.'
    )
  return mixing.make_mixer(
    experiment.num_classes(config),
    mixup=t.mixup,
    cutmix=t.cutmix,
    cutmix_share=t.cutmix_share,
  )


class Training:
  """Everything that a recipe's training on a mesh needs, except the images.

  Attributes:
    model: the network.
    schedule: `experiment.Schedule`.
    state: shapes, dtypes and shardings of the training state.
    shardings: the shardings in `state`.
  """

  def __init__(self, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, num_train: int):
    """`num_train` is the number of training images."""
    self._config, self._mesh = config, mesh
    self.model = experiment.build_model(config)
    self.schedule = experiment.Schedule(config, num_train)
    self._rate = experiment.learning_rate(config, self.schedule)
    self._optimizer = experiment.optimizer(config, self.model, self._rate)
    # The same function gives the shapes and the values, so that JAX traces it once.
    self._create_state = experiment.state_factory(config, self.model, self._optimizer)
    self.state = experiment.abstract_state(config, self._create_state, mesh)
    self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)

  def read_weights(self) -> weights_lib.Weights:
    """Reads the recipe's files of weights, if it names any.

    Raises:
      UserError: a file cannot be read or does not fit, or there is no stage for it; or layers are
        frozen for which there is no file.
    """
    _check_frozen(self._config, self.model, self.state.params)
    return experiment.read_weights(self._config, self.model)

  def fresh_state(self, weights: weights_lib.Weights | None = None) -> train_state.TrainState:
    """Creates the state at step 0 with the trained weights.

    Without `weights` it calls `read_weights`, and raises the same errors.
    """
    weights = weights or self.read_weights()
    state = train_state.initialize(self._create_state, self.shardings)
    return experiment.with_trained_weights(self._config, self.model, state, weights)

  def abstract_batch(self, index: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of training batch number `index`; the first is 0."""
    side = experiment.train_resolution(self._config, self.schedule.total_steps)
    if not isinstance(side, int):
      side = [size for first, size in side if first <= index][-1]
    kinds = {'image': ((side, side, 3), np.uint8), 'label': ((), np.int32)}
    kinds['mask'] = (), np.float32
    rows, split = self._config.training.batch_size, sharding.over_data(self._mesh)
    return {
      name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=split)
      for name, (shape, dtype) in kinds.items()
    }

  def step(self, *, skip_nonfinite: bool = False, keep: bool = False) -> 'Step':
    """Makes the recipe's training step; see `step.make_train_step`.

    With `keep`, later processes that also set it reuse this compiled step, if JAX has a folder for
    its compilation cache (`kept_step`). Changes that are in no file, such as code from a notebook
    or monkey patches, go unnoticed: use `keep` in programs only.

    Raises:
      UserError: the recipe's options do not fit together, or the teacher cannot be read.
    """
    config, mesh = self._config, self._mesh
    teacher = teacher_lib.load(config, mesh)
    step = step_lib.make_train_step(
      objective(config, self.model, self.schedule, teacher),
      self._optimizer,
      self._rate,
      seed=config.seed,
      ema_decay=config.ema_decay,
      accumulation=config.training.accumulation,
      skip_nonfinite=skip_nonfinite,
      mix=mixer(config, mesh),
      gather=sharding.gather(mesh),
    )
    held = () if teacher is None else (teacher.variables,)
    shardings = (jax.tree.map(lambda leaf: leaf.sharding, variables) for variables in held)
    jitted = step_lib.jit_train_step(step, mesh, self.shardings, *shardings)
    if not keep:
      return Step(jitted, held)
    s, t = self.schedule, teacher
    recipe = config.to_dict(), s.total_steps, s.steps_per_epoch, t and (t.model, t.resolution)
    return Step(jitted, held, functools.partial(kept_step.path_of, *recipe, mesh, skip_nonfinite))


class Step:
  """A training step, `step(state, batch)`, compiled at the first batch of each shape.

  Attributes:
    jitted: the jitted function, for its own methods.
  """

  def __init__(
    self, jitted: Any, held: tuple = (), path_of: Callable[..., epath.Path | None] | None = None
  ):
    """Wraps the recipe's jitted step.

    Args:
      jitted: takes state, batch and `held`.
      held: arguments that are in no checkpoint: the teacher's variables.
      path_of: from the arguments to where their compiled step is kept. None: nowhere.
    """
    self.jitted, self._held, self._path_of = jitted, held, path_of
    self._kept = {}  # {shapes of a batch: compiled step}.

  def __call__(self, state, batch):
    step = self._kept.get(_shapes(batch), self.jitted)
    return step(state, batch, *self._held)

  def compile(self, state, batch) -> jax.stages.Compiled:
    """Compiles for a state and a batch, or their shapes; later calls use the result."""
    arguments = state, batch, *self._held
    path = self._path_of and self._path_of(arguments)
    if path and (kept := kept_step.load(path, *arguments)):
      self._kept[_shapes(batch)] = kept
      return kept
    lowered = self.jitted.lower(*arguments)
    return kept_step.compile_and_keep(lowered, path) if path else lowered.compile()


def _check_frozen(config, model, params):
  """Refuses layers that stay random: frozen, without a file of weights."""
  for path in optimizers.frozen(config.optimizer.learning_rate_factors, params):
    key = 'weights'
    if isinstance(model, models.BasisNet):
      # The coefficient head is in no file.
      key = {'lightweight': 'lightweight_weights', 'specialist': key}.get(path.split('/')[0])
    if key and not config.init[key]:
      why, mend = f'config.init.{key} is empty', 'name a file of trained weights'
    elif key and not config.init.classifier and path.split('/')[-2] == 'classifier':
      why, mend = 'config.init.classifier is False', 'set it to True'
    else:
      continue
    raise UserError(
      f'{why}, and config.optimizer.learning_rate_factors freezes {path}, which would stay as '
      f"random as it begins; {mend}, or set --config.optimizer.learning_rate_factors='()'."
    )


def _shapes(batch):
  return tuple(sorted((name, array.shape) for name, array in batch.items()))
