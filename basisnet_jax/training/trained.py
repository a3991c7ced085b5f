"""Loads the network that a run trained from its workdir."""

import dataclasses
import os
from typing import Any

from flax import linen as nn
import jax
import ml_collections

from basisnet_jax import config as config_lib
from basisnet_jax.errors import UserError
from basisnet_jax.training import checkpoints, class_names, evaluator, experiment


@dataclasses.dataclass(frozen=True)
class Trained:
  """A network and its trained variables.

  Attributes:
    model: images in [-1, 1] -> logits or `basisnet.Outputs`.
    variables: {'params', 'batch_stats'} on the mesh, the averages if they are kept.
    step: the checkpoint's step.
  """

  model: nn.Module
  variables: dict[str, Any]
  step: int


def recipe(workdir: str, name: str) -> ml_collections.ConfigDict:
  """Loads a run's recipe, with the number of classes from its labels, so it needs no data.

  `name` is what messages call the workdir.

  Raises:
    UserError: the workdir holds no run.
  """
  if not config_lib.is_saved(workdir):
    raise UserError(f'{name} holds no run (it has no config.json); train there first.')
  config = config_lib.load(workdir)
  names = class_names.labels(workdir)
  config.model.num_classes = len(names) if names else experiment.num_classes(config)
  return config


def load(
  config: ml_collections.ConfigDict, workdir: str, folder: str, mesh: jax.sharding.Mesh, name: str
) -> Trained:
  """Loads the newest readable checkpoint in a run's folder.

  Args:
    config: from `recipe`.
    workdir: the run's workdir.
    folder: the folder in it (`evaluator.checkpoint_folder`).
    mesh: where the variables go.
    name: what messages call the workdir.

  Raises:
    UserError: there is no checkpoint, or it does not fit `config`.
  """
  model = experiment.build_model(config)
  try:
    state = evaluator.restore(config, model, mesh, os.path.join(workdir, folder))
  except checkpoints.UnreadableError as error:
    names, shapes = len(class_names.labels(workdir)), error.others.values()
    classes = {saved[-1:] for saved, _ in shapes}
    if len(classes) != 1 or any(wanted[-1:] != (names,) for _, wanted in shapes):
      raise
    raise UserError(
      f'{os.path.join(workdir, "labels.txt")} names {names:,} classes, and the network has '
      f'{classes.pop()[0]:,}; bring back a name of each, one a line.'
    ) from error
  if state is None:
    raise UserError(f'{name} has no checkpoint in {folder}/; train it first.')
  return Trained(model, state.eval_variables(), int(state.step))
