"""The registry: `create(name, **options)` and `names()`.

To add a network, write a Flax module that maps images to logits in a file of its own and add one
line to `_NETWORKS`. It can then be a stage of a BasisNet, and the tests cover it. A network outside
of this package goes by 'module:Class' (`own_networks`).
"""

from collections.abc import Callable
import difflib
import functools
import numbers
import re

from flax import linen as nn

from basisnet_jax.errors import UserError
from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.models import (
  efficientnet,
  fbnet_v3,
  layers,
  mobilenet_v1,
  mobilenet_v2,
  mobilenet_v3,
  once_for_all,
  own_networks,
  resnet,
  routed,
  synthesis,
  vision_transformer,
)
from basisnet_jax.models.basisnet import BasisNet, Outputs

__all__ = ['BasisNet', 'Outputs', 'create', 'is_routed', 'names']

_partial = functools.partial
_lite = _partial(efficientnet.EfficientNet, lite=True)

# Each takes num_classes, width, dropout, output_stride and style; with residual blocks also
# stochastic_depth.
_NETWORKS: dict[str, Callable[..., nn.Module]] = {
  'mobilenet_v1': mobilenet_v1.MobileNetV1,
  'mobilenet_v2': mobilenet_v2.MobileNetV2,
  'mobilenet_v3_large': _partial(mobilenet_v3.MobileNetV3, blocks=mobilenet_v3.LARGE, head=1280),
  'mobilenet_v3_small': _partial(mobilenet_v3.MobileNetV3, blocks=mobilenet_v3.SMALL, head=1024),
  'efficientnet_b0': efficientnet.EfficientNet,
  'efficientnet_b1': _partial(efficientnet.EfficientNet, depth_coefficient=1.1),
  'efficientnet_b2': _partial(
    efficientnet.EfficientNet, width_coefficient=1.1, depth_coefficient=1.2, dropout=0.3
  ),
  'efficientnet_lite0': _lite,
  'efficientnet_lite1': _partial(_lite, depth_coefficient=1.1),
  'efficientnet_lite2': _partial(_lite, width_coefficient=1.1, depth_coefficient=1.2, dropout=0.3),
  'efficientnet_lite3': _partial(_lite, width_coefficient=1.2, depth_coefficient=1.4, dropout=0.3),
  'efficientnet_lite4': _partial(_lite, width_coefficient=1.4, depth_coefficient=1.8, dropout=0.3),
  **{
    f'fbnet_v3_{name}': _partial(fbnet_v3.FBNetV3, network=network)
    for name, network in fbnet_v3.NETWORKS.items()
  },
  'once_for_all': once_for_all.OnceForAll,
  **{
    f'once_for_all_{name}': _partial(once_for_all.OnceForAll, settings=settings)
    for name, settings in once_for_all.PUBLISHED.items()
  },
  'resnet_10': _partial(resnet.ResNet, depths=(1, 1, 1, 1), bottleneck=False),
  'resnet_18': _partial(resnet.ResNet, depths=(2, 2, 2, 2), bottleneck=False),
  'resnet_50': _partial(resnet.ResNet, depths=(3, 4, 6, 3), bottleneck=True),
  'vit_tiny': _partial(vision_transformer.VisionTransformer, depth=12, heads=3),
}
# Routing of the networks that we compare with: the class and the default K.
_ROUTINGS = {
  'condconv': (routed.CondConv, 8),
  'dynamic_convolution': (routed.DynamicConvolution, 4),
}
# The layers of a BasisNet that hold bases by default.
_USUALLY_BASED = r'(?!.*(squeeze_excite|classifier))'
# The layers that hold bases in the papers. CondConv: the last three stages of EfficientNet-B0; for
# MobileNetV2 all blocks, the last 1x1 and the classifier, as its published count implies. Dynamic
# convolution: all convolutions. Combinations that were not published follow MobileNetV2.
_CONVOLUTIONS = r'block_\d+/(expand|depthwise|project)|last'
_ROUTED = {
  'condconv_efficientnet_b0': r'block_(9|1[0-6])/(expand|depthwise|project)',
  **{
    f'condconv_{name}': rf'{_CONVOLUTIONS}|head|classifier'
    for name in ('mobilenet_v2', 'mobilenet_v3_large', 'mobilenet_v3_small')
  },
  **{
    f'dynamic_convolution_{name}': _CONVOLUTIONS
    for name in ('efficientnet_b0', 'mobilenet_v2', 'mobilenet_v3_large', 'mobilenet_v3_small')
  },
  **{f'condconv_resnet_{depth}': r'stage_\d_block|classifier' for depth in (10, 18)},
  **{f'dynamic_convolution_resnet_{depth}': r'stage_\d_block' for depth in (10, 18)},
}


