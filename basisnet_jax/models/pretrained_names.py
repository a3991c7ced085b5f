"""What other libraries call the layers of our networks."""

from collections.abc import Callable, Iterable, Mapping
import re
from typing import NamedTuple

import numpy as np

LIBRARIES = ('torchvision', 'timm', 'efficientnet_lite_pytorch', 'keras')

Pair = tuple[str, ...]  # The layers of a part: convolution and normalisation, or two matrices.


class Layout(NamedTuple):
  """The naming scheme of a library's network.

  Attributes:
    mark: regular expression; names that it matches from the start occur only in this layout.
    block: regular expression for the common prefix of the names of a block's tensors; the file's
      blocks, sorted, correspond to ours in order.
    outside: {our part outside of the blocks: its layers in the file}.
    inside: function from the parts of one of our blocks, in order, to {part: its layers below
      the block}.
  """

  mark: str
  block: str
  outside: dict[str, Pair]
  inside: Callable[[list[str]], dict[str, Pair]]


def _torchvision_v2(parts):
  names = {part: (f'.conv.{i}.0', f'.conv.{i}.1') for i, part in enumerate(parts)}
  last = len(parts) - 1
  return names | {'project': (f'.conv.{last}', f'.conv.{last + 1}')}


def _torchvision(parts):
  """MobileNetV3 and EfficientNet."""
  return {
    part: (f'.block.{i}.fc1', f'.block.{i}.fc2')
    if part == 'squeeze_excite'
    else (f'.block.{i}.0', f'.block.{i}.1')
    for i, part in enumerate(parts)
  }


def _timm(parts):
  squeeze_excite = {'squeeze_excite': ('.se.conv_reduce', '.se.conv_expand')}
  if 'expand' not in parts:
    return squeeze_excite | {'depthwise': ('.conv_dw', '.bn1'), 'project': ('.conv_pw', '.bn2')}
  return squeeze_excite | {
    'expand': ('.conv_pw', '.bn1'),
    'depthwise': ('.conv_dw', '.bn2'),
    'project': ('.conv_pwl', '.bn3'),
  }


def _efficientnet_pytorch(parts):
  del parts
  return {
    'expand': ('._expand_conv', '._bn0'),
    'depthwise': ('._depthwise_conv', '._bn1'),
    'squeeze_excite': ('._se_reduce', '._se_expand'),
    'project': ('._project_conv', '._bn2'),
  }


def _resnet(parts):
  del parts
  convolutions = {f'conv_{i}': (f'.conv{i}', f'.bn{i}') for i in (1, 2, 3)}
  return convolutions | {'shortcut': ('.downsample.0', '.downsample.1')}


_TORCHVISION_STEM = {'stem': ('features.0.0', 'features.0.1')}
_TIMM = {'stem': ('conv_stem', 'bn1'), 'classifier': ('classifier',)}
_TIMM_BLOCK = r'blocks\.\d+\.\d+(?=\.conv_)'

# `{last}` is the largest number after 'features.' or 'blocks.'.
_LAYOUTS = {
  'torchvision MobileNetV2': Layout(
    r'features\.1\.conv\.',
    r'features\.\d+(?=\.conv\.)',
    {
      **_TORCHVISION_STEM,
      'last': ('features.{last}.0', 'features.{last}.1'),
      'classifier': ('classifier.1',),
    },
    _torchvision_v2,
  ),
  'torchvision MobileNetV3': Layout(
    r'features\.1\.block\.',
    r'features\.\d+(?=\.block\.)',
    {
      **_TORCHVISION_STEM,
      'last': ('features.{last}.0', 'features.{last}.1'),
      'head': ('classifier.0',),
      'classifier': ('classifier.3',),
    },
    _torchvision,
  ),
  'torchvision EfficientNet': Layout(
    r'features\.1\.0\.block\.',
    r'features\.\d+\.\d+(?=\.block\.)',
    {
      **_TORCHVISION_STEM,
      'last': ('features.{last}.0', 'features.{last}.1'),
      'classifier': ('classifier.1',),
    },
    _torchvision,
  ),
  # Here the last 1x1 convolution is a block, and the head a convolution with bias.
  'timm MobileNetV3': Layout(
    r'conv_head\.bias',
    _TIMM_BLOCK,
    {**_TIMM, 'last': ('blocks.{last}.0.conv', 'blocks.{last}.0.bn1'), 'head': ('conv_head',)},
    _timm,
  ),
  'timm': Layout(r'conv_stem\.', _TIMM_BLOCK, {**_TIMM, 'last': ('conv_head', 'bn2')}, _timm),
  'efficientnet_lite_pytorch': Layout(
    r'_conv_stem\.',
    r'_blocks\.\d+(?=\.)',
    {
      'stem': ('_conv_stem', '_bn0'),
      'last': ('_conv_head', '_bn1'),
      'classifier': ('_fc',),
    },
    _efficientnet_pytorch,
  ),
  'torchvision or timm ResNet': Layout(
    r'layer1\.0\.conv1\.',
    r'layer\d+\.\d+(?=\.)',
    {'stem': ('conv1', 'bn1'), 'classifier': ('fc',)},
    _resnet,
  ),
}
_TORCH_LEAVES = {
  'kernel': 'weight',
  'bias': 'bias',
  'scale': 'weight',
  'mean': 'running_mean',
  'var': 'running_var',
}
# Their positions among the weights of a Keras layer.
_KERAS_LEAVES = {'kernel': 0, 'scale': 0, 'bias': 1, 'mean': 2, 'var': 3}


