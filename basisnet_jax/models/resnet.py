"""ResNets (He et al. 2016), with the stride in the 3x3 convolution as in torchvision."""

import functools

from flax import linen as nn
import jax

from basisnet_jax.models import layers


class ResNet(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    depths: blocks of each of the four stages (table 1 of the paper).
    bottleneck: blocks are 1x1, 3x3, 1x1 with four times the output channels, else two 3x3.
    num_classes: outputs of the classifier.
    width: channel multiplier.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: see `layers.strides_for`; the first two strides are the stem's and the pool's.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  depths: tuple[int, int, int, int]
  bottleneck: bool
  num_classes: int
  width: float = 1.0
  dropout: float = 0.0
  stochastic_depth: float = 0.0
  output_stride: int = 32
  style: layers.Style = layers.Style(0.9, 1e-5)

  @nn.compact
  def __call__(self, x, train: bool = False):
    stem, pool, *strides = layers.strides_for([2, 2, 1, 2, 2, 2], self.output_stride)
    drop_rates = iter(layers.block_rates(self.stochastic_depth, sum(self.depths)))
    x = self.style.images(x)
    channels = layers.round_channels(64 * self.width)
    relu = jax.nn.relu
    x = layers.ConvNorm(channels, 7, stem, activation=relu, style=self.style, name='stem')(x, train)
    if pool > 1:
      padding = layers.window_padding(self.style.padding, 3)
      x = nn.max_pool(x, (3, 3), (pool, pool), padding)
    for i, (depth, stride) in enumerate(zip(self.depths, strides, strict=True)):
      channels = layers.round_channels(64 * 2**i * self.width)
      for j in range(depth):
        x = Block(
          channels,
          stride if j == 0 else 1,
          self.bottleneck,
          next(drop_rates),
          self.style,
          name=f'stage_{i + 1}_block_{j + 1}',
        )(x, train)
    # Without the barrier jax 0.11.2 fuses the last convolutions into the mean on CPU, and in
    # bfloat16 that gives NaN.
    x = jax.lax.optimization_barrier(x).mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.style.dtype, name='classifier')(x)


class Block(nn.Module):
  """A residual block; the shortcut is a 1x1 convolution where the shape changes.

  `drop_rate` is the rate of `layers.stochastic_depth` for the branch that is not the shortcut.
  """

  channels: int
  stride: int
  bottleneck: bool
  drop_rate: float
  style: layers.Style

  @nn.compact
  def __call__(self, x, train: bool):
    conv = functools.partial(layers.ConvNorm, style=self.style)
    relu, stride = jax.nn.relu, self.stride
    # The last normalisation starts at zero, so that each block starts as its shortcut.
    zero = nn.initializers.zeros
    if self.bottleneck:
      outputs = 4 * self.channels
      y = conv(self.channels, activation=relu, name='conv_1')(x, train)
      y = conv(self.channels, 3, stride, activation=relu, name='conv_2')(y, train)
      y = conv(outputs, scale_init=zero, name='conv_3')(y, train)
    else:
      outputs = self.channels
      y = conv(outputs, 3, stride, activation=relu, name='conv_1')(x, train)
      y = conv(outputs, 3, scale_init=zero, name='conv_2')(y, train)
    if stride > 1 or x.shape[-1] != outputs:
      x = conv(outputs, stride=stride, name='shortcut')(x, train)
    return relu(x + layers.stochastic_depth(y, self.drop_rate, train))
