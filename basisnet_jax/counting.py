"""Counts: how they are written and recognised."""

import numbers
from typing import Any


def counted(count: int, name: str) -> str:
  """'1 file', '1,000 files'."""
  return f'{count:,} {name}{"" if count == 1 else "s"}'


def is_count(number: Any) -> bool:
  """Whether it is a whole number of at least 1; True is not."""
  return isinstance(number, numbers.Integral) and not isinstance(number, bool) and number >= 1
