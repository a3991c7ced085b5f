"""Costs of many networks in one table, beside the published figures."""

from collections.abc import Callable, Sequence
import os
from typing import NamedTuple

from basisnet_jax import models, whole_file
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import plots, report
from basisnet_jax.models import cost as cost_lib
from basisnet_jax.models import published

_NUM_CLASSES = 1000  # ImageNet's, for which all published numbers are.
_RESOLUTION = 224  # For networks without a published number.


class Row(NamedTuple):
  """A network at one size; costs in millions, top-1 in percent, None if unknown.

  Attributes:
    network: its name (`models.create`), or a recipe's.
    width: multiplier of the channels.
    resolution: pixels.
    madds, params: counted here.
    madds_with_elementwise: `madds` plus pooling, gates and shortcuts, as some publications count.
    published_madds, published_params, top1: from `source`.
    source: where these were published.
  """

  network: str
  width: float
  resolution: int
  madds: float | None
  madds_with_elementwise: float | None
  params: float | None
  published_madds: float | None = None
  published_params: float | None = None
  top1: float | None = None
  source: str = ''


def sizes(names: Sequence[str]) -> list[published.Result]:
  """Lists each size of the networks for which something was published.

  Args:
    names: as `models.create` takes them, or only 'all', the registry, which puts the paper's
      BasisNet first. A network without published numbers has one size: width 1 and 224 pixels.

  Raises:
    UserError: a network has no size without a recipe.
  """
  found = []
  if list(names) == ['all']:
    names = [name for name in models.names() if name not in ('basisnet', 'cascade')]
    found = [result for result in published.RESULTS if result.network == 'basisnet']
  for name in names:
    if name in ('basisnet', 'cascade'):
      raise UserError(f'{name!r} needs a recipe: name it with --config, and it has a row too.')
    results = [result for result in published.RESULTS if result.network == name]
    found += results or [published.Result(name, 1.0, _RESOLUTION, None, None, None, '')]
  return found


def rows(names: Sequence[str], on_row: Callable[[int], None] = lambda done: None) -> list[Row]:
  """Counts networks at each of their `sizes`.

  Args:
    names: as in `sizes`.
    on_row: called after each row with the number of rows done, for a progress line.

  Raises:
    UserError: as in `sizes`, or there is no such network.
  """
  table = []
  for result in sizes(names):
    name, width, resolution, *known = result
    if name == 'basisnet':
      table.append(Row('basisnet (the paper)', width, resolution, None, None, None, *known))
    else:
      network = models.create(name, num_classes=_NUM_CLASSES, width=width)
      table.append(row(name, width, resolution, cost_lib.count(network, resolution), *known))
    on_row(len(table))
  return table


def row(name: str, width: float, resolution: int, counted: cost_lib.Cost, *known) -> Row:
  """Makes a row from a count and the published numbers (the last four fields of `Row`), if any."""
  madds, params = counted.total_madds / 1e6, counted.total_params / 1e6
  everything = madds + counted.elementwise_madds / 1e6
  return Row(name, width, resolution, madds, everything, params, *known)


def write(folder: str, table: Sequence[Row]) -> list[str]:
  """Writes cost_table.csv, .md and .png; returns their paths."""
  paths = [os.path.join(folder, f'cost_table.{kind}') for kind in ('csv', 'md', 'png')]
  report.write_csv(paths[0], Row._fields, table)
  whole_file.write(paths[1], markdown(table) + '\n')
  plots.cost_comparison(paths[2], _families(table))
  return paths


def markdown(table: Sequence[Row]) -> str:
  """Formats the table in Markdown that is also legible on a terminal."""
  header = ['network', 'width', 'pixels', 'MAdds (M)', 'elementwise too', 'params (M)']
  header += ['published MAdds', 'params', 'top-1 %', 'source']
  cells = [
    [
      r.network,
      f'{r.width:g}',
      str(r.resolution),
      '' if r.madds is None else f'{r.madds:,.2f}',
      '' if r.madds_with_elementwise is None else f'{r.madds_with_elementwise:,.2f}',
      '' if r.params is None else f'{r.params:,.3f}',
      *('' if value is None else f'{value:g}' for value in r[6:9]),
      r.source or '',
    ]
    for r in table
  ]
  return report.markdown(header, cells, texts=(0, len(header) - 1))


def _families(table):
  """{family: [(MAdds in millions, published top-1 in percent)]} for rows that have both."""
  families = {}
  for r in table:
    if r.top1 is not None:
      families.setdefault(_family(r.network), []).append((r.madds or r.published_madds, r.top1))
  return families


def _family(network):
  """'fbnet_v3_a' -> 'fbnet_v3': variants of a family differ only in size."""
  families = (
    'efficientnet_lite', 'efficientnet', 'fbnet_v3', 'once_for_all', 'resnet', 'mobilenet_v3',
  )  # fmt: skip
  for family in families:
    if network.startswith(family):
      return family
  return network
