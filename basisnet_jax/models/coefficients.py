"""The coefficient head: from the lightweight model's features to K weights per layer."""

import math
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp


def _sigmoid(outputs, where=None):
  coefficients = jax.nn.sigmoid(outputs)
  return coefficients if where is None else jnp.where(where, coefficients, 0)


# `where` is false on bases that take no part; a softmax sums to one over the others.
ACTIVATIONS = {'softmax': jax.nn.softmax, 'sigmoid': _sigmoid}


class Annealed(NamedTuple):
  """Values that change from step to step in training; numbers or scalars on the device.

  Attributes:
    uniform_mix: in [0, 1], the share of the uniform coefficients, 1 / K, in the blend: annealed
      from one to zero, it keeps every basis in training at first.
    temperature: replaces the head's; None keeps the head's.
  """

  uniform_mix: float | jax.Array = 0.0
  temperature: float | jax.Array | None = None


AT_REST = Annealed()  # As in evaluation.


class CoefficientHead(nn.Module):
  """Maps features to combination coefficients (a choice of ours; the paper's is unknown).

  Attributes:
    num_layers: how many layers of the specialist hold bases.
    num_bases: K.
    activation: of `ACTIVATIONS`: 'softmax' (the coefficients of a layer sum to one) or
      'sigmoid' (each independently in [0, 1]).
    shared: one vector for all layers instead of one for each.
    temperature: divides the head's outputs before the activation.
    feature_gradient: factor of the gradient from the coefficients to the features: 1 trains
      the stages end to end, 0 leaves the lightweight network to its own loss.
    basis_dropout: probability that a basis is dropped in training, see `surviving`.
  """

  num_layers: int
  num_bases: int
  activation: str = 'softmax'
  shared: bool = False
  temperature: float = 1.0
  feature_gradient: float = 1.0
  basis_dropout: float = 0.0

  @nn.compact
  def __call__(self, features, annealed: Annealed = AT_REST, train: bool = False):
    """Returns coefficients, float32 `[b, num_layers, K]`, from features `[b, f]`.

    Training with `basis_dropout` needs the RNG 'dropout'. With 'softmax' the coefficients of the
    surviving bases sum to one again; with 'sigmoid' they are scaled so that their mean is the same
    as without dropout.
    """
    kept = jax.lax.stop_gradient(features)
    features = kept + self.feature_gradient * (features - kept)
    rows = 1 if self.shared else self.num_layers
    outputs = nn.Dense(rows * self.num_bases, name='dense')(features.astype(jnp.float32))
    temperature = self.temperature if annealed.temperature is None else annealed.temperature
    outputs = outputs.reshape(-1, rows, self.num_bases) / temperature
    activate = ACTIVATIONS[self.activation]
    if train and self.basis_dropout > 0:
      alive = surviving(self.make_rng('dropout'), self.basis_dropout, outputs.shape)
      # Dropped before the softmax: after it the survivors' sum may be zero.
      coefficients = activate(outputs, where=alive)
      if self.activation == 'softmax':
        uniform = alive / alive.sum(-1, keepdims=True)
      else:
        scale = 1 / survival_rate(self.basis_dropout, self.num_bases)
        coefficients, uniform = scale * coefficients, scale * alive / self.num_bases
    else:
      coefficients, uniform = activate(outputs), 1 / self.num_bases
    coefficients = mixed(coefficients, uniform, annealed)
    # `shape[0]`, not `len`: the batch may be symbolic (export).
    return jnp.broadcast_to(coefficients, (features.shape[0], self.num_layers, self.num_bases))


def mixed(coefficients, uniform, annealed: Annealed):
  """Blends coefficients `[..., K]` with the uniform ones by `annealed.uniform_mix`."""
  mix = annealed.uniform_mix
  return (1 - mix) * coefficients + mix * uniform


def surviving(key, rate: float, shape):
  """Draws which bases take part: bool of `shape`, `[..., K]`, at least one of each K.

  Drawn for each image and layer independently (layers that share coefficients drop the same
  bases), so that in every step some images train each basis. If all K would be dropped, one of
  them, chosen uniformly, survives.
  """
  shut_off, last = jax.random.split(key)
  alive = jax.random.bernoulli(shut_off, 1 - rate, shape)
  last = jax.random.randint(last, (*shape[:-1], 1), 0, shape[-1]) == jnp.arange(shape[-1])
  return jnp.where(alive.any(-1, keepdims=True), alive, last)


def survival_rate(rate: float, num_bases: int) -> float:
  """The probability that a basis is among the `surviving`."""
  return 1 - rate + rate**num_bases / num_bases


def entropy(coefficients):
  """Entropy of each layer's coefficients, as shares of their sum, over its maximum, log K.

  Args:
    coefficients: at least 0, `[..., K]`.

  Returns:
    `[...]`, from 0 (one basis has all the weight, or K is 1) to 1 (all have the same).
  """
  shares = coefficients / coefficients.sum(-1, keepdims=True)
  # Not `log(shares)`: its gradient at 0 is infinite, and softmax underflows.
  logs = jnp.log(jnp.maximum(shares, jnp.finfo(shares.dtype).tiny))
  return -(shares * logs).sum(-1) / math.log(max(2, coefficients.shape[-1]))
