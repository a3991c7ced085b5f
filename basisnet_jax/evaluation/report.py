"""An evaluation as a file for programs and as a table for people."""

from collections.abc import Iterable, Sequence
import csv
import io
import json
import math
import os
from typing import Any

import numpy as np

from basisnet_jax import whole_file


def write_json(path: str, value: dict[str, Any]) -> None:
  """Writes a JSON file, completely or not at all; creates its folder if missing.

  NumPy and JAX scalars are fine; numbers that are not finite become null, since JSON cannot express
  them.
  """
  whole_file.write(path, json.dumps(_plain(value), indent=2, allow_nan=False) + '\n')


def write_csv(path: str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
  """Writes a CSV file, completely or not at all; creates its folder if missing."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  writer.writerows(rows)
  whole_file.write(path, text.getvalue())


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], texts=(0,)) -> str:
  """Formats a table in Markdown, aligned so that it is also legible on a terminal.

  Args:
    header: names of the columns.
    rows: cells.
    texts: indices of left-aligned columns; the others are right-aligned.
  """
  columns = []
  for i, column in enumerate(zip(header, *rows, strict=True)):
    width = max(map(len, column))
    align, rule = (str.ljust, '-') if i in texts else (str.rjust, ':')
    name, *cells = (align(cell, width) for cell in column)
    columns.append([name, rule.rjust(width, '-'), *cells])
  return '\n'.join(f'| {" | ".join(cells)} |' for cells in zip(*columns, strict=True))


def write(workdir: str, evaluation: dict[str, Any]) -> None:
  """Writes `<workdir>/evaluation.json`.

  Args:
    workdir: a folder, local or gs://, created if missing.
    evaluation: `total_madds`, `images` and `step`; for one network also `network` (a dict of
      `top1`, `top5`, `loss`); for two stages `lightweight` and `specialist` (such dicts),
      `lightweight_madds`, `early_exit` (the operating points) and perhaps `chosen` (one more).
  """
  write_json(os.path.join(workdir, 'evaluation.json'), evaluation)


def table(evaluation: dict[str, Any]) -> str:
  """Formats the evaluation (see `write`) as an aligned table in plain ASCII.

  The saving is relative to always running both stages. That is also the cost of "specialist alone",
  which would have no coefficients without the first stage.
  """
  total = evaluation['total_madds']
  if 'network' in evaluation:
    result = evaluation['network']
    header = ['', 'top-1 %', 'top-5 %', 'MAdds']
    costs = _millions([total])
    rows = [['network', _percent(result['top1']), _percent(result.get('top5')), *costs]]
  else:
    header = ['', 'top-1 %', 'exit rate %', 'average MAdds', 'saving %']
    light = evaluation['lightweight_madds']
    lines = [
      ('lightweight alone', evaluation['lightweight']['top1'], None, light),
      ('specialist alone', evaluation['specialist']['top1'], None, total),
    ]
    lines += [
      (f'early termination at {p["threshold"]:g}', p['top1'], p['exit_rate'], p['average_madds'])
      for p in evaluation['early_exit']
    ]
    if chosen := evaluation.get('chosen'):
      name = f'{chosen["threshold"]:g}' if chosen['threshold'] <= 1 else 'nobody exits'
      lines.append(
        (f'chosen: {name}', chosen['top1'], chosen['exit_rate'], chosen['average_madds'])
      )
    costs = _millions([line[3] for line in lines])
    rows = [
      [name, _percent(top1), _percent(exit_rate, 1), cost, _percent(1 - madds / total, 1)]
      for (name, top1, exit_rate, madds), cost in zip(lines, costs, strict=True)
    ]
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  rule = '-' * (sum(widths) + 3 * (len(widths) - 1))
  caption = f'{evaluation["images"]:,} images at step {evaluation["step"]:,}'
  text = [_aligned(row, widths) for row in [header, *rows]]
  if 'network' not in evaluation:
    text.insert(3, rule)  # Below the two stages.
    if evaluation.get('chosen'):
      text.insert(-1, rule)
  return '\n'.join([caption, rule, text[0], rule, *text[1:], rule])


def _aligned(cells, widths):
  first = cells[0].ljust(widths[0])
  return '   '.join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])


def _percent(fraction, digits=2):
  return '-' if fraction is None else f'{100 * fraction:.{digits}f}'


def _millions(madds):
  # Enough decimals to give the smallest entry three digits; the same for all, so that points align.
  least = min((m for m in madds if m > 0), default=1e6)
  decimals = max(0, 2 - math.floor(math.log10(least / 1e6)))
  return [f'{m / 1e6:,.{decimals}f} M' for m in madds]


def _plain(value):
  if isinstance(value, dict):
    return {str(key): _plain(entry) for key, entry in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(entry) for entry in value]
  if value is None or isinstance(value, str):
    return value
  value = np.asarray(value).tolist()
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value if not isinstance(value, list) else _plain(value)