def module_of(leaf: str) -> str:
  """'params/stem/conv/kernel' -> 'stem/conv'."""
  return leaf.split('/', 1)[1].rpartition('/')[0]


def find_layout(file: Iterable[str]) -> str | None:
  """Which library's names these are: 'keras', a name in `_LAYOUTS`, or None."""
  for name, layout in _LAYOUTS.items():
    if any(re.match(layout.mark, tensor) for tensor in file):
      return name
  # The first weight of a normalisation, in Keras 3's files and in older ones.
  return 'keras' if any(tensor.endswith(('/vars/0', '/gamma')) for tensor in file) else None


def names_in_file(
  layout: str, file: Mapping[str, np.ndarray], leaves: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
  """{our leaf: its name in the file}, without leaves for which the layout has no name.

  Args:
    layout: from `find_layout`.
    file: {name: array}.
    leaves: {'params/stem/conv/kernel': its shape, ...}, in the order of the layers.
  """
  if layout == 'keras':
    return _keras_names(file, leaves)
  modules = _module_names(_LAYOUTS[layout], file, map(module_of, leaves))
  return {
    leaf: f'{modules[module_of(leaf)]}.{_TORCH_LEAVES[leaf.rsplit("/", 1)[1]]}'
    for leaf in leaves
    if module_of(leaf) in modules
  }


def without_state(layout: str, file: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The file's weights, without counters (integers), seeds or Keras' input normalisation."""
  if layout == 'keras':
    return {name: file[name] for layer in _keras_layers(file) for name in layer}
  return {name: array for name, array in file.items() if array.dtype.kind == 'f'}


def _module_names(layout: Layout, file, modules: Iterable[str]) -> dict[str, str]:
  parts = {}  # {'block_1/expand': ['block_1/expand/conv', 'block_1/expand/norm'], ...}
  for module in dict.fromkeys(modules):
    is_whole = module in ('head', 'classifier')
    parts.setdefault(module if is_whole else module.rpartition('/')[0], []).append(module)
  blocks = {}  # {'block_1': ['expand', 'depthwise', 'project'], ...}
  for part in parts:
    block, _, inside = part.rpartition('/')
    if block:
      blocks.setdefault(block, []).append(inside)

  found = {match[0] for name in file if (match := re.match(layout.block, name))}
  prefixes = sorted(found, key=lambda prefix: [int(n) for n in re.findall(r'\d+', prefix)])
  numbers = (re.match(r'(?:features|blocks)\.(\d+)', name) for name in file)
  last = max((int(match[1]) for match in numbers if match), default=0)
  layers = {part: [n.format(last=last) for n in pair] for part, pair in layout.outside.items()}
  for (block, inside), prefix in zip(blocks.items(), prefixes):  # noqa: B905 counts may differ
    for part, pair in layout.inside(inside).items():
      layers[f'{block}/{part}'] = [prefix + name for name in pair]
  return {
    module: name
    for part, ours in parts.items()
    if part in layers
    for module, name in zip(ours, layers[part], strict=True)
  }


def _keras_names(file, leaves) -> dict[str, str]:
  """Matches names by the order of the layers of each kind, which all Keras files keep."""
  theirs = {}
  for layer in _keras_layers(file):
    theirs.setdefault(_kind(file[layer[0]].shape, depthwise_axis=3), []).append(layer)
  ours = {}
  for leaf, shape in leaves.items():
    if leaf.endswith(('/kernel', '/scale')):
      ours.setdefault(_kind(shape, depthwise_axis=2), []).append(module_of(leaf))
  layers = {
    module: layer
    for kind, modules in ours.items()
    for module, layer in zip(modules, theirs.get(kind, []))  # noqa: B905 counts may differ
  }
  names = {}
  for leaf in leaves:
    place, layer = _KERAS_LEAVES[leaf.rsplit('/', 1)[1]], layers.get(module_of(leaf), [])
    if place < len(layer):
      names[leaf] = layer[place]
  return names


def _keras_layers(file) -> list[list[str]]:
  """The names of each layer's weights, without layers that hold an integer (a count or seed)."""
  layers = {}
  for name in file:
    layers.setdefault(name.rpartition('/')[0], []).append(name)
  return [names for names in layers.values() if all(file[name].dtype.kind == 'f' for name in names)]


def _kind(shape: tuple[int, ...], depthwise_axis: int) -> str:
  """A layer's kind, from its first weight; 1x1 convolutions and matrices are one kind."""
  if len(shape) < 2:
    return 'norm'
  is_depthwise = len(shape) == 4 and shape[0] > 1 and shape[depthwise_axis] == 1
  return 'depthwise' if is_depthwise else 'matrix'
