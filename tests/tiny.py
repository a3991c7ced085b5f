"""Networks of three layers, a BasisNet of two of them, and a recipe that trains it in seconds."""

from flax import linen as nn
import jax
import numpy as np

from basisnet_jax import base_config, models
from basisnet_jax.models import layers

RESOLUTION = 8
NUM_BASES = 2
# Flags of a run of a few seconds that programs can read again.
RUN = [
  '--config=tests/tiny.py',
  '--config.model.specialist=resnet_18',  # Known without the recipe's file.
  '--config.model.lightweight.name=resnet_18',
  '--config.model.width=0.125',
  '--config.model.lightweight.width=0.125',
  '--config.training.steps=12',
  '--config.training.batch_size=32',
]


class TinyNetwork(nn.Module):
  """A dense 3x3, a depthwise 3x3 and a 1x1 convolution, and a classifier."""

  num_classes: int = 10
  width: float = 1.0
  dropout: float = 0.0
  output_stride: int = 4
  style: layers.Style = layers.Style(norm_momentum=0.9)

  @nn.compact
  def __call__(self, x, train: bool = False):
    features, style = int(8 * self.width), self.style
    x = nn.Conv(features, (3, 3), 2, use_bias=False, dtype=style.dtype, name='dense')(x)
    x = nn.BatchNorm(not train, momentum=style.norm_momentum, dtype=style.dtype, name='norm')(x)
    x = nn.relu(x)
    x = nn.Conv(
      features, (3, 3), feature_group_count=features, dtype=style.dtype, name='depthwise'
    )(x)
    x = nn.relu(x)
    x = nn.Conv(2 * features, (1, 1), 2, dtype=style.dtype, name='pointwise')(x)
    x = nn.relu(x).mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=style.dtype, name='classifier')(x)


def basisnet(resolution: int = RESOLUTION, **options) -> models.BasisNet:
  """Two tiny networks; all convolutions of the second hold bases."""
  return models.create(
    'basisnet',
    lightweight=TinyNetwork(**options),
    specialist=TinyNetwork(**options),
    resolution=resolution,
    num_bases=NUM_BASES,
    based_layers='(?!classifier)',
  )


def batch(size: int, seed: int = 0, resolution: int = RESOLUTION) -> dict[str, np.ndarray]:
  """Random images and labels; all count."""
  random = np.random.default_rng(seed)
  return {
    'image': random.integers(0, 256, (size, resolution, resolution, 3), np.uint8),
    'label': random.integers(0, 10, size).astype(np.int32),
    'mask': np.ones(size, np.float32),
  }


def leaf_paths(tree) -> list[str]:
  """Of the leaves, in the order in which JAX flattens them."""
  return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def leaves(tree) -> dict[str, np.ndarray]:
  """{path: array} of every leaf, on the host."""
  return dict(zip(leaf_paths(tree), map(np.asarray, jax.tree.leaves(tree)), strict=True))


def get_config():
  """The recipe: `--config=tests/tiny.py`. It adds 'tiny' to the registry of networks."""
  models._NETWORKS['tiny'] = TinyNetwork
  c = base_config.get_config()
  c.name = 'tiny'
  c.model.resolution = 16
  c.model.specialist = 'tiny'
  c.model.num_bases = NUM_BASES
  c.model.lightweight.name = 'tiny'
  c.model.lightweight.resolution = 8
  c.model.lightweight.width = 0.5
  c.model.coefficients.uniform_mix = 1.0
  c.model.coefficients.uniform_mix_epochs = 1.0
  c.data.name = 'digits'
  c.data.eval_split = 'test'
  c.training.batch_size = 16
  c.training.epochs = 1.0
  c.optimizer.learning_rate = 0.02
  c.optimizer.warmup_epochs = 0.1
  c.ema_decay = 0.98
  c.evaluation.batch_size = 120
  c.evaluation.every_epochs = 0.2
  c.checkpoint.every_steps = 10
  c.logging.every_steps = 10
  return c
