"""Loads weights that were trained in other frameworks into our networks.

`load` fits a file to a network, `read` only reads it; neither executes code from the file.
The weights reproduce the original logits only with the options that they were trained with,
`models.create(name, padding=..., norm_epsilon=...)`, and images normalised in the same way.

  source                                     padding    norm_epsilon          images
  torchvision mobilenet_v2, efficientnet_b0,
    b1, b2, resnet18, resnet50               symmetric  1e-5                  ImageNet
  torchvision mobilenet_v3                   symmetric  1e-3                  ImageNet
  timm mobilenetv2, mobilenetv3,
    efficientnet, efficientnet_lite, resnet  symmetric  1e-5                  its default_cfg
  timm tf_mobilenetv3, tf_efficientnet,
    tf_efficientnet_lite                     same       1e-3                  its default_cfg
  efficientnet_lite_pytorch (and its npz)    same       1e-3                  (x - 127) / 128
  Keras MobileNetV2, MobileNetV3             same       1e-3                  x / 127.5 - 1
  Keras EfficientNet                         same       1e-3                  ImageNet

ImageNet is (x / 255 - mean) / std with mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225).

Traps:
  Width. TensorFlow, Keras, timm and we multiply the actual input channels of a MobileNetV3 block
    by its expansion; torchvision rounds the width-1 expansion times the width. They agree at
    width 1. Keras' MobileNetV3 has 16 stem channels at any width, ours only from 0.56 to 1.11.
  Padding. Before a strided convolution Keras pads for the image size that the model was built
    with, or for an even size if it was built with none (MobileNetV3's default): then 'same' gives
    the same logits only for images whose sides are multiples of 32.
  Input layers. Keras' MobileNetV3 and EfficientNet normalise inside the model; ours do not, so
    that part of the file is skipped.
  ResNet. Keras' ResNet50 has its strides in the first 1x1 convolution of a block, ours (and
    torchvision's, and timm's) in the 3x3: it is a different network and is refused.
"""

from collections.abc import Mapping
import os

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained_names
from basisnet_jax.models.efficientnet import EfficientNet
from basisnet_jax.models.mobilenet_v2 import MobileNetV2
from basisnet_jax.models.mobilenet_v3 import MobileNetV3
from basisnet_jax.models.pretrained_files import read
from basisnet_jax.models.resnet import ResNet

__all__ = ['load', 'read']

_NETWORKS = MobileNetV2, MobileNetV3, EfficientNet, ResNet
_NAMED_AT_MOST = 3  # Tensors that an error names for each kind of mistake.


def load(network: nn.Module, path: str | os.PathLike, *, classifier: bool = True) -> dict:
  """Reads a network's variables from a file of another framework.

  The names in the file tell the library: torchvision, timm, efficientnet_lite_pytorch (and
  efficientnet_pytorch), each as a state dict or an npz of one, or `keras.applications`. For
  Keras the order of the layers counts, not their names. If the file has 1001 classes and the
  network 1000, the first, TensorFlow's background, is dropped.

  Args:
    network: a MobileNetV2, MobileNetV3, EfficientNet (or Lite) or ResNet, made with the options
      that the table above gives.
    path: .pth, .pt, .bin, .safetensors, .npz, .h5 (`.weights.h5` too) or .keras.
    classifier: False leaves the classifier out, for other classes: fine-tuning starts from
      `{**network.init(...)['params'], **load(...)['params']}`.

  Returns:
    {'params': ..., 'batch_stats': ...}, nested like the network's own, numpy float32.

  Raises:
    UserError: the file is missing, damaged or of an unknown kind, or its tensors do not match the
      network; the first that are missing, unknown or of another shape are named. Or it is another
      network.
  """
  file = read(path)
  if not isinstance(network, _NETWORKS):
    raise UserError(
      f'No weights are read for a network of the type {type(network).__name__}; make one by '
      f"models.create('mobilenet_v2', ...): {', '.join(kind.__name__ for kind in _NETWORKS)}."
    )
  leaves = _leaves(network)
  layout = pretrained_names.find_layout(file)
  if layout is None:
    raise UserError(
      f"'{path}' has the names of no known library (the first: {list(file)[:_NAMED_AT_MOST]}): "
      f'pass a file of one of {pretrained_names.LIBRARIES}.'
    )
  if layout == 'keras' and isinstance(network, ResNet):
    raise UserError(
      f"'{path}' is of Keras, whose ResNets have their strides in another layer than ours: "
      'pass a file of torchvision or timm.'
    )
  names = pretrained_names.names_in_file(layout, file, leaves)
  order = _kernel_order(layout, file, names, leaves)
  file = pretrained_names.without_state(layout, file)
  if not classifier:
    for leaf in ('params/classifier/kernel', 'params/classifier/bias'):
      del leaves[leaf]
      file.pop(names.pop(leaf, None), None)
  variables = {
    leaf: _as_ours(file[names[leaf]], leaf, shape, order)
    for leaf, shape in leaves.items()
    if names.get(leaf) in file
  }
  mistakes = _mistakes(file, names, leaves, variables)
  if mistakes:
    raise UserError(
      f"'{path}' ({layout}) does not fit this {type(network).__name__}: {mistakes}. "
      'Create the network that it was saved from (name, width, num_classes), or pass '
      'classifier=False if only the classes differ.'
    )
  return traverse_util.unflatten_dict(variables, sep='/')


