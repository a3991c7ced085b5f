"""Shared by the benchmarks: rows of ratios, and their table as text, JSON, Markdown and PNG."""

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import importlib.metadata
import os
import platform
from typing import NamedTuple

import jax
from matplotlib.figure import Figure
import numpy as np

from basisnet_jax import environment, whole_file
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import plots, report
from benchmarks.measure import Spread, spread

_LIBRARIES = ('jax', 'flax', 'numpy', 'tensorflow-cpu', 'torch', 'torchvision', 'timm')


class Row(NamedTuple):
  """One candidate in one case.

  Attributes:
    case: what is done, with sizes.
    name: the candidate.
    value: the measurement, in `unit`.
    unit: 'ms', 'MB', 'images/s', ...
    against: the candidate to compare with; '' if none.
    ratio: to that candidate.
    bar: what the ratio should be, such as 'at most 1.2'; '' if nothing is asked.
  """

  case: str
  name: str
  value: Spread
  unit: str
  against: str = ''
  ratio: Spread | None = None
  bar: str = ''

  @property
  def met(self) -> bool | None:
    """Whether the median ratio meets `bar`; None if there is no bar."""
    if not self.bar:
      return None
    kind, limit = self.bar.rsplit(' ', 1)
    return (
      self.ratio.median <= float(limit) if kind == 'at most' else self.ratio.median >= float(limit)
    )


def times(
  case: str,
  samples: Mapping[str, np.ndarray],
  against: str,
  asked: Mapping[tuple[str, str], str] | None = None,
) -> Iterator[Row]:
  """Makes rows from `measure.interleaved`'s samples: times per call, relative to `against`.

  `asked` is {(name, name to compare with): bar}; names without samples are ignored.
  """
  asked = dict(asked or {})
  for name, seconds in samples.items():
    value = spread(1e3 * seconds)
    others = {other: bar for (own, other), bar in asked.items() if own == name and other in samples}
    if name != against:
      others = {against: ''} | others
    if not others:
      yield Row(case, name, value, 'ms')
    for other, bar in others.items():
      yield Row(case, name, value, 'ms', other, spread(seconds / samples[other]), bar)


def main(
  name: str,
  about: str,
  cases: Callable[..., Iterable[Row]],
  *,
  data_dir: bool = False,
  asynchronous: bool = False,
) -> None:
  """Runs a benchmark from the command line: prints rows as they come, and writes the files.

  Args:
    name: of the files, in the folder `--output`.
    about: the title.
    cases: makes the rows; its argument is the number of seconds that each case may take.
    data_dir: whether it needs ImageNet; `cases` then also gets the folder.
    asynchronous: whether CPU devices work in threads of their own, unlike in training.
  """
  parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{name}', description=about)
  parser.add_argument('--output', default='benchmarks/results', help='folder of the files')
  parser.add_argument('--seconds', type=float, default=10.0, help='that each case is measured')
  if data_dir:
    parser.add_argument('--data_dir', required=True, help='where TFDS has prepared imagenet2012')
  options = parser.parse_args()
  environment.start_again()
  if not asynchronous:
    environment.dispatch_in_calling_thread()
  print(f'{about}\n{hardware()}', flush=True)
  rows, case = [], None
  try:
    for row in cases(options.seconds, *([options.data_dir] if data_dir else [])):
      if row.case != case:
        case = row.case
        print(f'\n{case}')
      print('  ' + _line(row), flush=True)
      rows.append(row)
  except KeyboardInterrupt:
    parser.exit(1, f'\nInterrupted: of {name} nothing is written.\n')
  except UserError as error:
    parser.exit(2, f'{error}\n')
  path = os.path.join(options.output, name)
  report.write_json(
    f'{path}.json', {'about': about, 'hardware': hardware(), 'rows': as_dicts(rows)}
  )
  whole_file.write(f'{path}.md', markdown(about, rows))
  plots.save(picture(about, rows), f'{path}.png')
  print(f'\nWritten: {path}.json, .md, .png')


def hardware() -> str:
  """The machine and the libraries, in one line."""
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  devices = jax.devices()
  accelerator = '' if devices[0].platform == 'cpu' else f'{len(devices)} {devices[0].device_kind}; '
  versions = ', '.join(f'{name} {version}' for name in _LIBRARIES if (version := _version(name)))
  return f'{accelerator}{cores} cores of {_processor()}; {versions}'


def as_dicts(rows: Sequence[Row]) -> list[dict]:
  """The rows for JSON."""
  return [
    row._asdict()
    | {'value': row.value._asdict(), 'ratio': row.ratio and row.ratio._asdict(), 'met': row.met}
    for row in rows
  ]


def markdown(about: str, rows: Sequence[Row]) -> str:
  """A table in Markdown: medians, with the quartiles of the ratios."""
  lines = [
    f'{about}. {hardware()}. Medians; in brackets the quartiles.',
    '',
    '| case | | | ratio | to | asked |',
    '| --- | --- | ---: | ---: | --- | --- |',
  ]
  case = None
  for row in rows:
    shown = '' if row.case == case else row.case
    case = row.case
    asked = row.bar and f'{row.bar}: {"yes" if row.met else "no"}'
    ratio = row.ratio and _ratio(row.ratio) or ''
    value = f'{_number(row.value.median)} {row.unit}'
    lines.append(f'| {shown} | {row.name} | {value} | {ratio} | {row.against} | {asked} |')
  return '\n'.join(lines) + '\n'


def picture(about: str, rows: Sequence[Row]) -> Figure:
  """Bars of all ratios on a logarithmic axis; those that miss their `bar` are marked."""
  rows = [row for row in rows if row.ratio]
  figure = Figure(figsize=(9, 1.2 + 0.24 * len(rows)), dpi=110, layout='constrained')
  axes = figure.add_subplot()
  for i, row in enumerate(rows):
    color = {None: '#0072B2', True: '#009E73', False: '#D55E00'}[row.met]
    low, high = row.ratio.median - row.ratio.low, row.ratio.high - row.ratio.median
    axes.barh(i, row.ratio.median - 1, left=1, color=color)
    axes.errorbar(row.ratio.median, i, xerr=[[low], [high]], color='#222222', linewidth=1)
  labels = [f'{row.case}: {row.name} / {row.against}' for row in rows]
  axes.set_yticks(range(len(rows)), labels, fontsize=7)
  axes.invert_yaxis()
  axes.set_xscale('log')
  axes.xaxis.set_major_formatter('{x:g}')
  axes.xaxis.set_minor_formatter('{x:g}')
  axes.tick_params(axis='x', which='both', labelsize=7)
  axes.axvline(1, color='#222222', linewidth=0.8)
  axes.set_xlabel('ratio (green: as asked, orange: not)')
  axes.set_title(about, fontsize=9)
  return figure


def _line(row):
  line = f'{row.name:<34}{_number(row.value.median):>9} {row.unit:<9}'
  if row.ratio:
    line += f' {_ratio(row.ratio)} of {row.against}'
  if row.bar:
    line += f'  {row.bar}: {"yes" if row.met else "NO"}'
  return line


def _ratio(ratio):
  return f'{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})'


def _number(value):
  return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def _version(name):
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return None


def _processor():
  try:
    with open('/proc/cpuinfo') as file:
      names = [line.split(':', 1)[1].strip() for line in file if line.startswith('model name')]
  except OSError:
    names = []
  return names[0] if names else platform.processor() or platform.machine()
