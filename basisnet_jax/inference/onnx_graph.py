"""A graph of ONNX operators while it is written, before it becomes a file.

Arrays have names, and JAX's axes in an order of their own: ONNX convolutions want channels before
rows and columns, and an array stays as a convolution left it until another order is needed. An
axis may have size one where JAX repeats the same value (`Stored.shape`): operators broadcast.
Constants are numpy arrays.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from basisnet_jax.errors import UserError


class Stored(NamedTuple):
  """An array that is known only when the graph runs.

  Attributes:
    name: in the graph.
    shape: as JAX knows it, but 1 for each axis along which equal values are not yet repeated;
      numbers, and symbols of `jax.export.symbolic_shape`.
    order: for each stored axis, which axis of `shape` it is.
  """

  name: str
  shape: tuple[Any, ...]
  order: tuple[int, ...]


def stored(name: str, shape: Sequence[Any]) -> Stored:
  """An array with its axes in JAX's order."""
  return Stored(name, tuple(shape), tuple(range(len(shape))))


class Call(NamedTuple):
  """What is known about an operation, except its operands' values.

  Attributes:
    name: of the primitive.
    params: of the primitive.
    operands: shape and dtype of each, as JAX knows them (`jax.core.ShapedArray`).
    result: shape and dtype of the first result.
  """

  name: str
  params: dict[str, Any]
  operands: tuple[Any, ...]
  result: Any


@dataclasses.dataclass(frozen=True)
class Node:
  """An operator: its inputs are names or constants, and no attribute is None."""

  operator: str
  inputs: tuple[str | np.ndarray, ...]
  output: str
  attributes: dict[str, Any]


class Graph:
  """What has been written so far.

  Attributes:
    nodes: {output: node}, in the order in which they run.
    uses: {name: how many JAX operations read it}, where known.
    terms: {name of a sum: how many terms each of its elements has}.
    first: the name of an input whose first axis is the batch.
    has_own_kernels: whether a convolution's kernel depends on the network's input.
  """

  def __init__(self, first: str):
    self.nodes: dict[str, Node] = {}
    self.uses: dict[str, int] = {}
    self.terms: dict[str, int] = {}
    self.first = first
    self.has_own_kernels = False
    self._known = {}  # {(name, permutation): name of the transposed array}

  def write(self, operator: str, *inputs: str | np.ndarray, **attributes) -> str:
    """Adds an operator and returns the name of its output."""
    name = f'{operator.lower()}_{len(self.nodes)}'
    self.nodes[name] = Node(operator, inputs, name, attributes)
    return name

  def maker(self, value: Stored | np.ndarray | str, *operators: str) -> Node | None:
    """The node that an array comes from, if it is one of these operators."""
    name = value.name if isinstance(value, Stored) else value
    node = self.nodes.get(name) if isinstance(name, str) else None
    return node if node and node.operator in operators else None

  def ordered(self, value: Stored | np.ndarray, order: Sequence[int]) -> str | np.ndarray:
    """The array with its axes in this order; axes of size one stay unrepeated."""
    order = tuple(order)
    if isinstance(value, np.ndarray):
      return value.transpose(order)
    moves = tuple(value.order.index(axis) for axis in order)
    if moves == tuple(range(len(moves))):
      return value.name
    asked = value.name, moves
    if asked not in self._known:
      self._known[asked] = self.write('Transpose', value.name, perm=moves)
    return self._known[asked]

  def plain(self, value: Stored | np.ndarray) -> str | np.ndarray:
    """The array in JAX's order; axes of size one stay unrepeated."""
    return self.ordered(value, range(len(value.shape)))

  def whole(self, value: Stored | np.ndarray, shape: Sequence[Any]) -> Stored | np.ndarray:
    """The array with everything repeated: of this shape, JAX's."""
    if tuple(value.shape) == tuple(shape):
      return value
    if isinstance(value, np.ndarray) and are_numbers(shape):
      return np.broadcast_to(value, shape)
    order = value.order if isinstance(value, Stored) else tuple(range(len(shape)))
    sizes = self._sizes([shape[axis] for axis in order])
    return Stored(self.write('Expand', self.ordered(value, order), sizes), tuple(shape), order)

  def reshaped(self, value: str | np.ndarray, shape: Sequence[Any]) -> str | np.ndarray:
    """Reshapes an array that is whole and in JAX's order.

    Raises:
      UserError: two sizes of the shape are not known.
    """
    if isinstance(value, np.ndarray) and are_numbers(shape):
      return value.reshape(shape)
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) > 1:
      raise UserError(f'--format=onnx: no way to write a reshape to {tuple(shape)}.')
    return self.write('Reshape', value, np.array(sizes, np.int64))

  def _sizes(self, shape):
    """A shape as an array, with the batch size read from the first input."""
    if are_numbers(shape):
      return np.array(shape, np.int64)
    batch = self.write('Shape', self.first, start=0, end=1)
    parts = [np.array([size], np.int64) if isinstance(size, int) else batch for size in shape]
    symbols = {str(size) for size in shape if not isinstance(size, int)}
    if len(symbols) > 1 or not symbols.pop().isidentifier():
      raise UserError(f'--format=onnx: no way to write a repetition to {tuple(shape)}.')
    return self.write('Concat', *parts, axis=0)

  def live(self, outputs: Sequence[str]) -> list[Node]:
    """The nodes that these outputs need, in the order in which they run."""
    needed, kept = set(outputs), []
    for node in reversed(self.nodes.values()):
      if node.output in needed:
        needed |= {name for name in node.inputs if isinstance(name, str)}
        kept.append(node)
    return kept[::-1]


def unless(supported: bool, call: Call, what: str) -> None:
  """Raises a UserError for a use of an operation that no operator supports: `what`."""
  if not supported:
    raise UserError(f'--format=onnx: no way to write the primitive {call.name!r} with {what}.')


def are_numbers(shape: Sequence[Any]) -> bool:
  """Whether no size of a shape is a symbol."""
  return all(isinstance(size, int | np.integer) for size in shape)
