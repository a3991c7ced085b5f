"""MobileNetV2 (Sandler et al. 2018), as TensorFlow's slim `mobilenet_v2.py` defines it."""

from flax import linen as nn
import jax

from basisnet_jax.models import layers

# Table 2 of the paper: expansion factor, channels, repeats, stride of the first repeat.
BLOCKS = (
  (1, 16, 1, 1),
  (6, 24, 2, 2),
  (6, 32, 3, 2),
  (6, 64, 4, 2),
  (6, 96, 3, 1),
  (6, 160, 3, 2),
  (6, 320, 1, 1),
)


class MobileNetV2(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    num_classes: outputs of the classifier.
    width: channel multiplier; below 1 the last 1x1 convolution stays 1280 wide.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: see `layers.strides_for`.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  num_classes: int
  width: float = 1.0
  dropout: float = 0.2
  stochastic_depth: float = 0.0
  output_stride: int = 32
  style: layers.Style = layers.Style()

  @nn.compact
  def __call__(self, x, train: bool = False):
    rows = [
      (factor, channels, stride if repeat == 0 else 1)
      for factor, channels, repeats, stride in BLOCKS
      for repeat in range(repeats)
    ]
    strides = layers.strides_for([2] + [stride for *_, stride in rows], self.output_stride)
    drop_rates = layers.block_rates(self.stochastic_depth, len(rows))
    shared = {'activation': jax.nn.relu6, 'style': self.style}

    x = self.style.images(x)
    stem = layers.round_channels(32 * self.width)
    x = layers.ConvNorm(stem, 3, strides[0], name='stem', **shared)(x, train)
    for i, ((factor, channels, _), stride) in enumerate(zip(rows, strides[1:], strict=True)):
      x = layers.InvertedResidual(
        features=layers.round_channels(channels * self.width),
        expanded=layers.round_channels(x.shape[-1] * factor),
        kernel=3,
        stride=stride,
        squeeze=0,
        drop_rate=drop_rates[i],
        name=f'block_{i + 1}',
        **shared,
      )(x, train)
    last = layers.round_channels(1280 * max(1.0, self.width))
    x = layers.ConvNorm(last, name='last', **shared)(x, train)
    x = x.mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.style.dtype, name='classifier')(x)
