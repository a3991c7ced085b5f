"""ONNX convolutions and pooling, for `onnx_operators`.

A convolution absorbs a following multiplication or addition of one number per channel, such as
normalisation, into its kernel and bias. If a kernel is blended, the axis order that ONNX wants of
kernels is applied to the bases.
"""

from collections.abc import Sequence
import math

import numpy as np

from basisnet_jax.inference.onnx_graph import Call, Graph, Stored, unless


def convolution(graph: Graph, call: Call, x: Stored, kernel: Stored | np.ndarray) -> Stored:
  """`lax.conv_general_dilated`, with axes in any order."""
  p, numbers, shape = call.params, call.params['dimension_numbers'], call.operands[1].shape
  usual = set(p['lhs_dilation']) == {1} and p['batch_group_count'] == 1
  unless(usual, call, 'dilated images or groups of them')
  x, kernel = graph.whole(x, call.operands[0].shape), graph.whole(kernel, shape)
  moved = graph.ordered(kernel, numbers.rhs_spec)
  if isinstance(kernel, Stored):
    graph.has_own_kernels = True
    if kernel.order == tuple(range(len(shape))):
      moved = _blended(graph, kernel.name, shape, numbers.rhs_spec) or moved
  name = graph.write(
    'Conv',
    graph.ordered(x, numbers.lhs_spec),
    moved,
    strides=p['window_strides'],
    dilations=p['rhs_dilation'],
    pads=pads(p['padding']),
    group=p['feature_group_count'],
    kernel_shape=[shape[axis] for axis in numbers.rhs_spec[2:]],
  )
  return Stored(name, tuple(call.result.shape), tuple(numbers.out_spec))


def max_pool(graph: Graph, call: Call, x: Stored) -> Stored:
  """`lax.reduce_window_max` over all axes but two."""
  p = call.params
  windows = tuple(zip(p['window_dimensions'], p['window_strides'], p['padding'], strict=True))
  axes = [axis for axis, window in enumerate(windows) if window != (1, 1, (0, 0))]
  others = [axis for axis in range(len(windows)) if axis not in axes]
  usual = {*p['base_dilation'], *p['window_dilation']} == {1} and len(others) == 2
  unless(usual, call, 'such windows')
  order = (*others, *axes)
  x = graph.whole(x, call.operands[0].shape)
  sizes, strides, padding = zip(*(windows[axis] for axis in axes), strict=True)
  name = graph.write(
    'MaxPool', graph.ordered(x, order), kernel_shape=sizes, strides=strides, pads=pads(padding)
  )
  return Stored(name, tuple(call.result.shape), order)


def pads(padding: Sequence[tuple[int, int]]) -> list[int]:
  """Padding before and after each axis, in ONNX's order."""
  return [low for low, _ in padding] + [high for _, high in padding]


def taken_in(graph: Graph, operator: str, x: Stored, y: np.ndarray) -> Stored | None:
  """Absorbs `y`, one number per channel, into `x`, a convolution that nothing else reads.

  Args:
    graph: the graph to write to.
    operator: between them: 'Add', 'Sub', 'Mul' or 'Div'.
    x: the convolution's output.
    y: the numbers.

  Returns:
    The new output; None if `x` or `y` is anything else.
  """
  node = graph.maker(x, 'Conv')
  if not node or not isinstance(y, np.ndarray) or graph.uses.get(x.name) != 1:
    return None
  channel = x.order[1]
  channels, rank = x.shape[channel], len(x.shape)
  if y.size != 1 and (y.ndim != rank or not y.size == y.shape[channel] == channels):
    return None
  image, kernel, *bias = node.inputs
  y = np.broadcast_to(y.reshape(-1), channels)
  bias = bias[0] if bias else np.zeros_like(y)
  if operator in ('Add', 'Sub'):
    bias = bias + y if operator == 'Add' else bias - y
  else:
    factor = y if operator == 'Mul' else 1 / y
    bias, factor = bias * factor, factor.reshape(-1, *[1] * (rank - 1))
    if isinstance(kernel, np.ndarray):
      kernel = kernel * factor
    elif not (factor == 1).all():
      return None  # For bases that is up to `folding`, or they are to stay as they are.
  return x._replace(name=graph.write('Conv', image, kernel, bias, **node.attributes))


def _blended(graph, kernel, shape, order):
  """A kernel blended from bases whose axes are already in this order.

  Args:
    graph: the graph to write to.
    kernel: name of the product of one image's coefficients and constant bases; for anything else
      the result is None.
    shape: of the kernel.
    order: of its axes.
  """
  while node := graph.maker(kernel, 'Reshape', 'Squeeze', 'Unsqueeze'):
    kernel = node.inputs[0]
  node = graph.maker(kernel, 'MatMul')
  bases = node.inputs[1] if node else None
  if not isinstance(bases, np.ndarray) or bases.shape[1:] != (math.prod(shape),):
    return None
  moved = bases.reshape(-1, *shape).transpose(0, *(1 + axis for axis in order))
  blend = graph.write('MatMul', node.inputs[0], moved.reshape(bases.shape))
  return graph.reshaped(blend, moved.shape[1:])
