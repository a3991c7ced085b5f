"""Parts that the mobile networks share: rounding, activations, normalised convolutions."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

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

  Small images need it: at 32 pixels the usual output stride of 32 leaves a 1x1 map. For example,
  [2, 2, 1, 2] becomes [1, 2, 1, 2] for output stride 4.

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


class Style(NamedTuple):
  """Settings that all layers of a network share; each network has its own defaults.

  Attributes:
    norm_momentum, norm_epsilon: of the batch normalisation.
    padding: 'same' is TensorFlow's (an odd pixel goes to the end) and 'symmetric' PyTorch's
      (kernel // 2 on each side); weights need the one that they were trained with.
    pixel_mean, pixel_std: of each channel, in pixel values from 0 to 255, as the weights expect
      the images. Networks take images in [-1, 1] and convert the units themselves.
    dtype: of the computation; parameters are float32.
  """

  norm_momentum: float = 0.99
  norm_epsilon: float = 1e-3
  padding: str = 'same'
  pixel_mean: tuple[float, ...] = (127.5, 127.5, 127.5)
  pixel_std: tuple[float, ...] = (127.5, 127.5, 127.5)
  dtype: Any = jnp.float32

  def images(self, x):
    """Images in [-1, 1] in this network's units and dtype."""
    if {*self.pixel_mean, *self.pixel_std} != {127.5}:
      mean, std = jnp.array(self.pixel_mean), jnp.array(self.pixel_std)
      x = (x * 127.5 + 127.5 - mean) / std
    return x.astype(self.dtype)


def window_padding(padding: str, kernel: int):
  """Translates `Style.padding` into the padding argument of `nn.Conv` and `nn.max_pool`.

  Raises:
    UserError: unknown name.
  """
  if padding not in ('same', 'symmetric'):
    raise UserError(f"padding={padding!r} is unknown; it is 'same' or 'symmetric'.")
  return 'SAME' if padding == 'same' else ((kernel // 2, kernel // 2),) * 2


class BatchNorm(nn.Module):
  """Batch normalisation of the last axis (Ioffe & Szegedy 2015), as one multiply-add.

  The backward pass reads the input, which is kept anyway. Flax's subtracts the mean first, and
  XLA's CPU compiler also keeps the difference: a quarter of a training step's memory and an eighth
  of its time. Variable names, values and gradients are the same as Flax's.

  Attributes:
    use_running_average: normalise by the averages; else by the batch, and update the averages.
    momentum: share of the averages that an update keeps.
    epsilon: added to the variance.
    scale_init: initializer of the scale.
    dtype: of the result; the computation is in float32.
  """

  use_running_average: bool
  momentum: float = 0.99
  epsilon: float = 1e-3
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x):
    channels, positions = x.shape[-1:], tuple(range(x.ndim - 1))
    mean = self.variable('batch_stats', 'mean', jnp.zeros, channels)
    var = self.variable('batch_stats', 'var', jnp.ones, channels)
    x, used = x.astype(jnp.float32), (mean.value, var.value)
    if not self.use_running_average:
      of_batch = x.mean(positions)
      used = of_batch, jnp.maximum(0, (x * x).mean(positions) - of_batch * of_batch)
      if not self.is_initializing():
        for average, value in zip((mean, var), used, strict=True):
          average.value = self.momentum * average.value + (1 - self.momentum) * value
    scale = self.param('scale', self.scale_init, channels) * jax.lax.rsqrt(used[1] + self.epsilon)
    shift = self.param('bias', nn.initializers.zeros, channels) - used[0] * scale
    return (x * scale + shift).astype(self.dtype)


class ConvNorm(nn.Module):
  """Convolution without bias, batch normalisation, activation.

  Attributes:
    features: output channels.
    kernel: size of the square kernel, pixels.
    stride: of rows and columns.
    depthwise: one filter per channel.
    activation: None is linear.
    pad: pixels on each side, in place of what `style.padding` gives.
    scale_init: of the batch normalisation.
    style: see `Style`.
  """

  features: int
  kernel: int = 1
  stride: int = 1
  depthwise: bool = False
  activation: Activation | None = None
  pad: int | None = None
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  style: Style = Style()

  @nn.compact
  def __call__(self, x, train: bool):
    own_padding = window_padding(self.style.padding, self.kernel)
    x = nn.Conv(
      self.features,
      (self.kernel, self.kernel),
      (self.stride, self.stride),
      own_padding if self.pad is None else self.pad,
      feature_group_count=x.shape[-1] if self.depthwise else 1,
      use_bias=False,
      dtype=self.style.dtype,
      kernel_init=nn.initializers.variance_scaling(
        2.0, 'fan_in' if self.depthwise else 'fan_out', 'truncated_normal'
      ),
      conv_general_dilated=convolution.conv_general_dilated,
      name='conv',
    )(x)
    x = BatchNorm(
      use_running_average=not train,
      momentum=self.style.norm_momentum,
      epsilon=self.style.norm_epsilon,
      scale_init=self.scale_init,
      dtype=self.style.dtype,
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


def stochastic_depth(branch, rate: float, train: bool):
  """Drops the whole branch of a residual block for some images of a training batch.

  Call it from a module's `nn.compact` method. Source: Huang et al. 2016; drawn per image, and
  rescaled in training, as in EfficientNet (Tan & Le 2019).

  Args:
    branch: `[b, ...]`, to be added to the shortcut.
    rate: probability of dropping; the branches that are kept are divided by 1 - rate, which
      preserves the mean.
    train: if False, nothing is dropped.
  """
  return nn.Dropout(rate, tuple(range(1, branch.ndim)), deterministic=not train)(branch)


def block_rates(last: float, blocks: int) -> list[float]:
  """Rates of `stochastic_depth` for each block, rising linearly to `last` (Huang et al. 2016)."""
  return [last * (i + 1) / blocks for i in range(blocks)]


class InvertedResidual(nn.Module):
  """Expand (1x1), depthwise, squeeze-excite, project (1x1), shortcut where shapes allow.

  Source: MobileNetV2 (Sandler et al. 2018), MobileNetV3 (Howard et al. 2019).

  Attributes:
    features: output channels.
    expanded: channels of the depthwise convolution; if equal to the input's, nothing is expanded.
    kernel, stride: of the depthwise convolution.
    squeeze: reduced channels of the squeeze-excite; 0 is none.
    activation: of expansion and depthwise.
    squeeze_activation, gate: of the squeeze-excite.
    pad: of the depthwise convolution, see `ConvNorm`.
    zero_residual: the last normalisation of a block with a shortcut starts at zero.
    drop_rate: rate of `stochastic_depth`, if the block has a shortcut.
    style: see `Style`.
  """

  features: int
  expanded: int
  kernel: int
  stride: int
  squeeze: int
  activation: Activation
  squeeze_activation: Activation = jax.nn.relu
  gate: Activation = hard_sigmoid
  pad: int | None = None
  zero_residual: bool = False
  drop_rate: float = 0.0
  style: Style = Style()

  @nn.compact
  def __call__(self, x, train: bool):
    y = x
    if self.expanded != x.shape[-1]:
      expand = ConvNorm(self.expanded, activation=self.activation, style=self.style, name='expand')
      y = expand(y, train)
    y = ConvNorm(
      self.expanded,
      self.kernel,
      self.stride,
      depthwise=True,
      activation=self.activation,
      pad=self.pad,
      style=self.style,
      name='depthwise',
    )(y, train)
    if self.squeeze:
      y = SqueezeExcite(
        self.squeeze,
        self.squeeze_activation,
        self.gate,
        dtype=self.style.dtype,
        name='squeeze_excite',
      )(y)
    shortcut = self.stride == 1 and x.shape[-1] == self.features
    scale = nn.initializers.zeros if shortcut and self.zero_residual else nn.initializers.ones
    y = ConvNorm(self.features, scale_init=scale, style=self.style, name='project')(y, train)
    return x + stochastic_depth(y, self.drop_rate, train) if shortcut else y


class DepthwiseSeparable(nn.Module):
  """Depthwise, then 1x1 convolution, both normalised and activated (MobileNetV1)."""

  features: int
  kernel: int
  stride: int
  activation: Activation
  style: Style = Style()

  @nn.compact
  def __call__(self, x, train: bool):
    shared = {'activation': self.activation, 'style': self.style}
    x = ConvNorm(x.shape[-1], self.kernel, self.stride, depthwise=True, name='depthwise', **shared)(
      x, train
    )
    return ConvNorm(self.features, name='project', **shared)(x, train)
