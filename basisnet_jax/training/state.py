"""The training state: what a step changes, and all that a checkpoint holds."""

from collections.abc import Callable
from typing import Any

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from basisnet_jax.models import preprocessing, synthesis


@flax.struct.dataclass
class TrainState:
  """The training state. It holds no random key: randomness depends on the seed and `step` only.

  Attributes:
    step: int32, number of steps taken.
    params: trainable parameters, float32.
    batch_stats: running statistics of batch normalisation.
    opt_state: the optimizer's state.
    ema: {'params', 'batch_stats'}, their moving averages; None if off.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any
  ema: Any

  def eval_variables(self) -> dict[str, Any]:
    """The variables to evaluate with: the averages if they are kept."""
    return self.ema or {'params': self.params, 'batch_stats': self.batch_stats}


def create(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  seed: int,
  resolution: int,
  *,
  use_ema: bool,
  bases_correlation: float = 0.0,
) -> TrainState:
  """Creates the state at step 0; run it under `jax.jit` with the state's shardings."""
  images = preprocessing.normalize(jnp.zeros((1, resolution, resolution, 3), jnp.uint8))
  params_key, dropout_key = jax.random.split(jax.random.key(seed))
  variables = model.init({'params': params_key, 'dropout': dropout_key}, images)
  params = synthesis.correlated(variables['params'], bases_correlation)
  batch_stats = variables.get('batch_stats', {})
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizer.init(params),
    # Copies, since the step donates the state and a buffer can be donated only once.
    ema=jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if use_ema else None,
  )


def initialize(create_state: Callable[[], TrainState], shardings: Any) -> TrainState:
  """Runs `create` with its arguments bound; `shardings` (one, or a tree) place the state."""
  # The program runs once and draws each layer's weights separately: on CPU, optimizing it would
  # take three times as long and save milliseconds.
  options = {'xla_backend_optimization_level': 0} if jax.default_backend() == 'cpu' else None
  return jax.jit(create_state, out_shardings=shardings, compiler_options=options)()
