"""A picture of a sweep with many rows: the accuracy of each, by name."""

from collections.abc import Mapping

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from basisnet_jax.evaluation import plots

_FULL = '#D55E00'
_EARLY = '#0072B2'
_INK = '#222222'
_ROW = 0.23  # Inches.


def rows_by_name(
  path: str,
  rows: Mapping[str, Mapping[str, tuple[float, float, float]]],
  *,
  compare: str | None,
  title: str,
) -> None:
  """Draws a sweep's rows below each other into a PNG.

  Args:
    path: of the PNG, local or gs://.
    rows: as in `plots.rows_over_cost`.
    compare: row whose accuracy, with its standard deviation, is a line through all; None: no line.
    title: shown above the picture.
  """
  height = 1.3 + _ROW * len(rows)
  figure = Figure(figsize=(7.2, height), dpi=200, facecolor='white')
  FigureCanvasAgg(figure)
  axes = figure.add_axes((0.27, 0.6 / height, 0.7, (height - 1.3) / height))
  if compare in rows:
    _, mean, deviation = rows[compare]['final']
    axes.axvspan(100 * (mean - deviation), 100 * (mean + deviation), color='#EFEFEF', lw=0)
    axes.axvline(100 * mean, color='#BBBBBB', lw=1)
  for kind, label, colour, shift in (
    ('final', 'in full', _FULL, -0.12),
    ('early', 'with early termination', _EARLY, 0.12),
  ):
    found = [(row[kind], i) for i, row in enumerate(rows.values()) if kind in row]
    if found:
      axes.errorbar(
        [100 * mean for (_, mean, _), _ in found],
        [i + shift for _, i in found],
        xerr=[100 * deviation for (_, _, deviation), _ in found],
        fmt='o', color=colour, label=label, ms=5.5, mec='white', mew=0.8, elinewidth=1.3, capsize=2,
      )  # fmt: skip
  axes.set_yticks(range(len(rows)), [name.replace('_', ' ') for name in rows])
  axes.set_ylim(len(rows) - 0.4, -0.6)
  axes.set_xlabel('top-1 accuracy (%), mean and standard deviation', color=_INK, fontsize=10)
  plots.quiet(axes)
  axes.tick_params(axis='y', labelcolor=_INK)
  axes.legend(
    loc='lower left', bbox_to_anchor=(-0.01, 1.0), ncols=2, frameon=False, fontsize=9,
    labelcolor=_INK,
  )  # fmt: skip
  figure.text(0.02, 1 - 0.3 / height, title, fontsize=13, fontweight='bold', color=_INK)
  plots.save(figure, path)
