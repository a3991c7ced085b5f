"""How many of what, in words."""


def counted(count: int, name: str) -> str:
  """'1 file', '1,000 files'."""
  return f'{count:,} {name}{"" if count == 1 else "s"}'
