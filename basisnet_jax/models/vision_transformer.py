"""A plain vision transformer (Dosovitskiy et al. 2021; Beyer et al. 2022).

As in the second paper: fixed sines and cosines as position embeddings, so that any image size
works, and the mean over the patches instead of a class token.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

from basisnet_jax.errors import UserError
from basisnet_jax.models import layers


class VisionTransformer(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    num_classes: outputs of the classifier.
    depth: number of blocks.
    heads: number of attention heads.
    head_channels: channels of each head at width 1.
    width: channel multiplier.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: side of a patch, pixels; what remains at the image's border is ignored.
    style: see `layers.Style`, whose batch normalisation and padding are not used here; the logits
      have its dtype, too.
  """

  num_classes: int
  depth: int
  heads: int
  head_channels: int = 64
  width: float = 1.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  output_stride: int = 16
  style: layers.Style = layers.Style()

  @nn.compact
  def __call__(self, x, train: bool = False):
    dtype, patch = self.style.dtype, (self.output_stride,) * 2
    if min(x.shape[1:3]) < self.output_stride:
      raise UserError(
        f'output_stride={self.output_stride}, the side of a patch, is larger than the images '
        f'({x.shape[1]}x{x.shape[2]}); make it smaller.'
      )
    channels = self.heads * layers.round_channels(self.head_channels * self.width)
    x = nn.Conv(channels, patch, patch, 'VALID', dtype=dtype, name='stem')(self.style.images(x))
    x = x + positions(*x.shape[1:]).astype(dtype)
    x = x.reshape(x.shape[0], -1, channels)
    for i, drop_rate in enumerate(layers.block_rates(self.stochastic_depth, self.depth)):
      x = Block(self.heads, drop_rate, dtype, name=f'block_{i + 1}')(x, train)
    x = nn.LayerNorm(dtype=dtype, name='norm')(x).mean(1)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=dtype, name='classifier')(x)


class Block(nn.Module):
  """Attention and an MLP of four times the channels, each normalised first.

  `drop_rate` is the rate of `layers.stochastic_depth`, for each of the two separately.
  """

  heads: int
  drop_rate: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x, train: bool):
    y = nn.LayerNorm(dtype=self.dtype, name='attention_norm')(x)
    y = nn.MultiHeadDotProductAttention(self.heads, dtype=self.dtype, name='attention')(y)
    x = x + layers.stochastic_depth(y, self.drop_rate, train)
    y = nn.LayerNorm(dtype=self.dtype, name='mlp_norm')(x)
    y = jax.nn.gelu(nn.Dense(4 * x.shape[-1], dtype=self.dtype, name='expand')(y))
    y = nn.Dense(x.shape[-1], dtype=self.dtype, name='project')(y)
    return x + layers.stochastic_depth(y, self.drop_rate, train)


def positions(height: int, width: int, channels: int):
  """Sines and cosines of both coordinates, float32 `[height, width, channels]`."""
  rates = 1e-4 ** jnp.linspace(0, 1, channels // 4)
  waves = []
  for size, axis in ((height, 0), (width, 1)):
    angles = jnp.arange(size)[:, None] * rates
    for wave in (jnp.sin(angles), jnp.cos(angles)):
      waves.append(jnp.broadcast_to(jnp.expand_dims(wave, 1 - axis), (height, width, len(rates))))
  return jnp.concatenate(waves, axis=-1)
