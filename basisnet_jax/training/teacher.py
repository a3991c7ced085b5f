"""Loads a recipe's teacher: a trained network of ours and its variables, on the devices."""

import dataclasses
from typing import Any

from flax import linen as nn
import jax
import ml_collections

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained
from basisnet_jax.training import evaluator, experiment, trained


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A frozen network.

  Attributes:
    model: images in [-1, 1] -> logits or `basisnet.Outputs`.
    resolution: size of the images that it was trained on, pixels.
    variables: {'params', 'batch_stats'}, sharded over the mesh by the recipe's rules.
  """

  model: nn.Module
  resolution: int
  variables: dict[str, Any]


def load(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Teacher | None:
  """Loads the recipe's teacher; None if it names none or `distillation.weight` is 0.

  Raises:
    UserError: the teacher cannot be read, or has a different number of classes.
  """
  t = config.distillation.teacher
  if t.workdir and t.name:
    raise UserError(
      f'config.distillation.teacher has both a workdir ({t.workdir}) and a name ({t.name}): a '
      'teacher is a run or a network with weights; leave one of them out.'
    )
  if t.weights and not t.name:
    raise UserError(
      f'config.distillation.teacher.weights={t.weights} is of which network? Set '
      'config.distillation.teacher.name.'
    )
  if not config.distillation.weight:
    return None
  if t.workdir:
    return _of_workdir(config, mesh)
  if t.name:
    return _of_weights(config, mesh)
  return None


def _of_workdir(config, mesh):
  t = config.distillation.teacher
  key = f'config.distillation.teacher.workdir={t.workdir}'
  folder = evaluator.checkpoint_folder('config.distillation.teacher.checkpoint', t.checkpoint)
  own = trained.recipe(t.workdir, key)
  with own.unlocked():
    own.sharding = config.sharding
  classes, wanted = own.model.num_classes, experiment.num_classes(config)
  if classes != wanted:
    raise UserError(f'{key} has {classes} classes, the data to be learned {wanted}; use another.')
  found = trained.load(own, t.workdir, folder, mesh, key)
  if jax.process_index() == 0:
    print(f'Teacher: {own.name} of {t.workdir}, step {found.step:,} ({t.checkpoint}).')
  return Teacher(found.model, own.model.resolution, found.variables)


def _of_weights(config, mesh):
  t = config.distillation.teacher
  if t.name in ('basisnet', 'cascade'):
    raise UserError(
      f'config.distillation.teacher.name={t.name} has two stages, which no file of weights has; '
      'give the workdir of a run.'
    )
  if not t.weights:
    raise UserError(
      f'config.distillation.teacher.name={t.name} needs its weights: set '
      'config.distillation.teacher.weights to a file (or teacher.workdir to a run of ours).'
    )
  own = config.copy_and_resolve_references()
  with own.unlocked():
    own.model.num_classes = experiment.num_classes(config)
    own.model.update({key: t[key] for key in t if key in own.model})
  model = experiment.build_model(own)
  variables = pretrained.load(model, t.weights)
  rules = sharding.rules_of(config.sharding.preset, config.sharding.rules, mesh=mesh)
  held = sharding.of_tree(variables, mesh, rules)
  return Teacher(model, t.resolution, jax.device_put(variables, held))
