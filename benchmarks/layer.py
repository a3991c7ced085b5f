"""Layers with a kernel per image: all formulations, against a shared kernel and PyTorch.

  python -m benchmarks.layer [--seconds=10] [--output=DIR]

The floor is the same layer with a shared kernel, in its fastest form. PyTorch uses the usual trick:
the batch becomes groups of one large grouped convolution.
"""

from collections.abc import Callable, Iterator
import functools
import itertools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.models import convolution, synthesis
from benchmarks import measure, peers, table

_NUM_BASES = 16
_BATCHES = (1, 16)


class Layer(NamedTuple):
  """Sizes of a convolution: of square images and kernels in pixels, and of channels."""

  size: int
  inputs: int
  outputs: int
  kernel: int
  stride: int = 1
  groups: int = 1

  def __str__(self):
    kind = 'depthwise ' if self.groups > 1 else ''
    stride = f', stride {self.stride}' if self.stride > 1 else ''
    return (
      f'{kind}{self.kernel}x{self.kernel}, {self.size}x{self.size}, '
      f'{self.inputs} to {self.outputs}{stride}'
    )


# From MobileNetV3-Large at 224 pixels, and from ResNet-18.
_POINTWISE = [Layer(56, 24, 72, 1), Layer(14, 80, 480, 1), Layer(7, 160, 960, 1)]
_DEPTHWISE = [Layer(28, 120, 120, kernel, stride, 120) for kernel in (3, 5, 7) for stride in (1, 2)]
_DENSE = [Layer(28, 128, 128, 3), Layer(14, 256, 256, 3)]
_CLASSIFIER = Layer(1, 960, 1280, 1)


def cases(seconds: float) -> Iterator[table.Row]:
  """All layers, batches, dtypes and directions."""
  layers = [*_POINTWISE, *_DEPTHWISE, *_DENSE, _CLASSIFIER]
  for dtype, layer, batch in itertools.product(('float32', 'bfloat16'), layers, _BATCHES):
    for backward in (False, True):
      yield from _case(layer, batch, dtype, backward, seconds)
  for batch in _BATCHES:
    yield from _synthesis(_CLASSIFIER, batch, seconds)


def _case(layer, batch, dtype, backward, seconds):
  random = np.random.default_rng(0)
  images = random.normal(size=(batch, layer.size, layer.size, layer.inputs))
  shape = (layer.kernel, layer.kernel, layer.inputs // layer.groups, layer.outputs)
  own = random.normal(size=(batch, *shape)) / 10
  x, own, one = (jnp.asarray(a, dtype) for a in (images, own, own[0]))
  calls = {'shared kernel': _compiled(_shared(layer), backward, x, one)}
  for name, run in _formulations(layer, backward).items():
    calls[name] = _compiled(run, backward, x, own)
  if peers.torch_is_there():
    calls['PyTorch, grouped'] = peers.grouped_convolution(
      images, np.asarray(own, np.float32), layer.stride, layer.groups, dtype, backward
    )
  direction = 'forward and backward' if backward else 'forward'
  case = f'{layer}; batch {batch}, {dtype}, {direction}'
  yield from table.times(case, measure.interleaved(calls, seconds=seconds), 'shared kernel')


def _shared(layer):
  return functools.partial(convolution.convolve, strides=(layer.stride,) * 2, groups=layer.groups)


def _formulations(layer, backward) -> dict[str, Callable]:
  """{name: function from images and a kernel for each to the layer's output}."""

  def of_one(x, kernel):
    return lax.conv_general_dilated(
      x[None], kernel, (layer.stride,) * 2, 'SAME', feature_group_count=layer.groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )[0]  # fmt: skip

  found = {'ours': _shared(layer), 'lax.map': lambda x, k: lax.map(lambda a: of_one(*a), (x, k))}
  # For depthwise layers, its gradient makes a dense filter of (batch x channels)^2: gigabytes.
  if not (backward and layer.groups > 1):
    found['vmap'] = jax.vmap(of_one)
  return found


def _compiled(run, backward, x, kernel):
  if not backward:
    step = jax.jit(run)
    return lambda: jax.block_until_ready(step(x, kernel))

  @jax.jit
  def step(x, kernel, dy):
    y, gradients = jax.vjp(run, x, kernel)
    return y, gradients(dy)

  dy = jnp.ones_like(jax.eval_shape(run, x, kernel))
  return lambda: jax.block_until_ready(step(x, kernel, dy))


def _synthesis(layer, batch, seconds):
  """Times blending K bases, against reading them once."""
  random = np.random.default_rng(0)
  bases = jnp.asarray(
    random.normal(size=(_NUM_BASES, 1, 1, layer.inputs, layer.outputs)), 'float32'
  )
  coefficients = jnp.asarray(random.dirichlet(np.ones(_NUM_BASES), batch), 'float32')
  runs = {
    'reading the bases': lambda c, w: w.sum(),
    'ours': synthesis.synthesize,
    'multiply and sum': lambda c, w: (c[..., None, None, None, None] * w).sum(1),
  }
  calls = {}
  for name, run in runs.items():
    calls[name] = functools.partial(
      lambda step: jax.block_until_ready(step(coefficients, bases)), jax.jit(run)
    )
  case = f'synthesis of {layer}; K = {_NUM_BASES}, batch {batch}, float32'
  yield from table.times(case, measure.interleaved(calls, seconds=seconds), 'reading the bases')


if __name__ == '__main__':
  table.main('layer', 'Layers with a kernel per image, over a shared kernel', cases)
