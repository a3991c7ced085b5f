"""Parts that the mobile networks share: rounding, activations, normalised convolutions."""

from collections.abc import Callable
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from basisnet_jax.errors import UserError
from basisnet_jax.models import convolution

Activation = Callable[[jax.Array], jax.Array]


def round_channels(value: float, divisor: int = 8) -> int:
  """The nearest multiple of `divisor`, at least `divisor`, losing at most a tenth.

  Source: `_make_divisible` of TensorFlow's slim MobileNets.
  """
  rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
  return rounded + divisor if rounded < 0.9 * value else rounded


def hard_sigmoid(x):
  """relu6(x + 3) / 6 (MobileNetV3, Howard et al. 2019)."""
  return jax.nn.relu6(x + 3) / 6


def hard_swish(x):
  """x * relu6(x + 3) / 6 (MobileNetV3, Howard et al. 2019)."""
  return x * hard_sigmoid(x)


def strides_for(strides: list[int], output_stride: int) -> list[int]:
  """Turns the first strides of a network into 1 until `output_stride` is left.

  Small images need it: at 32 pixels the usual 32 leaves a 1x1 map. So [2, 2, 1, 2] with
  output stride 4 is [1, 2, 1, 2].

  Raises:
    UserError: `output_stride` cannot be reached.
  """
  total = math.prod(strides)
  kept = list(strides)
  for i, stride in enumerate(strides):
    if total > output_stride:
      kept[i], total = 1, total // stride
  if total != output_stride:
    possible = sorted({math.prod(strides[i:]) for i in range(len(strides) + 1)})
    raise UserError(f'output_stride={output_stride} cannot be; the network has {possible}.')
  return kept


class ConvNorm(nn.Module):
  """Convolution without bias, batch normalisation, activation.

  Attributes:
    features: channels out.
    kernel: size of the square kernel, pixels.
    stride: of rows and columns.
    depthwise: one filter per channel.
    activation: None is linear.
    norm_momentum, norm_epsilon: of the batch normalisation.
    dtype: of the computation.
  """

  features: int
  kernel: int = 1
  stride: int = 1
  depthwise: bool = False
  activation: Activation | None = None
  norm_momentum: float = 0.99
  norm_epsilon: float = 1e-3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      (self.stride, self.stride),
      feature_group_count=x.shape[-1] if self.depthwise else 1,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=nn.initializers.variance_scaling(2.0, 'fan_out', 'truncated_normal')
      if not self.depthwise
      else nn.initializers.variance_scaling(2.0, 'fan_in', 'truncated_normal'),
      conv_general_dilated=convolution.conv_general_dilated,
      name='conv',
    )(x)
    x = nn.BatchNorm(
      use_running_average=not train,
      momentum=self.norm_momentum,
      epsilon=self.norm_epsilon,
      dtype=self.dtype,
      name='norm',
    )(x)
    return x if self.activation is None else self.activation(x)


class SqueezeExcite(nn.Module):
  """Channel gates from the globally pooled input (Hu et al. 2018), both layers with bias."""

  reduced: int
  activation: Activation = jax.nn.relu
  gate: Activation = hard_sigmoid
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    pooled = x.mean((1, 2))
    pooled = self.activation(nn.Dense(self.reduced, dtype=self.dtype, name='reduce')(pooled))
    gates = self.gate(nn.Dense(x.shape[-1], dtype=self.dtype, name='expand')(pooled))
    return x * gates[:, None, None]


class InvertedResidual(nn.Module):
  """Expand (1x1), depthwise, squeeze-excite, project (1x1), shortcut where shapes allow.

  Source: MobileNetV2 (Sandler et al. 2018), MobileNetV3 (Howard et al. 2019).

  Attributes:
    features: channels out.
    expanded: channels of the depthwise convolution; equal to the input's skips the expansion.
    kernel, stride: of the depthwise convolution.
    squeeze: reduced channels of the squeeze-excite; 0 is none.
    activation: of expansion and depthwise.
  """

  features: int
  expanded: int
  kernel: int
  stride: int
  squeeze: int
  activation: Activation
  norm_momentum: float = 0.99
  norm_epsilon: float = 1e-3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    shared = {
      'norm_momentum': self.norm_momentum,
      'norm_epsilon': self.norm_epsilon,
      'dtype': self.dtype,
    }
    y = x
    if self.expanded != x.shape[-1]:
      y = ConvNorm(self.expanded, activation=self.activation, name='expand', **shared)(y, train)
    y = ConvNorm(
      self.expanded,
      self.kernel,
      self.stride,
      depthwise=True,
      activation=self.activation,
      name='depthwise',
      **shared,
    )(y, train)
    if self.squeeze:
      y = SqueezeExcite(self.squeeze, dtype=self.dtype, name='squeeze_excite')(y)
    y = ConvNorm(self.features, name='project', **shared)(y, train)
    return x + y if self.stride == 1 and x.shape == y.shape else y
