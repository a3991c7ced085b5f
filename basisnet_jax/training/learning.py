"""From a recipe to its training: the objective that is minimised, the schedule, the step."""

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
  """What the coefficients are annealed by, from the step's number; all of it linear."""
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
  """What the recipe's training minimises; `teacher` is that of the recipe, or None.

  Raises:
    UserError: an option for two stages, and the network has one.
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
  """What mixes the images of a batch (`mixing.make_mixer`); None if nothing does.

  Raises:
    UserError: a device's share of the batch has an odd image out.
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
  """What a recipe trains on a mesh: all of it but the images.

  Attributes:
    model: the network.
    schedule: `experiment.Schedule`.
    state: shapes, dtypes and shardings of what a step changes.
    shardings: those of `state`.
  """

  def __init__(self, config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh, num_train: int):
    """`num_train` is the number of training images."""
    self._config, self._mesh = config, mesh
    self.model = experiment.build_model(config)
    self.schedule = experiment.Schedule(config, num_train)
    self._rate = experiment.learning_rate(config, self.schedule)
    self._optimizer = experiment.optimizer(config, self.model, self._rate)
    # One function for its shapes and its values: JAX traces it once.
    self._create_state = experiment.state_factory(config, self.model, self._optimizer)
    self.state = experiment.abstract_state(config, self._create_state, mesh)
    self.shardings = jax.tree.map(lambda leaf: leaf.sharding, self.state)

  def read_weights(self) -> weights_lib.Weights:
    """What the recipe's files of weights hold, if it names any.

    Raises:
      UserError: a file cannot be read or does not fit, or no stage takes it; or layers never
        learn, and there is none for them.
    """
    _check_frozen(self._config, self.model, self.state.params)
    return experiment.read_weights(self._config, self.model)

  def fresh_state(self, weights: weights_lib.Weights | None = None) -> train_state.TrainState:
    """The state at step 0, with the weights of `read_weights`.

    They are read where they are not given; it raises the same.
    """
    weights = weights or self.read_weights()
    state = train_state.initialize(self._create_state, self.shardings)
    return experiment.with_trained_weights(self._config, self.model, state, weights)

  def abstract_batch(self, index: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the training batch of that number; the first is 0."""
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
    """The step of the recipe; see `step.make_train_step`.

    With `keep` later processes that ask for it start with this one's compiled step, if JAX has a
    folder for its compilation cache (`kept_step`). Code of the caller's that is in no file, and
    what it puts in place of ours while it runs, is not seen: it is for programs.

    Raises:
      UserError: what the recipe asks for does not fit, or the teacher cannot be read.
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
  """A training step, `step(state, batch)`, that is compiled when it first sees such a batch.

  Attributes:
    jitted: the function for `jax.jit`'s own methods.
  """

  def __init__(
    self, jitted: Any, held: tuple = (), path_of: Callable[..., epath.Path | None] | None = None
  ):
    """Of the recipe's step.

    Args:
      jitted: takes state, batch and `held`.
      held: what no checkpoint holds, the teacher's variables.
      path_of: of the arguments, where their compiled step is kept. None: nowhere.
    """
    self.jitted, self._held, self._path_of = jitted, held, path_of
    self._kept = {}  # By the shapes of a batch.

  def __call__(self, state, batch):
    step = self._kept.get(_shapes(batch), self.jitted)
    return step(state, batch, *self._held)

  def compile(self, state, batch) -> jax.stages.Compiled:
    """For a state and a batch or their shapes; calls find it afterwards."""
    arguments = state, batch, *self._held
    path = self._path_of and self._path_of(arguments)
    if path and (kept := kept_step.load(path, *arguments)):
      self._kept[_shapes(batch)] = kept
      return kept
    lowered = self.jitted.lower(*arguments)
    return kept_step.compile_and_keep(lowered, path) if path else lowered.compile()


def _check_frozen(config, model, params):
  """Refuses layers that begin at random and never learn: no file of weights is read for them."""
  for path in optimizers.frozen(config.optimizer.learning_rate_factors, params):
    key = 'weights'
    if isinstance(model, models.BasisNet):
      # What makes the coefficients is in no file.
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