def names() -> list[str]:
  """Names that `create` accepts: 'basisnet', 'cascade', and the networks."""
  return ['basisnet', 'cascade', *sorted([*_NETWORKS, *_ROUTED])]


def is_routed(name: str) -> bool:
  """Whether the network makes coefficients as it runs (`routed.Routed`), and has options for it."""
  return name in _ROUTED


def create(name: str, **options) -> nn.Module:
  """Makes a network by name.

  Args:
    name: one of `names()`, or 'module:Class' for a Flax module of your own (`own_networks`).
    **options: for 'basisnet' and 'cascade' those of `two_stage`. For a network: num_classes
      (required), width, dropout, stochastic_depth, output_stride and the fields of
      `layers.Style`, with the network's own defaults (`mobilenet_v3.MobileNetV3` explains them).
      'condconv_...' and 'dynamic_convolution_...' also take num_bases (K), temperature (of the
      coefficients) and based_layers, as in `two_stage`, where '' means the layers of the paper;
      'once_for_all' takes settings (`once_for_all.Settings`).

  Raises:
    UserError: unknown name, or an option out of range. (A wrong `output_stride` is only found
      when the network is first traced.)
  """
  if name in ('basisnet', 'cascade'):
    if not {'lightweight', 'specialist'} & options.keys():
      raise UserError(f'{name!r} cannot be a stage of a network; choose another.')
    return two_stage(**options, cascade=name == 'cascade')
  if name in _ROUTED:
    kind, network = next((k, name.removeprefix(f'{k}_')) for k in _ROUTINGS if name.startswith(k))
    make, num_bases = _ROUTINGS[kind]
    num_bases = options.pop('num_bases', num_bases)
    _check_range('num_bases', num_bases, at_least=1, whole=True)
    temperature = options.pop('temperature', 1.0)
    _check_range('temperature', temperature, above=0)
    pattern = _checked_pattern(options.pop('based_layers', '') or _ROUTED[name])
    network = create(network, **options)
    return make(network, _based_layers(network, (64, 64, 3), pattern), num_bases, temperature)
  if ':' in str(name):
    make = own_networks.find(name)
  elif name in _NETWORKS:
    make = _NETWORKS[name]
  else:
    near = difflib.get_close_matches(str(name), names(), 1, 0.0)[0]
    raise UserError(
      f'There is no network {name!r}; did you mean {near!r}? Known: {names()}, and your own as '
      "'module:Class'."
    )
  _check_range('num_classes', options.get('num_classes', 1), at_least=1, whole=True)
  _check_range('width', options.get('width', 1.0), above=0)
  _check_range('dropout', options.get('dropout', 0.0), at_least=0, below=1)
  _check_range('output_stride', options.get('output_stride', 1), at_least=1, whole=True)
  drop_rate = options.pop('stochastic_depth', 0.0)
  _check_range('stochastic_depth', drop_rate, at_least=0, below=1)
  style = {key: options.pop(key) for key in layers.Style._fields if key in options}
  network = make(**options)
  if drop_rate and not hasattr(network, 'stochastic_depth'):
    raise UserError(
      f'stochastic_depth={drop_rate} drops residual blocks, and {name!r} has none; set it to 0.'
    )
  changed = {'stochastic_depth': drop_rate} if drop_rate else {}
  if style:
    changed['style'] = network.style._replace(**style)
  return network.clone(**changed) if changed else network


