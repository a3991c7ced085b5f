"""The coefficient head: from the lightweight model's features to K weights per layer."""

from flax import linen as nn
import jax
import jax.numpy as jnp


class CoefficientHead(nn.Module):
  """Maps features to combination coefficients (a choice of ours; the paper's is unknown).

  Attributes:
    num_layers: how many layers of the specialist hold bases.
    num_bases: K.
    activation: 'softmax' (coefficients of a layer sum to one) or 'sigmoid'.
    shared: one vector for all layers instead of one for each.
    temperature: divides the head's outputs before the activation.
  """

  num_layers: int
  num_bases: int
  activation: str = 'softmax'
  shared: bool = False
  temperature: float = 1.0

  @nn.compact
  def __call__(self, features, uniform_mix=0.0):
    """Returns coefficients, float32 `[b, num_layers, K]`, from features `[b, f]`.

    `uniform_mix` in [0, 1] blends them with the uniform ones, 1 / K: annealed from one
    to zero it keeps every basis in training at first.
    """
    rows = 1 if self.shared else self.num_layers
    outputs = nn.Dense(rows * self.num_bases, name='dense')(features.astype(jnp.float32))
    outputs = outputs.reshape(-1, rows, self.num_bases) / self.temperature
    activation = {'softmax': jax.nn.softmax, 'sigmoid': jax.nn.sigmoid}[self.activation]
    coefficients = (1 - uniform_mix) * activation(outputs) + uniform_mix / self.num_bases
    return jnp.broadcast_to(coefficients, (len(features), self.num_layers, self.num_bases))
