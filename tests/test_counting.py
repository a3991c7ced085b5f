"""Numbers of things, and sentences with them."""

import numpy as np

from basisnet_jax.counting import counted, is_count


def test_one_is_one_and_many_are_many():
  assert [counted(count, 'file') for count in (0, 1, 2, 1000)] == [
    '0 files', '1 file', '2 files', '1,000 files',
  ]  # fmt: skip


def test_whole_numbers_from_1_count():
  assert all(map(is_count, (1, 10**30, np.int32(2), np.uint8(1))))
  assert not any(map(is_count, (0, -1, 1.0, '1', None, True, np.True_, np.array(1), float('nan'))))
