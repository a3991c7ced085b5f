"""Runs of no step, in their workdirs as trainings leave them."""

import jax
import tiny

from basisnet_jax import config as config_lib
from basisnet_jax.training import experiment
from basisnet_jax.training.checkpoints import Checkpoints

LABELS = list('abcdefghij')


def run(folder, **changes):
  """Writes one of `tiny`'s recipe with keys changed (`model__name='cascade'`) to a folder."""
  config = tiny.get_config()
  config.update_from_flattened_dict({key.replace('__', '.'): v for key, v in changes.items()})
  config_lib.save(config, folder, label_names=LABELS, device_kind='cpu')
  model = experiment.build_model(config)
  update = experiment.optimizer(config, model, lambda step: 0.1)
  with Checkpoints(str(folder / 'checkpoints'), keep=1) as checkpoints:
    checkpoints.save(jax.jit(experiment.state_factory(config, model, update))())
  return folder
