"""Sentences with numbers in them."""

from basisnet_jax.counting import counted


def test_one_is_one_and_many_are_many():
  assert [counted(count, 'file') for count in (0, 1, 2, 1000)] == [
    '0 files', '1 file', '2 files', '1,000 files',
  ]  # fmt: skip
