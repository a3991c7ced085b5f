"""A sweep's table: mean and standard deviation over seeds, and differences between rows."""

from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from basisnet_jax import whole_file
from basisnet_jax.evaluation import plots, plots_rows, report
from basisnet_jax.sweep import records
from basisnet_jax.sweep.records import Run

# Metrics of a run, in the table's order; those that a network lacks are left out.
METRICS = (
  'top1',
  'lightweight_top1',
  'total_madds',
  'total_params',
  'early_top1',
  'early_change',
  'early_average_madds',
  'early_saving',
  'seconds',
)
_MOST_OVER_COST = 16  # Rows whose names fit beside their points.


def collect(runs: Sequence[Run], compare: str | None) -> dict[str, Any]:
  """Collects the results of the finished runs.

  Args:
    runs: all runs of the sweep.
    compare: the row to compare the others with, or None.

  Returns:
    'runs' and 'finished' (their numbers), 'unfinished' (their names), 'compare' and 'rows': for
    each row with a finished run {'row', 'seeds', metric: {'mean', 'std', 'values'}} and, except in
    the row to compare with, 'difference' of a similar form. `METRICS` of a run:
    top1 (fraction): of the final answer, the specialist's or the single network's;
    lightweight_top1 (fraction);
    total_madds (per image), total_params: of both stages;
    early_top1 (fraction), early_average_madds, early_saving (share of total_madds): with early
      termination at the threshold chosen on held-out images; early_change (fraction): its change
      of top1;
    seconds: wall-clock, including start, compilation and evaluation.
    'std' is the sample standard deviation (n - 1), None for one seed. A difference is that in top1,
    averaged over the seeds that both rows have; instead of 'std' it has 'standard_error', of the
    mean over these pairs.
  """
  finished = [run for run in runs if records.is_finished(run)]
  rows = []
  for row in dict.fromkeys(run.row for run in finished):
    found = {run.seed: _metrics(run) for run in finished if run.row == row}
    entry = {'row': row, 'seeds': list(found)}
    for metric in METRICS:
      values = [metrics[metric] for metrics in found.values() if metric in metrics]
      if len(values) == len(found):
        entry[metric] = _spread(values)
    rows.append(entry)
  base = next((entry for entry in rows if entry['row'] == compare), None)
  for entry in rows:
    if base is not None and entry is not base:
      entry['difference'] = _difference(entry, base)
  return {
    'runs': len(runs),
    'finished': len(finished),
    'unfinished': [run.name for run in runs if run not in finished],
    'compare': compare,
    'rows': rows,
  }


def write(workdir: str, title: str, runs: Sequence[Run], compare: str | None) -> str:
  """Collects the results and writes results.json, .csv, .md and .png into the sweep's folder.

  Returns:
    Text to print: the table and the names of the files, or that no run has finished.
  """
  results = collect(runs, compare)
  if not results['finished']:
    return f'None of the {len(runs)} runs is finished: there is no table yet.'
  folder = pathlib.Path(workdir)
  files = {kind: folder / f'results.{kind}' for kind in ('json', 'csv', 'md', 'png')}
  table = markdown(results)
  report.write_json(str(files['json']), results)
  report.write_csv(str(files['csv']), *_flat(results['rows']))
  whole_file.write(files['md'], f'{table}\n')
  points = _points(results['rows'])
  if len(points) <= _MOST_OVER_COST:
    plots.rows_over_cost(str(files['png']), points, title=title)
  else:
    plots_rows.rows_by_name(str(files['png']), points, compare=compare, title=title)
  return f'{table}\n\nWritten: {", ".join(map(str, files.values()))}'


