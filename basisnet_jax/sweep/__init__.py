"""A sweep: a grid of runs, the rows of a table times seeds.

A sweep's file is a recipe whose variants are the rows, so each row can also be trained on its own
(`--config=configs/sweeps/NAME.py:ROW`). Besides `get_config(row=None)`, it defines
`SWEEP = Sweep(rows={...}, ...)`.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
from typing import Any

from basisnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The runs of a sweep.

  Attributes:
    rows: {name: a variant for `config.apply_variants`: dotted keys and values, or a function}.
    seeds: values of `config.seed`.
    headline: rows to run with all seeds; the others run only with the first. None is all rows.
    compare: row to compare the others with; None compares none.

  Raises:
    UserError: a row's name cannot name a folder or a variant, `compare` or a headline is no row,
      there are no rows or seeds, or a seed is invalid or given twice.
  """

  rows: Mapping[str, Any]
  seeds: Sequence[int] = (0, 1, 2)
  headline: Sequence[str] | None = None
  compare: str | None = None

  def __post_init__(self):
    for row in self.rows:
      if not re.fullmatch(r'\w[\w.-]*', row):
        raise UserError(f'The row {row!r} of a sweep cannot name a folder: use letters, digits, _.')
    if not self.rows:
      raise UserError('A sweep needs at least one row.')
    for key, names in (('compare', [self.compare]), ('headline', self.headline or ())):
      for name in names:
        if name is not None and name not in self.rows:
          raise UserError(f'{key}={name!r} is no row of the sweep: {", ".join(self.rows)}.')
    wrong = [s for s in self.seeds if type(s) is not int or not 0 <= s < 2**32]
    if wrong or not self.seeds or len(set(self.seeds)) < len(self.seeds):
      raise UserError(
        f'The seeds of a sweep are {tuple(self.seeds)}, wanted different whole numbers of at '
        'least 0, such as 0,1,2.'
      )

  def with_seeds(self, texts: Sequence[str]) -> 'Sweep':
    """Returns the sweep with other seeds, given as texts (of a flag): ['3', '4']."""
    try:
      return dataclasses.replace(self, seeds=tuple(int(text) for text in texts))
    except ValueError:
      raise UserError(
        f'--seeds={",".join(texts)} are no whole numbers; write them as 0,1,2.'
      ) from None

  def runs(self) -> list[tuple[str, int]]:
    """(row, seed) in the order of running: all rows with the first seed, then with the next."""
    repeated = self.rows if self.headline is None else self.headline
    first, *others = self.seeds
    return [(row, first) for row in self.rows] + [
      (row, seed) for seed in others for row in self.rows if row in repeated
    ]
