"""Reliability diagrams: how often answers at each confidence are right."""

from collections.abc import Mapping

from matplotlib.figure import Figure
import numpy as np

from basisnet_jax.evaluation import plots
from basisnet_jax.evaluation.calibration import Reliability

_BARS = '#0072B2'
_BEFORE = '#D55E00'
_INK = '#222222'
_FAINT = '#8A8A8A'


def reliability(stages: Mapping[str, tuple[Reliability, Reliability | None]]) -> Figure:
  """Draws a diagram for each stage: accuracy over confidence, and below it the share of images.

  Args:
    stages: {name: (before calibration, after it or None if there was none)}.
  """
  figure = Figure(figsize=(4.2 * len(stages), 4.3), dpi=150, facecolor='white')
  grid = figure.add_gridspec(
    2, len(stages), height_ratios=(3.2, 1), hspace=0.12, wspace=0.3,
    left=0.56 / figure.get_figwidth(), right=1 - 0.12 / figure.get_figwidth(),
    bottom=0.13, top=0.86,
  )  # fmt: skip
  for column, (name, (before, after)) in enumerate(stages.items()):
    upper = figure.add_subplot(grid[0, column])
    lower = figure.add_subplot(grid[1, column], sharex=upper)
    _diagram(upper, before, after)
    _shares(lower, before if after is None else after)
    upper.set_title(name, fontsize=11, fontweight='bold', color=_INK, loc='left', pad=22)
    if column == 0:
      upper.set_ylabel('share that is right (%)', color=_INK, fontsize=9.5)
      lower.set_ylabel('images (%)', color=_INK, fontsize=9.5)
  return figure


def _diagram(axes, before, after):
  shown = before if after is None else after
  width = 100 / len(shown.images)
  centres = width * (np.arange(len(shown.images)) + 0.5)
  label = 'calibrated' if after is not None else 'as trained'
  axes.bar(
    centres, 100 * np.nan_to_num(shown.accuracy), 0.86 * width, color=_BARS, zorder=2,
    label=f'{label}, ECE {100 * shown.ece:.1f}%',
  )  # fmt: skip
  if after is not None:
    known = before.images > 0
    axes.plot(
      100 * before.confidence[known], 100 * before.accuracy[known], 'o-', color=_BEFORE,
      ms=4.5, lw=1.4, mec='white', mew=0.8, zorder=4, clip_on=False,
      label=f'before, {100 * before.ece:.1f}%',
    )  # fmt: skip
  axes.plot([0, 100], [0, 100], color=_INK, lw=1, ls=(0, (4, 3)), zorder=3)
  axes.set_xlim(0, 100)
  axes.set_ylim(0, 100)
  axes.legend(
    loc='lower left', bbox_to_anchor=(-0.02, 1.0), ncols=2, frameon=False, fontsize=8.5,
    handlelength=1.2, columnspacing=1.0, handletextpad=0.5, borderpad=0.2, labelcolor=_INK,
  )  # fmt: skip
  axes.tick_params(labelbottom=False)
  plots.quiet(axes, pad=3.5)


def _shares(axes, shown):
  width = 100 / len(shown.images)
  centres = width * (np.arange(len(shown.images)) + 0.5)
  shares = 100 * shown.images / max(1, shown.images.sum())
  axes.bar(centres, shares, 0.86 * width, color=_FAINT, zorder=2)
  axes.set_ylim(0, max(1, 1.1 * shares.max()))
  axes.set_xlabel('confidence, the largest softmax (%)', color=_INK, fontsize=9.5)
  axes.locator_params(axis='y', nbins=3)
  plots.quiet(axes, pad=3.5)
