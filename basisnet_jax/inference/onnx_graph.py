"""A graph of ONNX operators as it is written, before it becomes a file.

Arrays are named, with the axes that JAX knows them by in an order of their own: convolutions of
ONNX want channels before rows and columns, and an array stays as a convolution left it until
somebody needs another order. They may have one where JAX has many alike (`Stored.shape`): operators
broadcast. What is constant is a numpy array.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np

from basisnet_jax.errors import UserError


class Stored(NamedTuple):
  """An array that is known when the graph runs.

  Attributes:
    name: in the graph.
    shape: as JAX knows it, with a one for each axis along which all is alike and not yet repeated;
      numbers, and symbols of `jax.export.symbolic_shape`.
    order: for each axis of what is stored, which of `shape` it is.
  """

  name: str
  shape: tuple[Any, ...]
  order: tuple[int, ...]


def stored(name: str, shape: Sequence[Any]) -> Stored:
  """An array as JAX has it."""
  return Stored(name, tuple(shape), tuple(range(len(shape))))


class Call(NamedTuple):
  """What is known of an operation but its operands.

  Attributes:
    name: of the primitive.
    params: its own.
    operands: shape and dtype of each, as JAX knows them (`jax.core.ShapedArray`).
    result: shape and dtype of the first result.
  """

  name: str
  params: dict[str, Any]
  operands: tuple[Any, ...]
  result: Any


@dataclasses.dataclass(frozen=True)
class Node:
  """An operator: its inputs are names or constants, of its attributes none is None."""

  operator: str
  inputs: tuple[str | np.ndarray, ...]
  output: str
  attributes: dict[str, Any]


class Graph:
  """What is written so far.

  Attributes:
    nodes: {output: node}, in the order in which they run.
    uses: {name: by how many operations of JAX it is read}, where that is known.
    terms: {name of a sum: of how many numbers each of it is}.
    first: the name of an input whose first axis is the batch.
    has_own_kernels: whether a convolution's kernel depends on what the network sees.
  """

  def __init__(self, first: str):
    self.nodes: dict[str, Node] = {}
    self.uses: dict[str, int] = {}
    self.terms: dict[str, int] = {}
    self.first = first
    self.has_own_kernels = False
    self._known = {}  # {what was asked for: its name}

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
    """The array with its axes in this order, ones not repeated."""
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
    """The array in JAX's order, ones not repeated."""
    return self.ordered(value, range(len(value.shape)))

  def whole(self, value: Stored | np.ndarray, shape: Sequence[Any]) -> Stored | np.ndarray:
    """The array with nothing left to be repeated: of that shape, JAX's."""
    if tuple(value.shape) == tuple(shape):
      return value
    if isinstance(value, np.ndarray) and are_numbers(shape):
      return np.broadcast_to(value, shape)
    order = value.order if isinstance(value, Stored) else tuple(range(len(shape)))
    sizes = self._sizes([shape[axis] for axis in order])
    return Stored(self.write('Expand', self.ordered(value, order), sizes), tuple(shape), order)

  def reshaped(self, value: str | np.ndarray, shape: Sequence[Any]) -> str | np.ndarray:
    """The array, whole and in JAX's order, in another shape.

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
    """A shape as an array, the batch read from the first input."""
    if are_numbers(shape):
      return np.array(shape, np.int64)
    batch = self.write('Shape', self.first, start=0, end=1)
    parts = [np.array([size], np.int64) if isinstance(size, int) else batch for size in shape]
    symbols = {str(size) for size in shape if not isinstance(size, int)}
    if len(symbols) > 1 or not symbols.pop().isidentifier():
      raise UserError(f'--format=onnx: no way to write a repetition to {tuple(shape)}.')
    return self.write('Concat', *parts, axis=0)

  def live(self, outputs: Sequence[str]) -> list[Node]:
    """The nodes that these need, in the order in which they run."""
    needed, kept = set(outputs), []
    for node in reversed(self.nodes.values()):
      if node.output in needed:
        needed |= {name for name in node.inputs if isinstance(name, str)}
        kept.append(node)
    return kept[::-1]


def unless(supported: bool, call: Call, what: str) -> None:
  """Raises a UserError for an operation that has something which no operator has."""
  if not supported:
    raise UserError(f'--format=onnx: no way to write the primitive {call.name!r} with {what}.')


def are_numbers(shape: Sequence[Any]) -> bool:
  """Whether nothing of a shape is a symbol."""
  return all(isinstance(size, int | np.integer) for size in shape)
