"""Reads the text of a compiled program (HLO)."""

import math
import re
from typing import NamedTuple

_BYTES = {
  'f64': 8, 'f32': 4, 'bf16': 2, 'f16': 2, 's64': 8, 's32': 4, 's8': 1, 'u64': 8, 'u32': 4, 'u8': 1,
  'pred': 1,
}  # fmt: skip
# Operations that need all of their operands, however small the result.
_NEED_ALL = ('reduce', 'reduce-window', 'dot', 'convolution', 'fusion', 'call', 'scatter')
# Operations that move nothing, or only what is counted in other lines.
_MOVE_NOTHING = ('parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant', 'while')


def reduced_bytes(program: str) -> int:
  """Bytes that one device puts into the all-reduces."""
  total = 0
  for line in program.splitlines():
    found = re.search(r'= (.*?) all-reduce(?:-start)?\(', line)
    total += _size(found[1]) if found else 0
  return total


def moved_bytes(program: str) -> int:
  """Bytes that all operations read and write, with each operand and result counted once.

  Fused operations count as one, which reads only what its slices need of an operand; bodies of
  loops do not count.
  """
  bodies, total = _computations(program), 0
  entry = bodies.pop('')
  shapes = {own.name: own.shape for own in entry}
  for own in entry:
    if own.operation not in _MOVE_NOTHING:
      needed = _needed(bodies[own.called]) if own.operation == 'fusion' else {}
      reads = [_size(shapes[name]) * needed.get(i, 1) for i, name in enumerate(own.operands)]
      total += _size(own.shape) + sum(reads)
  return round(total)


class _Instruction(NamedTuple):
  name: str
  shape: str
  operation: str
  operands: list[str]
  called: str  # The computation called; for a parameter, its number.


def _computations(program):
  """{name: instructions}; the name of the entry computation is ''."""
  found, body = {}, []
  for line in program.splitlines():
    if head := re.match(r'(ENTRY )?%(\S+) \(.*\{$', line):
      body = found.setdefault('' if head[1] else head[2], [])
    elif parts := re.match(r'\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)', line):
      *about, rest = parts.groups()
      called = re.match(r'\d+', rest) or re.search(r'(?<=calls=%)[\w.\-]+', rest)
      operands = re.findall(r'%([\w.\-]+)', rest.split('), ')[0])
      body.append(_Instruction(*about, operands, called and called[0]))
  return found


def _needed(body):
  """{number of a parameter: the share of it that is needed} for a fused computation."""
  numbers, found = {body[-1].name: math.inf}, {}
  for own in reversed(body):
    all_of_it = max(_size(own.shape, 1), 1)
    some = min(all_of_it, numbers.get(own.name, 0))
    if own.operation == 'parameter':
      found[int(own.called)] = some / all_of_it
    for operand in own.operands:  # Most operations need as many numbers as they return.
      more = math.inf if own.operation in _NEED_ALL else some
      numbers[operand] = numbers.get(operand, 0) + more
  return found


def _size(shape, each=None):
  """Bytes of a shape such as `(f32[2,3]{1,0}, s32[])`; with `each` 1, its number of elements."""
  return sum(
    (each or _BYTES[dtype]) * math.prod(int(size) for size in sizes.split(',') if size)
    for dtype, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shape)
  )
