"""A MobileNetV2 of random weights, and its state dict under torchvision's names."""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax import models

CLASSES = 7
WIDTH = 0.1


def create(num_classes=CLASSES, **options):
  return models.create('mobilenet_v2', num_classes=num_classes, width=WIDTH, **options)


@functools.cache
def random_leaves(num_classes=CLASSES):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(create(num_classes).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  flat = traverse_util.flatten_dict(shapes, sep='/')

  def draw(path, shape):
    if path.endswith('/var'):
      return rng.uniform(0.5, 2, shape)
    fan_in = int(np.prod(shape[:-1])) if len(shape) > 1 else 1
    return rng.normal(scale=fan_in**-0.5, size=shape)

  return {path: draw(path, s.shape).astype(np.float32) for path, s in flat.items()}


def state_dict(leaves):
  """Our leaves as torchvision's state dict of a MobileNetV2."""
  file = {}

  def layer(name, module, kind):
    if kind == 'conv':
      file[f'{name}.weight'] = leaves[f'params/{module}/kernel'].transpose(3, 2, 0, 1)
      return
    file[f'{name}.weight'] = leaves[f'params/{module}/scale']
    file[f'{name}.bias'] = leaves[f'params/{module}/bias']
    file[f'{name}.running_mean'] = leaves[f'batch_stats/{module}/mean']
    file[f'{name}.running_var'] = leaves[f'batch_stats/{module}/var']
    file[f'{name}.num_batches_tracked'] = np.int64(5)

  def pair(convolution, norm, module):
    layer(convolution, f'{module}/conv', 'conv')
    layer(norm, f'{module}/norm', 'norm')

  pair('features.0.0', 'features.0.1', 'stem')
  for i in range(1, 18):
    block, conv = f'block_{i}', f'features.{i}.conv'
    first = 0 if i == 1 else 1  # The first block has no expansion.
    if first:
      pair(f'{conv}.0.0', f'{conv}.0.1', f'{block}/expand')
    pair(f'{conv}.{first}.0', f'{conv}.{first}.1', f'{block}/depthwise')
    pair(f'{conv}.{first + 1}', f'{conv}.{first + 2}', f'{block}/project')
  pair('features.18.0', 'features.18.1', 'last')
  file['classifier.1.weight'] = leaves['params/classifier/kernel'].T
  file['classifier.1.bias'] = leaves['params/classifier/bias']
  return {name: np.ascontiguousarray(array) for name, array in file.items()}
