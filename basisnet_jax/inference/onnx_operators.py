"""JAX's primitives as operators of ONNX: a table of functions.

Each takes the graph, what is known about the operation (`Call`) and the operands, and returns the
result. An operand is constant only beside another that is not, or where a batch is made of it.
"""

import math

import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.inference import onnx_convolutions
from basisnet_jax.inference.onnx_graph import Call, Graph, Stored, stored, unless


def operator(graph: Graph, call: Call, *values):
  """Writes an operation and returns its result.

  Raises:
    UserError: the table lacks this primitive, or this use of it.
  """
  if call.name not in _TABLE:
    raise UserError(f'--format=onnx: there is no operator for the primitive {call.name!r} of JAX.')
  return _TABLE[call.name](graph, call, *values)


def _elementwise(graph, operator, *values):
  """A broadcasting operator on arrays of the same rank, or scalars."""
  leaders = [value for value in values if isinstance(value, Stored)]
  leader = max(leaders, key=lambda value: sum(size != 1 for size in value.shape), default=None)
  rank = max(len(value.shape) for value in values)
  order = leader.order if leader and len(leader.order) == rank else tuple(range(rank))
  names = [graph.ordered(v, order if v.shape else ()) for v in values]
  shapes = [value.shape for value in values if value.shape]
  shape = tuple(next((s for s in sizes if s != 1), 1) for sizes in zip(*shapes, strict=True))
  return Stored(graph.write(operator, *names), shape, order)


def _simple(operator):
  return lambda graph, call, *values: _elementwise(graph, operator, *values)


def _arithmetic(operator):
  """Add, subtract, multiply or divide, merged with the operators before it where possible."""

  def write(graph, call, x, y):
    return (
      onnx_convolutions.taken_in(graph, operator, x, y)
      or (operator in ('Add', 'Mul') and onnx_convolutions.taken_in(graph, operator, y, x))
      or (operator == 'Div' and (_mean(graph, x, y) or _hard_sigmoid(graph, x, y)))
      or _elementwise(graph, operator, x, y)
    )

  return write


def _mean(graph, x, y):
  """A sum divided by the number of its terms, as one operator; None if it is anything else."""
  node = graph.maker(x, 'ReduceSum')
  if not node or not isinstance(y, np.ndarray) or y.ndim or y != graph.terms[node.output]:
    return None
  image, axes = node.inputs
  if axes.tolist() == [2, 3] and len(x.shape) == 2:  # This suits a convolution's layout.
    pooled = graph.write('GlobalAveragePool', image)
    return x._replace(name=graph.write('Squeeze', pooled, axes))
  return x._replace(name=graph.write('ReduceMean', image, axes, keepdims=0))


def _hard_sigmoid(graph, x, y):
  """clip(x + 3, 0, 6) / 6 as one operator; None if it is anything else."""
  clip = graph.maker(x, 'Clip')
  add = clip and graph.maker(clip.inputs[0], 'Add')
  if not add or not isinstance(add.inputs[1], np.ndarray):
    return None
  numbers = add.inputs[1], *clip.inputs[1:], y
  if any(not isinstance(n, np.ndarray) or n.size != 1 for n in numbers):
    return None
  shift, low, high, divisor = (float(n.item()) for n in numbers)
  if (low, high) != (0, divisor):
    return None
  return x._replace(
    name=graph.write('HardSigmoid', add.inputs[0], alpha=1 / divisor, beta=shift / divisor)
  )


def _maximum(graph, call, x, y):
  if isinstance(x, np.ndarray):
    x, y = y, x
  if isinstance(y, np.ndarray) and not y.ndim and y == 0 and y.dtype == np.float32:
    return x._replace(name=graph.write('Relu', x.name))
  return _elementwise(graph, 'Max', x, y)


def _minimum(graph, call, x, y):
  if isinstance(x, np.ndarray):
    x, y = y, x
  relu = graph.maker(x, 'Relu')
  if relu and isinstance(y, np.ndarray) and not y.ndim:
    return x._replace(name=graph.write('Clip', *relu.inputs, np.zeros_like(y), y))
  return _elementwise(graph, 'Min', x, y)


def _integer_power(graph, call, x):
  power = np.array(call.params['y'], call.result.dtype)
  return _elementwise(graph, 'Pow', x, power)


def _square(graph, call, x):
  return _elementwise(graph, 'Mul', x, x)


def _reciprocal_root(graph, call, x):
  return _elementwise(graph, 'Reciprocal', _elementwise(graph, 'Sqrt', x))


def _select(graph, call, which, *cases):
  unless(call.operands[0].dtype == bool and len(cases) == 2, call, 'more than two cases')
  return _elementwise(graph, 'Where', which, cases[1], cases[0])


