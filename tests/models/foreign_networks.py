"""Two networks as somebody else would write them: stock Flax layers, nothing of this package."""

from flax import linen as nn
import jax.numpy as jnp


class ResNet(nn.Module):
  """A residual network with explicit padding, a grouped and a dilated convolution."""

  classes: int = 5

  @nn.compact
  def __call__(self, x, train: bool = False):
    def norm():
      return nn.BatchNorm(use_running_average=not train, momentum=0.9)

    x = nn.Conv(8, (7, 7), strides=2, padding=[(3, 3), (3, 3)], use_bias=False, name='stem')(x)
    x = nn.relu(norm()(x))
    for features, stride in ((8, 1), (16, 2)):
      y = nn.Conv(features, (1, 1), use_bias=False)(x)
      y = nn.relu(norm()(y))
      y = nn.Conv(
        features, (3, 3), (stride, stride), padding=1, feature_group_count=4, use_bias=False
      )(y)
      y = nn.relu(norm()(y))
      y = nn.Conv(features, (3, 3), kernel_dilation=2)(y)
      if x.shape != y.shape:
        x = nn.Conv(features, (1, 1), (stride, stride), padding='VALID', name=f'skip_{features}')(x)
      x = nn.relu(x + y)
    return nn.Dense(self.classes, name='logits')(x.mean((1, 2)))


class VisionTransformer(nn.Module):
  """Patches, attention as Flax has it, a class token; its call takes images alone."""

  classes: int = 5
  blocks: int = 2

  @nn.compact
  def __call__(self, images):
    x = nn.Conv(12, (4, 4), strides=(4, 4), padding='VALID', name='patches')(images)
    x = x.reshape(x.shape[0], -1, x.shape[-1])
    token = self.param('token', nn.initializers.normal(1.0), (1, 1, x.shape[-1]))
    x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
    x = x + self.param('positions', nn.initializers.normal(0.02), (1, *x.shape[1:]))
    for i in range(self.blocks):
      x = x + nn.MultiHeadDotProductAttention(3, name=f'attention_{i}')(nn.LayerNorm()(x))
      y = nn.gelu(nn.Dense(24, name=f'mlp_{i}_in')(nn.LayerNorm()(x)))
      x = x + nn.Dense(x.shape[-1], name=f'mlp_{i}_out')(y)
    return nn.Dense(self.classes, name='logits')(nn.LayerNorm()(x[:, 0]))
