"""ONNX: the only file that uses its library and its runtime.

Programs are traced by JAX and written operator by operator (`onnx_operators`); what depends on
weights alone is computed beforehand. A program for any number of images is traced for a symbolic
batch size. If images have kernels of their own, it is traced for one image and runs over the images
of a batch one after another (ONNX's Scan), with the weights in the file once: convolutions of ONNX
Runtime take one kernel for all images.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools
import hashlib
from typing import Any, NamedTuple

import jax
from jax.extend import core
import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.inference import exporting, onnx_operators
from basisnet_jax.inference.onnx_graph import Call, Graph, Stored, are_numbers, stored
from basisnet_jax.models import convolution

NEEDED = ('onnx', 'onnxruntime')  # To write files, and to read them again.
_OPSET = 21
_CALLS = (
  'jit',
  'pjit',
  'closed_call',
  'custom_jvp_call',
  'custom_vjp_call',
  'checkpoint',
  'remat2',
)
_LARGE = 1024  # Elements.
_MOST_BYTES = 2**31 - 2**24  # Of weights: a file's limit less room for the rest.


def model(program: exporting.Program) -> bytes:
  """Makes the file of a program, which takes any number of images.

  Raises:
    UserError: the library is not installed; an operation cannot be written; too many weights.
  """
  try:
    import onnx
  except ImportError as error:
    raise missing() from error
  graph, outputs = _written(program, 1, [f'one_{name}' for name in program.inputs])
  if graph.has_own_kernels:
    whole = _over_images(onnx, program, graph, outputs)
  else:
    (batch,) = jax.export.symbolic_shape('batch')
    graph, outputs = _written(program, batch, list(program.inputs))
    nodes, weights = _protos(onnx, graph, outputs)
    nodes += [
      onnx.helper.make_node('Identity', [output], [name])
      for output, name in zip(outputs, program.outputs, strict=True)
    ]
    whole = onnx.helper.make_graph(nodes, program.name, *_signature(onnx, program), weights)
  made = onnx.helper.make_model(
    whole,
    producer_name='basisnet_jax',
    ir_version=10,
    opset_imports=[onnx.helper.make_opsetid('', _OPSET)],
  )
  onnx.checker.check_model(made, full_check=True)
  return made.SerializeToString()


def reader(data: bytes, threads: int = 0) -> Callable[..., list[np.ndarray]]:
  """Returns a function that runs a file: inputs to outputs, in order.

  0 `threads` is ONNX Runtime's choice.

  Raises:
    UserError: the runtime is not installed.
  """
  try:
    import onnxruntime
  except ImportError as error:
    raise missing() from error
  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  # Threads of idle files should not keep cores busy.
  options.add_session_config_entry('session.intra_op.allow_spinning', '0')
  session = onnxruntime.InferenceSession(data, options, providers=['CPUExecutionProvider'])
  names = [own.name for own in session.get_inputs()]
  return lambda *arrays: session.run(None, dict(zip(names, map(np.asarray, arrays), strict=True)))


def missing() -> UserError:
  """The error to raise if any of `NEEDED` is not installed."""
  return UserError(
    '--format=onnx and triton need ONNX and its run time: pip install basisnet_jax[onnx].'
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Value:
  """A result of a JAX operation: a new one each time that the operation is inlined."""

  aval: Any  # Its shape and dtype.


class _Operation(NamedTuple):
  call: Call
  bind: Callable[..., Any]  # Computes it from constants.
  inputs: list[_Value | np.ndarray]
  outputs: list[_Value]


def _written(program, batch, names):
  """The graph for a batch size, and the names of its outputs."""
  with convolution.form('onnx'):
    # A new function, because JAX reuses the trace of one for the same shapes, whatever its form.
    traced = jax.make_jaxpr(lambda *arrays: program.call(*arrays))(*program.takes(batch))
  inputs = [_Value(aval) for aval in traced.in_avals]
  operations, results = _flat(traced, inputs)
  uses = collections.Counter(v for o in operations for v in o.inputs if _varies(v))
  graph = Graph(names[0])
  known = {v: stored(name, v.aval.shape) for name, v in zip(names, inputs, strict=True)}

  def read(value):
    return known[value] if _varies(value) else value

  for operation in operations:
    found = _computed(graph, operation, [read(v) for v in operation.inputs])
    for value, result in zip(operation.outputs, found, strict=True):
      known[value] = result
      if isinstance(result, Stored):
        graph.uses[result.name] = max(graph.uses.get(result.name, 0), uses[value])
  outputs = [graph.plain(graph.whole(read(v), _shape(v))) for v in results]
  return graph, outputs


def _varies(value):
  return isinstance(value, _Value)


def _shape(value):
  return value.aval.shape if _varies(value) else value.shape


def _computed(graph, operation, values):
  """The results: constants if all operands are constant, else outputs of operators."""
  shapes = [own.shape for own in operation.call.operands]
  if all(isinstance(v, np.ndarray) for v in values) and are_numbers(operation.call.result.shape):
    whole = [np.broadcast_to(v, shape) for v, shape in zip(values, shapes, strict=True)]
    results = operation.bind(*whole)
    results = results if isinstance(results, list | tuple) else [results]
    return [np.asarray(result) for result in results]
  if operation.call.name in ('stop_gradient', 'optimization_barrier'):
    return values
  return [onnx_operators.operator(graph, operation.call, *values)]


def _flat(traced: core.ClosedJaxpr, inputs):
  """All operations that the results need, including those of nested calls, and the results."""
  operations = []

  def inline(jaxpr, constants, values):
    known = dict(zip(jaxpr.constvars, map(np.asarray, constants), strict=True))
    known |= dict(zip(jaxpr.invars, values, strict=True))

    def read(atom):
      if isinstance(atom, core.Literal):
        return np.asarray(atom.val, atom.aval.dtype)
      return known[atom]

    for equation in jaxpr.eqns:
      values = [read(atom) for atom in equation.invars]
      if equation.primitive.name in _CALLS:
        inner = equation.params.get('jaxpr', equation.params.get('call_jaxpr'))
        inner, own = (inner, ()) if isinstance(inner, core.Jaxpr) else (inner.jaxpr, inner.consts)
        results = inline(inner, own, values)
      else:
        results = [_Value(variable.aval) for variable in equation.outvars]
        operations.append(_operation(equation, values, results))
      known |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  results = inline(traced.jaxpr, traced.consts, inputs)
  needed, live = set(filter(_varies, results)), []
  for operation in reversed(operations):
    if not needed.isdisjoint(operation.outputs):
      needed |= set(filter(_varies, operation.inputs))
      live.append(operation)
  return live[::-1], results


def _operation(equation, values, results):
  primitive, params = equation.primitive, equation.params
  operands = tuple(atom.aval for atom in equation.invars)
  call = Call(primitive.name, params, operands, equation.outvars[0].aval)
  return _Operation(call, functools.partial(primitive.bind, **params), values, results)


def _signature(onnx, program):
  """The inputs and outputs of the file."""
  kind, make = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
  takes = [make(name, kind, ['batch', *shape]) for name, shape in program.inputs.items()]
  gives = [make(name, kind, ['batch', *shape]) for name, shape in program.gives().items()]
  return takes, gives


def _over_images(onnx, program, graph, outputs):
  """Runs the graph of one image over all images of a batch."""
  make, kind = onnx.helper.make_node, onnx.TensorProto.FLOAT
  info = onnx.helper.make_tensor_value_info
  nodes, weights = _protos(onnx, graph, outputs)
  weights.append(onnx.numpy_helper.from_array(np.array([0], np.int64), 'first_axis'))
  before = [
    make('Unsqueeze', [f'image_{name}', 'first_axis'], [f'one_{name}']) for name in program.inputs
  ]
  after = [
    make('Squeeze', [output, 'first_axis'], [f'image_{name}'])
    for output, name in zip(outputs, program.outputs, strict=True)
  ]
  takes, gives = _signature(onnx, program)
  sizes = lambda value: [d.dim_value for d in value.type.tensor_type.shape.dim][1:]  # noqa: E731
  body = onnx.helper.make_graph(
    before + nodes + after,
    'image',
    *([info(f'image_{v.name}', kind, sizes(v)) for v in values] for values in (takes, gives)),
    weights,
  )
  scan = make(
    'Scan', list(program.inputs), list(program.outputs), body=body,
    num_scan_inputs=len(program.inputs),
  )  # fmt: skip
  return onnx.helper.make_graph([scan], program.name, takes, gives)


def _protos(onnx, graph, outputs):
  """The nodes that outputs need and their constants, equal ones once."""
  tensors = {}

  def name(value):
    if isinstance(value, str):
      return value
    value = np.ascontiguousarray(value).reshape(value.shape)  # The former makes scalars 1-D.
    content = value.dtype.str, value.shape, hashlib.sha256(value).digest()
    if content not in tensors:
      small, own = _in_few_bytes(value), f'constant_{len(tensors)}'
      tensors[content] = onnx.numpy_helper.from_array(small, own)
      if small is not value:  # Runtimes cast when they open the file.
        cast = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        nodes.append(onnx.helper.make_node('Cast', [own], [f'{own}_whole'], to=cast))
        whole[own] = f'{own}_whole'
    return whole.get(tensors[content].name, tensors[content].name)

  nodes, whole = [], {}
  for node in graph.live(outputs):
    attributes = dict(node.attributes)
    if node.operator == 'Cast':
      attributes['to'] = onnx.helper.np_dtype_to_tensor_dtype(attributes['to'])
    inputs = [name(value) for value in node.inputs]
    nodes.append(onnx.helper.make_node(node.operator, inputs, [node.output], **attributes))
  if sum(len(tensor.raw_data) for tensor in tensors.values()) > _MOST_BYTES:
    raise UserError('--format=onnx: a file holds 2 GB, and the weights are more; try stablehlo.')
  return nodes, list(tensors.values())


def _in_few_bytes(value):
  """A large float array in a smaller type if that is lossless, as for `exporting.stored` bases."""
  if value.dtype == np.float32 and value.size >= _LARGE:
    for dtype, largest in ((np.int8, 127), (np.float16, np.finfo(np.float16).max)):
      if np.abs(value).max() <= largest and np.array_equal(value.astype(dtype), value):
        return value.astype(dtype)
  return value
