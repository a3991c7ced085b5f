"""EfficientNet (Tan & Le 2019) and EfficientNet-Lite, as TensorFlow's TPU models define them."""

import math

from flax import linen as nn
import jax

from basisnet_jax.models import layers

# Table 1 of the paper: repeats, kernel, stride of the first repeat, expansion, channels.
STAGES = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)


class EfficientNet(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    num_classes: outputs of the classifier.
    width_coefficient, depth_coefficient: those of the variant; for B0 both are 1.
    lite: relu6 instead of swish, no squeeze-excite; stem, head and the repeats of the first
      and last stage are not scaled.
    width: a further channel multiplier.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: see `layers.strides_for`.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  num_classes: int
  width_coefficient: float = 1.0
  depth_coefficient: float = 1.0
  lite: bool = False
  width: float = 1.0
  dropout: float = 0.2
  stochastic_depth: float = 0.0
  output_stride: int = 32
  style: layers.Style = layers.Style()

  @nn.compact
  def __call__(self, x, train: bool = False):
    rows = []
    for i, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
      if not (self.lite and i in (0, len(STAGES) - 1)):
        repeats = math.ceil(repeats * self.depth_coefficient)
      rows += [(kernel, stride if j == 0 else 1, expansion, channels) for j in range(repeats)]
    strides = layers.strides_for([2] + [row[1] for row in rows], self.output_stride)
    drop_rates = layers.block_rates(self.stochastic_depth, len(rows))
    scale = self.width * self.width_coefficient
    ends = self.width if self.lite else scale  # Scale of stem and head.
    activation = jax.nn.relu6 if self.lite else jax.nn.swish
    shared = {'activation': activation, 'style': self.style}

    x = self.style.images(x)
    stem = layers.round_channels(32 * ends)
    x = layers.ConvNorm(stem, 3, strides[0], name='stem', **shared)(x, train)
    for i, ((kernel, _, expansion, channels), stride) in enumerate(
      zip(rows, strides[1:], strict=True)
    ):
      inputs = x.shape[-1]
      x = layers.InvertedResidual(
        features=layers.round_channels(channels * scale),
        expanded=inputs * expansion,
        kernel=kernel,
        stride=stride,
        squeeze=0 if self.lite else max(1, inputs // 4),
        squeeze_activation=jax.nn.swish,
        gate=jax.nn.sigmoid,
        drop_rate=drop_rates[i],
        name=f'block_{i + 1}',
        **shared,
      )(x, train)
    x = layers.ConvNorm(layers.round_channels(1280 * ends), name='last', **shared)(x, train)
    x = x.mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.style.dtype, name='classifier')(x)
