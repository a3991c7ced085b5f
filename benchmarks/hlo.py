"""What is read from the text of a compiled program (HLO)."""

import math
import re

_BYTES = {
  'f64': 8, 'f32': 4, 'bf16': 2, 'f16': 2, 's64': 8, 's32': 4, 's8': 1, 'u64': 8, 'u32': 4, 'u8': 1,
  'pred': 1,
}  # fmt: skip
# Operations that move nothing, or only what other lines count.
_MOVE_NOTHING = ('parameter', 'get-tuple-element', 'tuple', 'bitcast', 'constant', 'while')


def reduced_bytes(program: str) -> int:
  """Bytes that one device puts into the all-reduces."""
  total = 0
  for line in program.splitlines():
    found = re.search(r'= (.*?) all-reduce(?:-start)?\(', line)
    total += _size(found[1]) if found else 0
  return total


def moved_bytes(program: str) -> int:
  """Bytes that the operations read and write, each its operands and results once.

  Operations that the compiler has fused are one; bodies of loops do not count.
  """
  total, sizes = 0, {}
  for line in program[program.index('\nENTRY ') :].splitlines():
    found = re.match(r'\s+(?:ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)', line)
    if not found:
      continue
    name, shape, operation, rest = found.groups()
    sizes[name] = _size(shape)
    if operation not in _MOVE_NOTHING:
      operands = re.findall(r'%([\w.\-]+)', rest.split('), ')[0])
      total += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
  return total


def _size(shape):
  """Bytes of a shape such as `(f32[2,3]{1,0}, s32[])`."""
  return sum(
    _BYTES[dtype] * math.prod(int(size) for size in sizes.split(',') if size)
    for dtype, sizes in re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', shape)
  )