def markdown(results: dict[str, Any]) -> str:
  """Formats `collect`'s results as a table in Markdown that is also legible on a terminal."""
  compare = results['compare']
  columns = {
    'seeds': lambda entry: str(len(entry['seeds'])),
    'top-1 %': lambda entry: _cell(entry.get('top1'), 100, 2),
    f'against {compare}, points': lambda entry: _cell(entry.get('difference'), 100, 2, sign='+'),
    'lightweight top-1 %': lambda entry: _cell(entry.get('lightweight_top1'), 100, 2),
    'MAdds (M)': lambda entry: _mean(entry.get('total_madds'), 1e-6, 2),
    'params (M)': lambda entry: _mean(entry.get('total_params'), 1e-6, 3),
    'early termination: top-1 %': lambda entry: _cell(entry.get('early_top1'), 100, 2),
    'change, points': lambda entry: _cell(entry.get('early_change'), 100, 2, sign='+'),
    'average MAdds (M)': lambda entry: _cell(entry.get('early_average_madds'), 1e-6, 2),
    'saving %': lambda entry: _cell(entry.get('early_saving'), 100, 1),
    'minutes': lambda entry: _cell(entry.get('seconds'), 1 / 60, 1),
  }
  rows = results['rows']
  cells = {header: [cell(entry) for entry in rows] for header, cell in columns.items()}
  cells = {'': [entry['row'] for entry in rows]} | {
    header: column for header, column in cells.items() if any(column)
  }
  notes = ['\N{PLUS-MINUS SIGN}: standard deviation over seeds']
  if any('difference' in entry for entry in rows):
    notes[0] += '; of differences, the standard error of the mean over pairs of equal seeds'
  notes[0] += '.'
  if any('early_change' in entry for entry in rows):
    notes.append(
      'Early termination is at the chosen threshold; change and saving are against both stages for '
      'every image.'
    )
  if results['unfinished']:
    notes.append(
      f'Partial: {results["finished"]} of {results["runs"]} runs are finished; not yet '
      f'{"; ".join(results["unfinished"])}.'
    )
  table = report.markdown(list(cells), zip(*cells.values(), strict=True))
  return '\n'.join([table, '', *notes])


def _metrics(run):
  """{metric: value} of a finished run."""
  evaluation = records.read(run, 'evaluation.json')
  final = evaluation['network' if 'network' in evaluation else 'specialist']
  metrics = {
    'top1': final['top1'],
    'total_madds': evaluation['total_madds'],
    'seconds': records.seconds(run),
  }
  if cost := records.read(run, 'cost.json'):
    metrics['total_params'] = cost['total_params']
  if 'lightweight' in evaluation:
    metrics['lightweight_top1'] = evaluation['lightweight']['top1']
  if chosen := evaluation.get('chosen'):
    metrics |= {
      'early_top1': chosen['top1'],
      'early_change': chosen['top1'] - final['top1'],
      'early_average_madds': chosen['average_madds'],
      'early_saving': 1 - chosen['average_madds'] / evaluation['total_madds'],
    }
  return metrics


def _spread(values):
  std = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return {'mean': float(np.mean(values)), 'std': std, 'values': values}


def _difference(entry, base):
  """The difference in top1 over pairs of runs with the same seed; None if there is no pair."""
  theirs = dict(zip(base['seeds'], base['top1']['values'], strict=True))
  ours = zip(entry['seeds'], entry['top1']['values'], strict=True)
  pairs = [top1 - theirs[seed] for seed, top1 in ours if seed in theirs]
  if not pairs:
    return None
  spread = _spread(pairs)
  std = spread.pop('std')
  return spread | {'standard_error': None if std is None else std / len(pairs) ** 0.5}


def _cell(spread, factor, digits, sign=''):
  """'81.20 ± 0.31', or '81.20' for one seed; '' if unknown."""
  if spread is None:
    return ''
  width = spread.get('std', spread.get('standard_error'))
  text = _mean(spread, factor, digits, sign)
  return text if width is None else f'{text} \N{PLUS-MINUS SIGN} {width * factor:.{digits}f}'


def _mean(spread, factor, digits, sign=''):
  return '' if spread is None else f'{spread["mean"] * factor:{sign}z,.{digits}f}'


def _flat(rows):
  """Header and lines of a table with a column for each mean and each spread."""
  columns = [(metric, 'std') for metric in METRICS] + [('difference', 'standard_error')]
  names = [name for metric, width in columns for name in (metric, f'{metric}_{width}')]
  lines = []
  for entry in rows:
    spreads = [(entry.get(metric) or {}, width) for metric, width in columns]
    cells = [value for s, width in spreads for value in (s.get('mean'), s.get(width))]
    lines.append([entry['row'], ' '.join(map(str, entry['seeds'])), *cells])
  return ['row', 'seeds', *names], lines


def _points(rows):
  """The picture's points: {row: {'final' and 'early': (MAdds, top-1, its deviation)}}."""
  points = {}
  for entry in rows:
    points[entry['row']] = {
      name: (entry[madds]['mean'], entry[top1]['mean'], entry[top1]['std'] or 0.0)
      for name, madds, top1 in (
        ('final', 'total_madds', 'top1'),
        ('early', 'early_average_madds', 'early_top1'),
      )
      if madds in entry
    }
  return points
