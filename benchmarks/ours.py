"""The main recipe's networks and training step on random images, as calls to measure."""

from collections.abc import Callable
import functools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from basisnet_jax import command_line, models, sharding
from basisnet_jax.inference import fixed
from basisnet_jax.models import cost, microbatches
from basisnet_jax.training import experiment, learning

_RECIPE = str(pathlib.Path(__file__).parents[1] / 'configs' / 'mnv3.py')
BATCH = 32  # Batch size of `command`; its training images are TRAIN_SPLIT.
TRAIN_SPLIT = 'validation[:90%]'
_NUM_IMAGES = 1_281_167  # In ImageNet's training split.


def recipe(variant: str = '', **changes: Any) -> ml_collections.ConfigDict:
  """Loads configs/mnv3.py, in float32 on CPU, with keys changed (`model__num_bases=8`)."""
  config = command_line.load_recipe(_RECIPE, _variants(variant))
  config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
  return config


def basisnets(name: str) -> dict[str, ml_collections.ConfigDict]:
  """The recipe, and beside it the same with the other value of `training.remat_preview`."""
  again = jax.default_backend() != 'cpu'
  other = ', preview run again' if again else ', preview kept'
  return {name: recipe(), name + other: recipe(training__remat_preview=again)}


def command(variant: str, workdir: str, data_dir: str, *flags: str) -> list[str]:
  """The main recipe's own command, in float32 on CPU; it trains on validation images."""
  return [
    *(sys.executable, '-m', 'basisnet_jax.main', f'--config={_RECIPE}:{_variants(variant)}'),
    *(f'--workdir={workdir}', f'--config.data.data_dir={data_dir}'),
    *(f'--config.data.train_split={TRAIN_SPLIT}', '--config.data.heldout_split='),
    *('--config.data.eval_split=validation[90%:]', f'--config.training.batch_size={BATCH}'),
    *flags,
  ]


def _variants(variant):
  cpu = jax.default_backend() == 'cpu'
  return ','.join(name for name in (variant, 'float32' if cpu else '') if name)


def images(batch: int, resolution: int = 224) -> jax.Array:
  """Random images in [-1, 1], float32 `[batch, resolution, resolution, 3]`."""
  shape = (batch, resolution, resolution, 3)
  return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, shape), jnp.float32)


def variables(model) -> dict[str, Any]:
  """Fresh variables; their init is compiled without optimization, which would not pay off."""
  options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
  init = jax.jit(lambda key: model.init(key, images(1)), compiler_options=options)
  return init(jax.random.key(0))


def madds(config: ml_collections.ConfigDict) -> int:
  """Multiply-adds of the recipe's model for one image."""
  return cost.count(experiment.build_model(config), config.model.resolution).total_madds


class Stages:
  """Inference with a two-stage model of the recipe, its weights fixed.

  Attributes:
    preview: images -> logits, coefficients.
    specialize: images, coefficients -> logits.
    both: images -> logits.
    few_at_once: the same in the way of evaluation, by `microbatches`.
  """

  def __init__(self, model: models.BasisNet, held: dict, device: jax.Device | None = None):
    """Puts the model's variables, `held`, on `device`."""
    light, special = models.basisnet.of_stages(held)
    self.preview = fixed.fix(functools.partial(model.apply, method='preview'), light, device)
    specialize = functools.partial(model.apply, method='specialize')
    self.specialize = fixed.fix(specialize, special, device)
    both = lambda v, x: model.apply(v, x).specialist  # noqa: E731
    self.both = fixed.fix(both, held, device)
    self.few_at_once = fixed.fix(_few_at_once(both), held, device)


def basisnet(config: ml_collections.ConfigDict) -> tuple[models.BasisNet, dict]:
  """The model and fresh variables."""
  model = experiment.build_model(config)
  return model, variables(model)


def network(config: ml_collections.ConfigDict) -> tuple[Callable[[jax.Array], jax.Array], ...]:
  """Inference with a one-stage network, its weights fixed: images -> logits.

  The second function does the same in the way of evaluation, few images at once, by `microbatches`.
  """
  model = experiment.build_model(config)
  assert not isinstance(model, models.BasisNet)
  held = variables(model)
  return fixed.fix(model.apply, held), fixed.fix(_few_at_once(model.apply), held)


def _few_at_once(apply):
  return lambda v, x: microbatches.call(functools.partial(apply, v), x)


class TrainStep:
  """The recipe's own training step on one batch of random images, which stays on the devices.

  Attributes:
    compiled: the step (`jax.stages.Compiled`).
  """

  def __init__(self, config: ml_collections.ConfigDict, batch: int, mesh=None):
    config.training.batch_size = batch
    mesh = mesh or sharding.create_mesh(config.sharding.mesh)
    training = learning.Training(config, mesh, _NUM_IMAGES)
    self._start = training.fresh_state
    random, side = np.random.default_rng(0), config.model.resolution
    host = {
      'image': random.integers(0, 256, (batch, side, side, 3), np.uint8),
      'label': random.integers(0, 1000, batch, np.int32),
      'mask': np.ones(batch, np.float32),
    }
    (self._batch,) = sharding.to_device([host], mesh)
    self.compiled = training.step().compile(training.state, self._batch)
    self._state = None

  def __call__(self) -> None:
    """Takes a step and waits for it."""
    if self._state is None:
      self._state = self._start()
    self._state, _ = self.compiled(self._state, self._batch)
    jax.block_until_ready(self._state)

  @property
  def megabytes(self) -> float:
    """The program's peak memory, including state and batch."""
    used = self.compiled.memory_analysis()
    return (
      used.argument_size_in_bytes
      + used.output_size_in_bytes
      - used.alias_size_in_bytes
      + used.temp_size_in_bytes
    ) / 1e6