def two_stage(
  lightweight: nn.Module,
  specialist: nn.Module,
  *,
  resolution: int,
  lightweight_resolution: int | None = None,
  num_bases: int = 16,
  based_layers: str = '',
  cascade: bool = False,
  refine: float = 0.0,
  **coefficients,
) -> BasisNet:
  """Makes a BasisNet from any two networks.

  Args:
    lightweight: Flax module from images `[b, h, w, 3]` to logits `[b, classes]`, for the
      preview. Its `__call__` may take `train`, a bool; nothing else is passed.
    specialist: likewise; it is run lifted.
    resolution: size of the images, pixels.
    lightweight_resolution: size that the preview sees, pixels; None: `resolution`.
    num_bases: K.
    based_layers: regular expression; the specialist's layers whose paths it matches from the
      start hold bases (`synthesis.based_layers` lists the candidates). '' selects all without
      'classifier' or 'squeeze_excite' in their paths; the last layer of your own network holds
      bases, too, unless you name it 'classifier'.
    cascade: no layer holds bases: the second network is the same for every image.
    refine: the preview's logits times this are added to the specialist's (`BasisNet`).
    **coefficients: activation, shared, temperature, feature_gradient, basis_dropout (see
      `CoefficientHead`).

  Raises:
    UserError: a stage is not a network of one stage, an option is out of range, or no layer
      matches `based_layers`.
  """
  for stage, network in (('lightweight', lightweight), ('specialist', specialist)):
    if not isinstance(network, nn.Module) or isinstance(network, BasisNet):
      given = 'a BasisNet' if isinstance(network, nn.Module) else repr(network)
      raise UserError(
        f'{given} cannot be a stage, as {stage}; give a Flax module from images to logits, such as '
        "models.create('mobilenet_v3_small', num_classes=10)."
      )
  _check_range('resolution', resolution, at_least=1, whole=True)
  if lightweight_resolution is not None:
    _check_range('lightweight.resolution', lightweight_resolution, at_least=1, whole=True)
  _check_range('num_bases', num_bases, at_least=1, whole=True)
  _check_range('temperature', coefficients.get('temperature', 1.0), above=0)
  _check_range('refine', refine, at_least=0)
  _check_range('basis_dropout', coefficients.get('basis_dropout', 0.0), at_least=0, below=1)
  activation, known = coefficients.get('activation', 'softmax'), list(coefficients_lib.ACTIVATIONS)
  if activation not in known:
    raise UserError(
      f'activation={activation!r} of the coefficients is unknown; it is one of {known}.'
    )
  if isinstance(specialist, routed.Routed) and not cascade:
    raise UserError(
      f'A {type(specialist).__name__} network blends bases by itself, so it cannot be the '
      "specialist of 'basisnet'; choose a plain network, or the model 'cascade'."
    )
  shape = (resolution, resolution, 3)
  pattern = _checked_pattern(based_layers or _USUALLY_BASED)
  # Copied, with the modules in them: Flax would treat the same object in both places as one shared
  # network, and networks made inside another module's call as that module's, not the BasisNet's.
  lightweight, specialist = (network.copy(parent=None) for network in (lightweight, specialist))
  return BasisNet(
    lightweight=lightweight,
    specialist=specialist,
    layers=() if cascade else _based_layers(specialist, shape, pattern),
    num_bases=num_bases,
    lightweight_resolution=lightweight_resolution,
    refine=refine,
    **coefficients,
  )


def _checked_pattern(pattern: str) -> str:
  """Returns the pattern; raises a UserError if it is not a regular expression."""
  try:
    re.compile(pattern)
  except re.error as error:
    raise UserError(f'based_layers={pattern!r} is no regular expression: {error}.') from error
  return pattern


def _based_layers(network, image_shape, pattern) -> tuple[str, ...]:
  """The layers of a network that the user's pattern selects; a UserError if there are none."""
  chosen = tuple(synthesis.based_layers(network, image_shape, pattern))
  if not chosen:
    known = list(synthesis.based_layers(network, image_shape))
    raise UserError(f'No layer matches based_layers={pattern!r}; the layers are {known}.')
  return chosen


def _check_range(name, value, *, at_least=None, above=None, below=None, whole=False):
  """Raises a UserError if a value is not a (whole) number or is out of range."""
  if not isinstance(value, numbers.Real):
    raise UserError(f'{name}={value!r} is no number; give one.')
  if whole and not isinstance(value, numbers.Integral):
    raise UserError(f'{name}={value!r} is no whole number; give one.')
  if at_least is not None and not value >= at_least:
    raise UserError(f'{name}={value} is too small; it must be at least {at_least}.')
  if above is not None and not value > above:
    raise UserError(f'{name}={value} is too small; it must be above {above}.')
  if below is not None and not value < below:
    raise UserError(f'{name}={value} is too large; it must be below {below}.')
