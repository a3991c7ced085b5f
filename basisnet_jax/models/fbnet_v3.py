"""FBNetV3 (Dai et al. 2020): the networks that were released with weights.

Source of the tables: `fbnet_modeldef_cls_fbnetv3.py` of Facebook's mobile-vision.
"""

from typing import NamedTuple

from flax import linen as nn

from basisnet_jax.errors import UserError
from basisnet_jax.models import layers


class Row(NamedTuple):
  """A run of equal blocks; only the first has the stride.

  `pad` is the padding of the first depthwise convolution, in pixels, where it is not kernel // 2:
  some networks give up a border there.
  """

  kernel: int
  features: int
  stride: int
  repeats: int
  expansion: int
  squeeze_excite: bool
  pad: int | None = None


class Network(NamedTuple):
  """Channels of the stem, the rows, and the expansion of the head."""

  stem: int
  rows: tuple[Row, ...]
  head_expansion: int = 6


_A = Network(
  16,
  (
    Row(3, 16, 1, 2, 1, False),
    Row(5, 24, 2, 1, 4, False),
    Row(5, 24, 1, 3, 2, False),
    Row(5, 40, 2, 1, 5, True),
    Row(5, 40, 1, 4, 3, True),
    Row(5, 72, 2, 1, 5, False, 1),
    Row(3, 72, 1, 4, 3, False),
    Row(3, 120, 1, 1, 5, True),
    Row(5, 120, 1, 5, 3, True),
    Row(3, 184, 2, 1, 6, True, 0),
    Row(5, 184, 1, 5, 4, True),
    Row(5, 224, 1, 1, 6, True),
  ),
)
NETWORKS = {
  'a0': Network(
    12,
    (
      Row(3, 12, 1, 1, 1, False),
      Row(3, 24, 2, 1, 4, False),
      Row(3, 24, 1, 2, 2, False),
      Row(3, 40, 2, 1, 4, True),
      Row(3, 40, 1, 2, 2, True),
      Row(5, 72, 2, 1, 4, False),
      Row(3, 72, 1, 2, 3, False),
      Row(3, 104, 1, 1, 4, True),
      Row(5, 104, 1, 3, 3, True),
      Row(3, 176, 2, 1, 4, True),
      Row(3, 176, 1, 3, 4, True),
      Row(3, 208, 1, 1, 5, True),
    ),
    head_expansion=5,
  ),
  'a': _A,
  'b': _A,  # The same network on larger images.
  'c': Network(
    16,
    (
      Row(3, 16, 1, 2, 1, False),
      Row(5, 24, 2, 1, 5, False),
      Row(3, 24, 1, 4, 3, False),
      Row(5, 48, 2, 1, 5, True),
      Row(5, 48, 1, 4, 2, True),
      Row(5, 88, 2, 1, 4, False, 1),
      Row(3, 88, 1, 4, 3, False),
      Row(3, 120, 1, 1, 4, True),
      Row(5, 120, 1, 5, 3, True),
      Row(5, 216, 2, 1, 5, True, 1),
      Row(5, 216, 1, 5, 5, True),
      Row(5, 216, 1, 1, 6, True),
    ),
  ),
  'd': Network(
    24,
    (
      Row(3, 16, 1, 2, 1, False),
      Row(3, 24, 2, 1, 5, False),
      Row(3, 24, 1, 5, 2, False),
      Row(5, 40, 2, 1, 4, True),
      Row(3, 40, 1, 4, 3, True),
      Row(3, 72, 2, 1, 5, False),
      Row(3, 72, 1, 4, 3, False),
      Row(3, 128, 1, 1, 5, True),
      Row(5, 128, 1, 6, 3, True),
      Row(3, 208, 2, 1, 6, True),
      Row(5, 208, 1, 5, 5, True),
      Row(5, 240, 1, 1, 6, True),
    ),
  ),
  'e': Network(
    24,
    (
      Row(3, 16, 1, 3, 1, False),
      Row(5, 24, 2, 1, 4, False),
      Row(5, 24, 1, 4, 2, False),
      Row(5, 48, 2, 1, 4, True),
      Row(5, 48, 1, 4, 3, True),
      Row(5, 80, 2, 1, 5, False, 1),
      Row(3, 80, 1, 4, 3, False),
      Row(3, 128, 1, 1, 5, True),
      Row(5, 128, 1, 7, 3, True),
      Row(3, 216, 2, 1, 6, True),
      Row(5, 216, 1, 5, 5, True),
      Row(5, 240, 1, 1, 6, True),
    ),
  ),
  'f': Network(
    24,
    (
      Row(3, 24, 1, 3, 1, False),
      Row(5, 32, 2, 1, 4, False),
      Row(5, 32, 1, 4, 2, False),
      Row(5, 56, 2, 1, 4, True),
      Row(5, 56, 1, 4, 3, True),
      Row(5, 88, 2, 1, 5, False),
      Row(3, 88, 1, 4, 3, False),
      Row(3, 144, 1, 1, 5, True),
      Row(5, 144, 1, 8, 3, True),
      Row(3, 248, 2, 1, 6, True, 0),
      Row(5, 248, 1, 6, 5, True),
      Row(5, 272, 1, 1, 6, True),
    ),
  ),
  'g': Network(
    32,
    (
      Row(3, 24, 1, 3, 1, False),
      Row(5, 40, 2, 1, 4, False),
      Row(5, 40, 1, 4, 2, False),
      Row(5, 56, 2, 1, 4, True),
      Row(5, 56, 1, 4, 3, True),
      Row(5, 104, 2, 1, 5, False),
      Row(3, 104, 1, 4, 3, False),
      Row(3, 160, 1, 1, 5, True),
      Row(5, 160, 1, 8, 3, True),
      Row(3, 264, 2, 1, 6, True),
      Row(5, 264, 1, 6, 5, True),
      Row(5, 288, 1, 2, 6, True),
    ),
  ),
}


