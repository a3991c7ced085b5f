"""The coefficient head: from the lightweight model's features to K weights per layer."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {'softmax': jax.nn.softmax, 'sigmoid': jax.nn.sigmoid}


class CoefficientHead(nn.Module):
  """Maps features to combination coefficients (a choice of ours; the paper's is unknown).

  Attributes:
    num_layers: how many layers of the specialist hold bases.
    num_bases: K.
    activation: of `ACTIVATIONS`: 'softmax' (the coefficients of a layer sum to one) or
      'sigmoid' (each in [0, 1] by itself).
    shared: one vector for all layers instead of one for each.
    temperature: divides the head's outputs before the activation.
    feature_gradient: factor of the gradient from the coefficients to the features: 1 trains
      the stages end to end, 0 leaves the lightweight network to its own loss.
  """

  num_layers: int
  num_bases: int
  activation: str = 'softmax'
  shared: bool = False
  temperature: float = 1.0
  feature_gradient: float = 1.0

  @nn.compact
  def __call__(self, features, uniform_mix=0.0):
    """Returns coefficients, float32 `[b, num_layers, K]`, from features `[b, f]`.

    `uniform_mix` in [0, 1] blends them with the uniform ones, 1 / K: annealed from one
    to zero it keeps every basis in training at first.
    """
    kept = jax.lax.stop_gradient(features)
    features = kept + self.feature_gradient * (features - kept)
    rows = 1 if self.shared else self.num_layers
    outputs = nn.Dense(rows * self.num_bases, name='dense')(features.astype(jnp.float32))
    outputs = outputs.reshape(-1, rows, self.num_bases) / self.temperature
    coefficients = ACTIVATIONS[self.activation](outputs)
    coefficients = (1 - uniform_mix) * coefficients + uniform_mix / self.num_bases
    # `shape[0]`, not `len`: the batch may be symbolic (export).
    return jnp.broadcast_to(coefficients, (features.shape[0], self.num_layers, self.num_bases))


def entropy(coefficients):
  """Of each layer's coefficients as shares of their sum, by its largest value, log K.

  Args:
    coefficients: at least 0, `[..., K]`.

  Returns:
    `[...]`, from 0, one basis has it all (or K is 1), to 1, all have the same.
  """
  shares = coefficients / coefficients.sum(-1, keepdims=True)
  # Not `log(shares)`: its gradient at 0 is infinite, and softmax underflows.
  logs = jnp.log(jnp.maximum(shares, jnp.finfo(shares.dtype).tiny))
  return -(shares * logs).sum(-1) / math.log(max(2, coefficients.shape[-1]))
