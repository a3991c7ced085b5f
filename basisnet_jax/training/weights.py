"""Puts trained weights into a fresh state."""

import dataclasses
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from basisnet_jax import models
from basisnet_jax.models import upcycling
from basisnet_jax.training import state as train_state


class Weights(NamedTuple):
  """{'params', 'batch_stats'} of plain networks; None if there is no file.

  Attributes:
    final: for the specialist, or for a single network.
    lightweight: for the first stage.
  """

  final: dict[str, Any] | None
  lightweight: dict[str, Any] | None


def put(
  weights: Weights,
  model: nn.Module,
  state: train_state.TrainState,
  *,
  perturbation: float,
  seed: int,
) -> train_state.TrainState:
  """Puts weights into a state, on the same devices; `upcycling.upcycle` explains the last two.

  Raises:
    UserError: the weights do not fit.
  """
  if weights.final is None and weights.lightweight is None:
    return state
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  if isinstance(model, models.BasisNet):
    variables = upcycling.upcycle(
      model,
      variables,
      specialist=weights.final,
      lightweight=weights.lightweight,
      perturbation=perturbation,
      seed=seed,
    )
  else:
    variables = upcycling.fill(variables, weights.final)
  place = functools.partial(jax.tree.map, lambda new, old: jax.device_put(new, old.sharding))
  params = place(variables['params'], state.params)
  batch_stats = place(variables.get('batch_stats', {}), state.batch_stats)
  ema = state.ema and jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats})
  return dataclasses.replace(state, params=params, batch_stats=batch_stats, ema=ema)
