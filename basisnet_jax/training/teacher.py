"""From a recipe to its teacher: a trained network of ours and its variables, on the devices."""

import dataclasses
import os
from typing import Any

from etils import epath
from flax import linen as nn
import jax
import ml_collections

from basisnet_jax import config as config_lib
from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained
from basisnet_jax.training import evaluator, experiment


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A network that stays as it is.

  Attributes:
    model: images in [-1, 1] -> logits, or `basisnet.Outputs`.
    resolution: of the images that it was trained on, pixels.
    variables: {'params', 'batch_stats'}, on the mesh as the recipe's rules say.
  """

  model: nn.Module
  resolution: int
  variables: dict[str, Any]


def load(config: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Teacher | None:
  """The teacher of the recipe; None if it names none, or `distillation.weight` is 0.

  Raises:
    UserError: the teacher cannot be read, or has another number of classes.
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
  if not config_lib.is_saved(t.workdir):
    raise UserError(f'{key} holds no run (it has no config.json); train the teacher there first.')
  own = config_lib.load(t.workdir)
  with own.unlocked():
    own.sharding = config.sharding
  classes, wanted = _num_classes(own, t.workdir), experiment.num_classes(config)
  if classes != wanted:
    raise UserError(f'{key} has {classes} classes, the data to be learned {wanted}; use another.')
  own.model.num_classes = classes
  model = experiment.build_model(own)
  state = evaluator.restore(own, model, mesh, os.path.join(t.workdir, folder))
  if state is None:
    raise UserError(f'{key} has no checkpoint in {folder}/; train it first.')
  if jax.process_index() == 0:
    print(f'Teacher: {own.name} of {t.workdir}, step {int(state.step):,} ({t.checkpoint}).')
  return Teacher(model, own.model.resolution, state.eval_variables())


def _num_classes(config, workdir):
  """From the run's labels, so that its data need not be there."""
  labels = epath.Path(workdir) / 'labels.txt'
  if labels.exists():
    return len(labels.read_text().splitlines())
  return experiment.num_classes(config)


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
