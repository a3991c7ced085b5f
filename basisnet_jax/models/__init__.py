"""The registry: `create(name, **options)` and `names()`.

A new network is a Flax module from images to logits in a file of its own and one line in
`_NETWORKS`; as a stage of a BasisNet it needs nothing more.
"""

from collections.abc import Callable
import difflib
import functools

from flax import linen as nn
import jax.numpy as jnp

from basisnet_jax.errors import UserError
from basisnet_jax.models import basisnet
from basisnet_jax.models import mobilenet_v2
from basisnet_jax.models import mobilenet_v3
from basisnet_jax.models import synthesis
from basisnet_jax.models.basisnet import BasisNet
from basisnet_jax.models.basisnet import Outputs

__all__ = ['BasisNet', 'Outputs', 'create', 'names']

# Each takes num_classes, width, dropout, output_stride, dtype.
_NETWORKS: dict[str, Callable[..., nn.Module]] = {
  'mobilenet_v2': mobilenet_v2.MobileNetV2,
  'mobilenet_v3_large': functools.partial(
    mobilenet_v3.MobileNetV3, blocks=mobilenet_v3.LARGE, head=1280
  ),
  'mobilenet_v3_small': functools.partial(
    mobilenet_v3.MobileNetV3, blocks=mobilenet_v3.SMALL, head=1024
  ),
}


def names() -> list[str]:
  """The names that `create` knows: the plain networks and 'basisnet'."""
  return ['basisnet', *sorted(_NETWORKS)]


def create(name: str, **options) -> nn.Module:
  """Makes a network by name.

  Args:
    name: one of `names()`.
    **options: of a plain network: num_classes, width, dropout, output_stride, dtype
      (`mobilenet_v3.MobileNetV3` says what they mean); of 'basisnet': those of `two_stage`.

  Raises:
    UserError: unknown name, or an option that cannot be.
  """
  if name == 'basisnet':
    return two_stage(**options)
  if name not in _NETWORKS:
    near = difflib.get_close_matches(name, names(), 1, 0.0)[0]
    raise UserError(f'There is no network {name!r}; did you mean {near!r}? Known: {names()}.')
  return _NETWORKS[name](**options)


def two_stage(
  lightweight: nn.Module,
  specialist: nn.Module,
  *,
  resolution: int,
  lightweight_resolution: int | None = None,
  num_bases: int = 16,
  based_layers: str = '',
  **coefficients,
) -> BasisNet:
  """Makes a BasisNet of any two networks.

  Args:
    lightweight: Flax module from images to logits, for the preview.
    specialist: Flax module from images to logits, to be lifted.
    resolution: of the images, pixels.
    lightweight_resolution: the preview's, pixels; None is the same.
    num_bases: K.
    based_layers: regular expression on the paths of the specialist's layers.
    **coefficients: activation, shared, temperature (see `CoefficientHead`).

  Raises:
    UserError: no layer matches `based_layers`.
  """
  shape = (resolution, resolution, 3)
  layers = tuple(synthesis.based_layers(specialist, shape, based_layers))
  if not layers:
    known = list(synthesis.based_layers(specialist, shape))
    raise UserError(f'No layer matches based_layers={based_layers!r}; the layers are {known}.')
  return BasisNet(
    lightweight=lightweight,
    specialist=specialist,
    layers=layers,
    num_bases=num_bases,
    lightweight_resolution=lightweight_resolution,
    **coefficients,
  )