def _convert(graph, call, x):
  return x._replace(name=graph.write('Cast', x.name, to=np.dtype(call.result.dtype)))


def _without(order, axes):
  """The order of the axes that are left, and the stored positions of the others."""
  left = [axis for axis in order if axis not in axes]
  ranks = sorted(left)
  where = np.array(sorted(order.index(axis) for axis in axes), np.int64)
  return tuple(ranks.index(axis) for axis in left), where


def _reduce(operator):
  def write(graph, call, x):
    axes, shape = call.params['axes'], call.operands[0].shape
    if not axes:  # To ONNX that would mean all.
      return x
    x = graph.whole(x, [shape[i] if i in axes else size for i, size in enumerate(x.shape)])
    order, where = _without(x.order, axes)
    name = graph.write(operator, x.name, where, keepdims=0)
    if operator == 'ReduceSum':
      graph.terms[name] = math.prod(shape[axis] for axis in axes)
    return Stored(name, tuple(s for i, s in enumerate(x.shape) if i not in axes), order)

  return write


def _arg_max(graph, call, x):
  x = graph.whole(x, call.operands[0].shape)
  (axis,) = call.params['axes']
  found = graph.write('ArgMax', graph.plain(x), axis=axis, keepdims=0)
  return stored(graph.write('Cast', found, to=np.dtype(call.result.dtype)), call.result.shape)


def _broadcast(graph, call, x):
  """Adds axes of size one only: values are repeated where that is needed."""
  kept, rank = call.params['broadcast_dimensions'], len(call.params['shape'])
  shape = [1] * rank
  for axis, size in zip(kept, x.shape, strict=True):
    shape[axis] = size
  if isinstance(x, np.ndarray):  # For each image.
    return stored(graph.write('Identity', x.reshape(shape)), shape)
  if len(kept) == rank:
    return x
  added = np.array([axis for axis in range(rank) if axis not in kept], np.int64)
  return stored(graph.write('Unsqueeze', graph.plain(x), added), shape)


def _reshape(graph, call, x):
  unless(call.params['dimensions'] is None, call, 'dimensions')
  x, shape = graph.whole(x, call.operands[0].shape), call.result.shape
  return stored(graph.reshaped(graph.plain(x), shape), shape)


def _squeeze(graph, call, x):
  return _dropped(graph, x, call.params['dimensions'])


def _dropped(graph, x, axes):
  """The array without these axes of size one."""
  order, where = _without(x.order, axes)
  shape = tuple(size for axis, size in enumerate(x.shape) if axis not in axes)
  return Stored(graph.write('Squeeze', x.name, where), shape, order) if axes else x


def _transpose(graph, call, x):
  permutation = call.params['permutation']
  order = tuple(permutation.index(axis) for axis in x.order)
  return Stored(x.name, tuple(x.shape[axis] for axis in permutation), order)


def _slice(graph, call, x):
  start, limit = call.params['start_indices'], call.params['limit_indices']
  return _cut(graph, x, call.operands[0].shape, start, limit, call.params['strides'])


def _cut(graph, x, shape, start, limit, steps=None):
  """A slice of an array that has this shape in JAX."""
  bounds = list(zip(start, limit, steps or [1] * len(shape), strict=True))
  axes = [i for i, size in enumerate(shape) if bounds[i] != (0, size, 1)]
  if not axes:
    return x
  sizes = list(x.shape)
  for i in axes:
    sizes[i] = shape[i]
  x = graph.whole(x, sizes)
  for i in axes:
    sizes[i] = len(range(*bounds[i]))
  first, last, step = (np.array(n, np.int64) for n in zip(*(bounds[i] for i in axes), strict=True))
  where = np.array([x.order.index(i) for i in axes], np.int64)
  return Stored(graph.write('Slice', x.name, first, last, where, step), tuple(sizes), x.order)


def _pad(graph, call, x, value):
  config = call.params['padding_config']
  if not any(map(any, config)):
    return x
  regular = all(low >= 0 and high >= 0 and not between for low, high, between in config)
  unless(regular and isinstance(value, np.ndarray), call, 'less than nothing or between')
  x = graph.whole(x, call.operands[0].shape)
  pads = np.array(onnx_convolutions.pads([config[axis][:2] for axis in x.order]), np.int64)
  return Stored(graph.write('Pad', x.name, pads, value), tuple(call.result.shape), x.order)


def _concatenate(graph, call, *values):
  values = [graph.whole(x, own.shape) for x, own in zip(values, call.operands, strict=True)]
  axis = call.params['dimension']
  name = graph.write('Concat', *(graph.plain(x) for x in values), axis=axis)
  return stored(name, call.result.shape)