def round_channels(value: float) -> int:
  """The nearest multiple of 8, at least 8, losing at most a twentieth (mobile-vision's rule)."""
  rounded = max(8, int(value / 8 + 0.5) * 8)
  return rounded + 8 if rounded < 0.95 * value else rounded


class FBNetV3(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    network: one of `NETWORKS`.
    num_classes: outputs of the classifier.
    width: channel multiplier.
    dropout: rate before the classifier.
    stochastic_depth: rate of the last block, see `layers.block_rates`.
    output_stride: see `layers.strides_for`.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  network: Network
  num_classes: int
  width: float = 1.0
  dropout: float = 0.2
  stochastic_depth: float = 0.0
  output_stride: int = 32
  style: layers.Style = layers.Style(0.9, 1e-5, 'symmetric')

  @nn.compact
  def __call__(self, x, train: bool = False):
    rows = [
      row if i == 0 else row._replace(stride=1, pad=None)
      for row in self.network.rows
      for i in range(row.repeats)
    ]
    strides = layers.strides_for([2] + [row.stride for row in rows], self.output_stride)
    drop_rates = layers.block_rates(self.stochastic_depth, len(rows))

    def channels(value):
      # Without a multiplier the tables apply as they are, even A0's 12 channels.
      return value if self.width == 1 else round_channels(value * self.width)

    shared = {'activation': layers.hard_swish, 'style': self.style}
    x, images = self.style.images(x), f'{x.shape[1]}x{x.shape[2]}'
    stem = channels(self.network.stem)
    x = layers.ConvNorm(stem, 3, strides[0], name='stem', **shared)(x, train)
    for i, (row, stride) in enumerate(zip(rows, strides[1:], strict=True)):
      if row.pad is not None and min(x.shape[1:3]) + 2 * row.pad < row.kernel:
        raise UserError(
          f'output_stride={self.output_stride} leaves nothing of images of {images} pixels: make '
          'it smaller, or them larger.'
        )
      expanded = round_channels(x.shape[-1] * row.expansion)
      x = layers.InvertedResidual(
        features=channels(row.features),
        expanded=expanded,
        kernel=row.kernel,
        stride=stride,
        squeeze=round_channels(int(expanded / row.expansion / 4)) if row.squeeze_excite else 0,
        squeeze_activation=layers.hard_swish,
        pad=row.pad,
        zero_residual=True,
        drop_rate=drop_rates[i],
        name=f'block_{i + 1}',
        **shared,
      )(x, train)
    expanded = round_channels(x.shape[-1] * self.network.head_expansion)
    x = layers.ConvNorm(expanded, name='last', **shared)(x, train)
    x = x.mean((1, 2))
    head = nn.Dense(channels(1984), use_bias=False, dtype=self.style.dtype, name='head')
    x = layers.hard_swish(head(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.style.dtype, name='classifier')(x)
