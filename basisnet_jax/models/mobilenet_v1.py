"""MobileNetV1 (Howard et al. 2017), as TensorFlow's slim `mobilenet_v1.py` defines it."""

from flax import linen as nn
import jax

from basisnet_jax.models import layers

# Table 1 of the paper: channels out and stride of the depthwise convolution.
BLOCKS = (
  (64, 1),
  (128, 2),
  (128, 1),
  (256, 2),
  (256, 1),
  (512, 2),
  *((512, 1),) * 5,
  (1024, 2),
  (1024, 1),
)


class MobileNetV1(nn.Module):
  """Images `[b, h, w, 3]` -> logits `[b, num_classes]`.

  Attributes:
    num_classes: outputs of the classifier.
    width: channel multiplier; channels are rounded down, to at least 8.
    dropout: rate before the classifier.
    output_stride: see `layers.strides_for`.
    style: see `layers.Style`; the logits have its dtype, too.
  """

  num_classes: int
  width: float = 1.0
  dropout: float = 0.001
  output_stride: int = 32
  style: layers.Style = layers.Style()

  @nn.compact
  def __call__(self, x, train: bool = False):
    strides = layers.strides_for([2] + [stride for _, stride in BLOCKS], self.output_stride)

    def channels(value):
      return max(8, int(value * self.width))

    shared = {'activation': jax.nn.relu6, 'style': self.style}
    x = self.style.images(x)
    x = layers.ConvNorm(channels(32), 3, strides[0], name='stem', **shared)(x, train)
    for i, ((features, _), stride) in enumerate(zip(BLOCKS, strides[1:], strict=True)):
      x = layers.DepthwiseSeparable(channels(features), 3, stride, name=f'block_{i + 1}', **shared)(
        x, train
      )
    x = x.mean((1, 2))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dense(self.num_classes, dtype=self.style.dtype, name='classifier')(x)
