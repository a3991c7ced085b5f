"""The registry: `create(name, **options)` and `names()`.

A new network is a Flax module from images to logits in a file of its own and one line in
`_NETWORKS`; as a stage of a BasisNet it needs nothing more.
"""

from collections.abc import Callable
import difflib
import functools
import re

from flax import linen as nn

from basisnet_jax.errors import UserError
from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.models import mobilenet_v2, mobilenet_v3, synthesis
from basisnet_jax.models.basisnet import BasisNet, Outputs

__all__ = ['BasisNet', 'Outputs', 'create', 'names']

# Each takes num_classes, width, dropout, output_stride, norm_momentum, dtype.
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
    **options: of a plain network: num_classes, width, dropout, output_stride,
      norm_momentum, dtype
      (`mobilenet_v3.MobileNetV3` says what they mean); of 'basisnet': those of `two_stage`.

  Raises:
    UserError: unknown name, or an option out of its range. (A wrong `output_stride` is
      found when the network is first traced.)
  """
  if name == 'basisnet':
    if 'specialist' not in options:
      raise UserError("'basisnet' cannot be a stage of itself; choose another network.")
    return two_stage(**options)
  if name not in _NETWORKS:
    near = difflib.get_close_matches(name, names(), 1, 0.0)[0]
    raise UserError(f'There is no network {name!r}; did you mean {near!r}? Known: {names()}.')
  _check_range('num_classes', options.get('num_classes', 1), at_least=1)
  _check_range('width', options.get('width', 1.0), above=0)
  _check_range('dropout', options.get('dropout', 0.0), at_least=0, below=1)
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
    lightweight: Flax module from images `[b, h, w, 3]` to logits `[b, classes]`, for the
      preview. Its call may take `train`, a bool; nothing else is passed.
    specialist: the same, to be lifted.
    resolution: of the images, pixels.
    lightweight_resolution: the preview's, pixels; None is the same.
    num_bases: K.
    based_layers: regular expression; the layers of the specialist whose paths it matches
      from the start hold bases (`synthesis.based_layers` says which can).
    **coefficients: activation, shared, temperature (see `CoefficientHead`).

  Raises:
    UserError: an option out of its range, or no layer matches `based_layers`.
  """
  _check_range('resolution', resolution, at_least=1)
  if lightweight_resolution is not None:
    _check_range('lightweight.resolution', lightweight_resolution, at_least=1)
  _check_range('num_bases', num_bases, at_least=1)
  _check_range('temperature', coefficients.get('temperature', 1.0), above=0)
  activation, known = coefficients.get('activation', 'softmax'), list(coefficients_lib.ACTIVATIONS)
  if activation not in known:
    raise UserError(
      f'activation={activation!r} of the coefficients is unknown; it is one of {known}.'
    )
  try:
    re.compile(based_layers)
  except re.error as error:
    raise UserError(f'based_layers={based_layers!r} is no regular expression: {error}.') from error
  shape = (resolution, resolution, 3)
  layers = tuple(synthesis.based_layers(specialist, shape, based_layers))
  if not layers:
    known = list(synthesis.based_layers(specialist, shape))
    raise UserError(f'No layer matches based_layers={based_layers!r}; the layers are {known}.')
  return BasisNet(
    lightweight=lightweight,
    # A copy, because Flax would take the same object in both places for one shared network.
    specialist=specialist.copy(),
    layers=layers,
    num_bases=num_bases,
    lightweight_resolution=lightweight_resolution,
    **coefficients,
  )


def _check_range(name, value, *, at_least=None, above=None, below=None):
  """Raises a UserError where a number is out of its range."""
  if at_least is not None and not value >= at_least:
    raise UserError(f'{name}={value} is too small; it must be at least {at_least}.')
  if above is not None and not value > above:
    raise UserError(f'{name}={value} is too small; it must be above {above}.')
  if below is not None and not value < below:
    raise UserError(f'{name}={value} is too large; it must be below {below}.')