def _mistakes(file: Mapping, names: Mapping, leaves: Mapping, variables: Mapping) -> str:
  """Describes missing, unknown and misshapen tensors: how many, and the first few of each."""
  used = {names[leaf] for leaf in variables}
  mistakes = {
    'missing': [
      f'{names.get(leaf, "nothing")} for {leaf} {shape}'
      for leaf, shape in leaves.items()
      if leaf not in variables
    ],
    'unknown': [f'{name} {array.shape}' for name, array in file.items() if name not in used],
    'of another shape': [
      f'{names[leaf]} {file[names[leaf]].shape} for {leaf} {leaves[leaf]}'
      for leaf, array in variables.items()
      if array.shape != leaves[leaf]
    ],
  }
  return '; '.join(
    f'{len(found)} {kind} ({", ".join(found[:_NAMED_AT_MOST])}'
    f'{", ..." if len(found) > _NAMED_AT_MOST else ""})'
    for kind, found in mistakes.items()
    if found
  )


def _leaves(network: nn.Module) -> dict[str, tuple[int, ...]]:
  """{'params/stem/conv/kernel': its shape, ...} in the order in which the layers run."""
  modules = []

  def record(next_fun, args, kwargs, context):
    modules.append('/'.join(context.module.path))
    return next_fun(*args, **kwargs)

  # The image size does not matter: no parameter of these networks depends on it.
  images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  with nn.intercept_methods(record):
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
  flat = traverse_util.flatten_dict(variables, sep='/')
  ordered = sorted(flat, key=lambda leaf: modules.index(pretrained_names.module_of(leaf)))
  return {leaf: flat[leaf].shape for leaf in ordered}


def _kernel_order(layout: str, file: Mapping, names: Mapping, leaves: Mapping) -> str:
  """The axis order of the file's kernels: 'hwio' as ours, 'oihw' (PyTorch), 'keras'."""
  if layout == 'keras':
    return 'keras'
  stem = 'params/stem/conv/kernel'
  found = file.get(names.get(stem))
  return 'hwio' if found is not None and found.shape == leaves[stem] else 'oihw'


def _as_ours(array: np.ndarray, leaf: str, shape: tuple[int, ...], order: str) -> np.ndarray:
  """Converts an array of the file to our axis order; its shape may still differ from `shape`."""
  if order == 'oihw' and array.ndim == 4:
    array = array.transpose(2, 3, 1, 0)
  elif order == 'oihw' and array.ndim == 2:
    array = array.T
  elif order == 'keras' and len(shape) == array.ndim == 4 and shape[2] == 1:
    array = array.transpose(0, 1, 3, 2)  # Depthwise: [k, k, channels, 1].
  if len(shape) == 2 and array.shape[:-2] == (1, 1):  # A 1x1 convolution, for us a matrix.
    array = array[0, 0]
  if leaf.startswith('params/classifier/') and (array.shape[-1:], shape[-1]) == ((1001,), 1000):
    array = array[..., 1:]
  return np.ascontiguousarray(array, np.float32)
