"""MobileNetV3 (Howard et al. 2019), as TensorFlow's slim `mobilenet_v3.py` defines it."""

from typing import NamedTuple

from flax import linen as nn
import jax

from basisnet_jax.models import layers


class Block(NamedTuple):
  """One row of the paper's tables 1 and 2; `expanded` is at width 1."""

  kernel: int
  expanded: int
  features: int
  squeeze_excite: bool
  hard_swish: bool
  stride: int


LARGE = (
  Block(3, 16, 16, False, False, 1),
  Block(3, 64, 24, False, False, 2),
  Block(3, 72, 24, False, False, 1),
  Block(5, 72, 40, True, False, 2),
  Block(5, 120, 40, True, False, 1),
  Block(5, 120, 40, True, False, 1),
  Block(3, 240, 80, False, True, 2),
  Block(3, 200, 80, False, True, 1),
  Block(3, 184, 80, False, True, 1),
  Block(3, 184, 80, False, True, 1),
  Block(3, 480, 112, True, True, 1),
  Block(3, 672, 112, True, True, 1),
  Block(5, 672, 160, True, True, 2),
  Block(5, 960, 160, True, True, 1),
  Block(5, 960, 160, True, True, 1),
)
SMALL = (
  Block(3, 16, 16, True, False, 2),
  Block(3, 72, 24, False, False, 2),
  Block(3, 88, 24, False, False, 1),
  Block(5, 96, 40, True, True, 2),
  Block(5, 240, 40, True, True, 1),
  Block(5, 240, 40, True, True, 1),
  Block(5, 120, 48, True, True, 1),
  Block(5, 144, 48, True, True, 1),
  Block(5, 288, 96, True, True, 2),
  Block(5, 576, 96, True, True, 1),
  Block(5, 576, 96, True, True, 1),
)


class MobileNetV3(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    blocks: `LARGE` or `SMALL`.
    head: channels of the last 1x1 layer, after pooling: 1280 or 1024.
    num_classes: outputs of the classifier.
    width: channel multiplier; below 1 the head keeps its size.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: see `layers.strides_for`.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  blocks: tuple[Block, ...]
  head: int
  num_classes: int
  width: float = 1.0
  dropout: float = 0.2
  stochastic_depth: float = 0.0
  output_stride: int = 32
  style: layers.Style = layers.Style()

  @nn.compact
  def __call__(self, x, train: bool = False):
    strides = layers.strides_for([2] + [b.stride for b in self.blocks], self.output_stride)
    drop_rates = layers.block_rates(self.stochastic_depth, len(self.blocks))
    x = self.style.images(x)
    x = layers.ConvNorm(
      layers.round_channels(16 * self.width),
      3,
      strides[0],
      activation=layers.hard_swish,
      style=self.style,
      name='stem',
    )(x, train)
    inputs = 16
    for i, (block, stride) in enumerate(zip(self.blocks, strides[1:], strict=True)):
      # The expansion is a factor of the block's actual input, as in TensorFlow.
      expanded = layers.round_channels(x.shape[-1] * block.expanded / inputs)
      x = layers.InvertedResidual(
        features=layers.round_channels(block.features * self.width),
        expanded=expanded,
        kernel=block.kernel,
        stride=stride,
        squeeze=layers.round_channels(expanded / 4) if block.squeeze_excite else 0,
        activation=layers.hard_swish if block.hard_swish else jax.nn.relu,
        drop_rate=drop_rates[i],
        style=self.style,
        name=f'block_{i + 1}',
      )(x, train)
      inputs = block.features
    x = layers.ConvNorm(
      layers.round_channels(6 * self.blocks[-1].features * self.width),
      activation=layers.hard_swish,
      style=self.style,
      name='last',
    )(x, train)
    x = x.mean((1, 2))
    head = layers.round_channels(self.head * max(1.0, self.width))
    x = layers.hard_swish(nn.Dense(head, dtype=self.style.dtype, name='head')(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.style.dtype, name='classifier')(x)