def _gather(graph, call, x, indices):
  """Gathers at constant indices: like `jnp.take` along one axis, or one slice of the array."""
  own, shape = call.params['dimension_numbers'], call.operands[0].shape
  axes, sizes = own.start_index_map, call.params['slice_sizes']
  unless(isinstance(indices, np.ndarray), call, 'indices that the network computes')
  last = [shape[axis] - sizes[axis] for axis in axes]
  unless((indices >= 0).all() and (indices <= last).all(), call, 'indices beyond the end')
  if indices.ndim == 1:
    start = [0] * len(shape)
    for axis, index in zip(axes, indices, strict=True):
      start[axis] = int(index)
    limit = [first + size for first, size in zip(start, sizes, strict=True)]
    return _dropped(graph, _cut(graph, x, shape, start, limit), own.collapsed_slice_dims)
  others = tuple(i for i in range(len(shape)) if i not in axes)
  in_place = own.collapsed_slice_dims == axes and own.offset_dims == others
  one = len(axes) == 1 and all(sizes[i] == shape[i] for i in others)
  unless(indices.ndim == 2 and one and in_place, call, 'such indices')
  x = graph.whole(x, shape)
  places, where = indices[:, 0].astype(np.int64), x.order.index(axes[0])
  return Stored(graph.write('Gather', x.name, places, axis=where), call.result.shape, x.order)


def _product(graph, call, x, y):
  """[batch, free, contracted] times [batch, contracted, free], several axes merged into one."""
  (of_x, of_y), (batch_x, batch_y) = call.params['dimension_numbers']
  shape_x, shape_y = (own.shape for own in call.operands)
  free_x = [i for i in range(len(shape_x)) if i not in (*of_x, *batch_x)]
  free_y = [i for i in range(len(shape_y)) if i not in (*of_y, *batch_y)]
  x, y = graph.whole(x, shape_x), graph.whole(y, shape_y)
  left = graph.ordered(x, (*batch_x, *free_x, *of_x))
  right = graph.ordered(y, (*batch_y, *of_y, *free_y))
  batch = [shape_x[i] for i in batch_x]
  contracted = math.prod(shape_x[i] for i in of_x)
  columns = math.prod(shape_y[i] for i in free_y)
  rows = [shape_x[i] for i in free_x]
  if batch and len(rows) != 1:
    rows = [math.prod(rows)]
  if len(of_x) != 1 or rows != [shape_x[i] for i in free_x]:
    left = graph.reshaped(left, [*batch, *rows, contracted])
  if len(of_x) != 1 or len(free_y) != 1:
    right = graph.reshaped(right, [*batch, contracted, columns])
  name, shape = graph.write('MatMul', left, right), call.result.shape
  if [*batch, *rows, columns] != list(shape):
    name = graph.reshaped(name, shape)
  return stored(name, shape)


_SIMPLE = {
  'abs': 'Abs',
  'ceil': 'Ceil',
  'cos': 'Cos',
  'eq': 'Equal',
  'erf': 'Erf',
  'exp': 'Exp',
  'floor': 'Floor',
  'ge': 'GreaterOrEqual',
  'gt': 'Greater',
  'le': 'LessOrEqual',
  'log': 'Log',
  'logistic': 'Sigmoid',
  'lt': 'Less',
  'neg': 'Neg',
  'pow': 'Pow',
  'sign': 'Sign',
  'sin': 'Sin',
  'sqrt': 'Sqrt',
  'tanh': 'Tanh',
}
_TABLE = {
  **{name: _simple(operator) for name, operator in _SIMPLE.items()},
  'add': _arithmetic('Add'),
  'argmax': _arg_max,
  'broadcast_in_dim': _broadcast,
  'concatenate': _concatenate,
  'conv_general_dilated': onnx_convolutions.convolution,
  'convert_element_type': _convert,
  'div': _arithmetic('Div'),
  'dot_general': _product,
  'gather': _gather,
  'integer_pow': _integer_power,
  'max': _maximum,
  'min': _minimum,
  'mul': _arithmetic('Mul'),
  'pad': _pad,
  'reduce_max': _reduce('ReduceMax'),
  'reduce_min': _reduce('ReduceMin'),
  'reduce_sum': _reduce('ReduceSum'),
  'reduce_window_max': onnx_convolutions.max_pool,
  'reshape': _reshape,
  'rsqrt': _reciprocal_root,
  'select_n': _select,
  'slice': _slice,
  'square': _square,
  'squeeze': _squeeze,
  'sub': _arithmetic('Sub'),
  'transpose': _transpose,
}
