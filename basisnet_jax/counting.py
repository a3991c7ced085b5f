"""How many of what: what is a number of things, and how it is said."""

import numbers
from typing import Any


def counted(count: int, name: str) -> str:
  """'1 file', '1,000 files'."""
  return f'{count:,} {name}{"" if count == 1 else "s"}'


def is_count(number: Any) -> bool:
  """Whether it is a whole number from 1; True is none."""
  return isinstance(number, numbers.Integral) and not isinstance(number, bool) and number >= 1
