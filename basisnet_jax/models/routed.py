"""Networks that blend bases layer by layer as they run: what BasisNet is compared with.

Whereas BasisNet's coefficients come from a preview of the whole image, each layer or block here
makes its own from its own input. The network is an ordinary one, lifted while it runs.
"""

import collections

from flax import linen as nn
import jax
import jax.numpy as jnp

from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.models import synthesis
from basisnet_jax.models.coefficients import AT_REST, Annealed


class Routed(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, classes]`; the base class of those below.

  In training the coefficients can be annealed as in a BasisNet (but not as a stage of a cascade).

  Attributes:
    network: any network from images to logits.
    layers: paths of its layers that hold bases (`synthesis.based_layers`).
    num_bases: K.
    temperature: divides the input of the coefficients' sigmoid or softmax. The authors of
      dynamic convolution anneal it from 30 to 1.
  """

  network: nn.Module
  layers: tuple[str, ...]
  num_bases: int
  temperature: float = 1.0

  @nn.compact
  def __call__(self, images, train: bool = False, annealed: Annealed = AT_REST):
    groups = collections.defaultdict(list)
    for layer in self.layers:
      groups[self.router_of(layer)].append(layer)

    temperature = self.temperature if annealed.temperature is None else annealed.temperature

    def route(module, x):
      coefficients = self.route(module, x, temperature)
      return coefficients_lib.mixed(coefficients, 1 / self.num_bases, annealed)

    with synthesis.routed((*self.path, 'network'), groups, route):
      return synthesis.call(self.network, images, train)


class CondConv(Routed):
  """Conditionally parameterised convolutions (Yang et al. 2019).

  One dense layer with a sigmoid on the pooled input of a block gives the coefficients of all
  its layers.
  """

  def router_of(self, layer: str) -> str:
    """The module whose input sets the coefficients: the first of the path."""
    return layer.split('/')[0]

  def route(self, module, x, temperature):
    """Coefficients `[b, K]` from the input of `module`."""
    outputs = nn.Dense(self.num_bases, name='routing', parent=module)(_pool(x))
    return jax.nn.sigmoid(outputs / temperature)


class DynamicConvolution(Routed):
  """Dynamic convolution (Chen et al. 2020): two dense layers and a softmax for each layer."""

  def router_of(self, layer: str) -> str:
    """The module whose input sets the coefficients: the layer itself."""
    return layer

  def route(self, module, x, temperature):
    """Coefficients `[b, K]` from the input of `module`."""
    return Attention(self.num_bases, name='routing', parent=module)(_pool(x), temperature)


class Attention(nn.Module):
  """Two dense layers, the first to a quarter of the channels, and a softmax."""

  num_bases: int

  @nn.compact
  def __call__(self, x, temperature):
    x = jax.nn.relu(nn.Dense(max(1, x.shape[-1] // 4), name='reduce')(x))
    return jax.nn.softmax(nn.Dense(self.num_bases, name='expand')(x) / temperature)


def _pool(x):
  """The mean over all but the first and last axis, float32 `[b, i]`."""
  return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))
