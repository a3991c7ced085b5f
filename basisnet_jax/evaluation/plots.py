"""Pictures of accuracy over cost, for early termination, for many networks and for a sweep."""

from collections.abc import Mapping, Sequence
import io
import math

from matplotlib import colormaps, patheffects, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
import numpy as np

from basisnet_jax import whole_file
from basisnet_jax.evaluation import label_placement

# From Okabe and Ito's palette, distinguishable with all common kinds of colour vision.
_CURVE = '#0072B2'
_LIGHTWEIGHT = '#E69F00'
_SPECIALIST = '#D55E00'
_INK = '#222222'
_FAINT = '#8A8A8A'
_CHOSEN = '#009E73'
_SIZE = (7.2, 4.5)  # Inches.
_LEFT = 0.11  # Where the axes begin, as a share of the width.
_SMALL_SIZE = (5.0, 3.9)  # For a column of a page.
_LABEL_AWAY = 38.1  # Points from the axes to the label of the accuracy; 100.00 fits between.
_DPI = 200  # Twice the usual, for sharp screens.
_SAME_POINT = 8.0  # Distance in points below which thresholds share one label.
_LEAST_SPAN = 1.0  # Percent; a flatter curve is drawn flat, not magnified to its noise.


def cost_accuracy(
  path: str,
  curve: dict[str, Sequence[float]],
  points: Sequence[dict[str, float]],
  *,
  lightweight: tuple[float, float],
  specialist: tuple[float, float],
  title: str,
  chosen: dict[str, float] | None = None,
) -> None:
  """Draws accuracy over average cost into a PNG of 1440 by 900 pixels.

  Args:
    path: of the PNG, local or gs://.
    curve: `early_exit.cost_accuracy_curve`'s result.
    points: `early_exit.operating_points`' result; each is marked with its threshold.
    lightweight: (MAdds, top-1 as a fraction) of the first stage alone.
    specialist: the same for always running both stages.
    title: shown above the picture.
    chosen: the chosen point, if there is one.
  """
  figure = _cost_accuracy(_SIZE, curve, points, lightweight, specialist, title, chosen, None)
  save(figure, path)


def cost_accuracy_svg(
  curve: dict[str, Sequence[float]],
  points: Sequence[dict[str, float]],
  *,
  lightweight: tuple[float, float],
  specialist: tuple[float, float],
  chosen: dict[str, float] | None,
  oracle: dict[str, Sequence[float]],
) -> bytes:
  """`cost_accuracy` for a page: no title, and with the bound of `early_exit.oracle_curve`."""
  return svg(
    _cost_accuracy(_SMALL_SIZE, curve, points, lightweight, specialist, '', chosen, oracle)
  )


def save(figure: Figure, path: str) -> None:
  """Writes a figure as PNG, local or to gs://."""
  file = io.BytesIO()
  figure.savefig(file, format='png')
  whole_file.write(path, file.getvalue())


def svg(figure: Figure) -> bytes:
  """A figure as SVG, in which text stays text."""
  file = io.BytesIO()
  # With a fixed salt and no date, the same figure gives the same bytes.
  with rc_context({'svg.fonttype': 'none', 'svg.hashsalt': 'basisnet_jax'}):
    figure.savefig(file, format='svg', metadata={'Date': None, 'Creator': None})
  return file.getvalue()


def _cost_accuracy(size, curve, points, lightweight, specialist, title, chosen, oracle):
  figure = Figure(figsize=size, dpi=_DPI, facecolor='white')
  canvas = FigureCanvasAgg(figure)
  inside = (_LEFT, 0.125, 0.975 - _LEFT, 0.715) if title else (0.14, 0.135, 0.835, 0.725)
  axes = figure.add_axes(inside)
  line = np.stack([np.divide(curve['average_madds'], 1e6), np.multiply(curve['top1'], 100)], 1)
  marks = np.array([(p['average_madds'] / 1e6, p['top1'] * 100) for p in points]).reshape(-1, 2)
  ends = np.array([(madds / 1e6, top1 * 100) for madds, top1 in (lightweight, specialist)])
  bound = np.empty((0, 2))
  if oracle is not None:
    bound = np.stack([np.divide(oracle['average_madds'], 1e6), np.multiply(oracle['top1'], 100)], 1)
  _frame(axes, np.concatenate([line, bound]), ends)

  axes.plot(*line.T, color=_CURVE, lw=2, zorder=3, label='early termination')
  if len(marks):
    style = dict(ms=6.2, mec='white', mew=1, zorder=5, label='confidence threshold')
    axes.plot(*marks.T, 'o', color=_CURVE, **style)
  axes.plot(*ends.T, color=_FAINT, lw=1.2, ls=(0, (4, 3)), zorder=2, label='exit at random')
  if oracle is not None:
    axes.plot(*bound.T, color=_FAINT, lw=1.2, ls=':', zorder=2, label='oracle')
  if chosen is not None:
    star = np.array([[chosen['average_madds'] / 1e6, chosen['top1'] * 100]])
    axes.plot(
      *star.T, '*', color=_CHOSEN, ms=17, mec='white', mew=1.2, zorder=6, label='chosen threshold'
    )
    if (threshold := chosen['threshold']) <= 1:  # Else nobody exits: the specialist's label does.
      rounded = float(f'{threshold:.3g}')
      marks = np.concatenate([marks, star])
      points = [*points, chosen | {'threshold': rounded if rounded < 1 else threshold}]
  for end, colour in zip(ends, (_LIGHTWEIGHT, _SPECIALIST), strict=True):
    axes.plot(*end, 'o', color=colour, ms=12, mec='white', mew=1.2, zorder=4)
  axes.legend(
    loc='lower left',
    bbox_to_anchor=(-0.008, 1.0),
    ncols=4 if title else 3,
    frameon=False,
    fontsize=9,
    handlelength=1.9,
    columnspacing=1.5,
    handletextpad=0.6,
    borderpad=0.2,
    labelcolor=_INK,
  )
  figure.text(_LEFT, 0.935, title, fontsize=13, fontweight='bold', color=_INK)

  canvas.draw()  # Sizes in pixels are known only after this.
  labels = [
    (end, f'{name} alone\n{end[1]:.1f}%, {_short(end[0])} M')
    for name, end in zip(('lightweight', 'specialist'), ends, strict=True)
  ]
  labels += _thresholds(axes, points, marks)
  lines = [line, ends] if oracle is None else [line, ends, bound]
  _annotate(canvas, axes, labels, lines, np.concatenate([ends, marks]))
  return figure


def cost_comparison(path: str, families: Mapping[str, Sequence[tuple[float, float]]]) -> None:
  """Draws published accuracy over cost, one line per family, into a PNG of 1260 by 780 pixels.

  Args:
    path: of the PNG, local or gs://.
    families: {name: [(MAdds in millions, top-1 in percent)]}; may be empty.
  """
  figure = Figure(figsize=(8.4, 5.2), dpi=150, facecolor='white', layout='constrained')
  axes = figure.add_subplot()
  for i, (family, points) in enumerate(families.items()):
    axes.plot(
      *zip(*sorted(points), strict=True),
      marker='os^DvP*X<>hp'[i % 12],
      ms=6,
      lw=1.4,
      color=colormaps['tab20'](2 * i % 19),  # First its strong colours, then the pale ones.
      label=family,
    )
  axes.set_xscale('log')
  low, high = axes.get_xlim()
  ticks = [t for t in (50, 100, 200, 300, 400, 600, 1000, 2000, 4000) if low <= t <= high]
  axes.set_xticks(ticks, [str(tick) for tick in ticks])
  axes.minorticks_off()
  axes.set_xlabel('MAdds per image (millions)')
  axes.set_ylabel('published top-1 on ImageNet (%)')
  axes.grid(color='#E6E6E6', lw=0.8)
  axes.set_axisbelow(True)
  for side in ('top', 'right'):
    axes.spines[side].set_visible(False)
  if families:
    figure.legend(frameon=False, fontsize=9, loc='outside right upper')
  else:
    axes.text(0.5, 0.5, 'nothing was published of these', ha='center', transform=axes.transAxes)
  save(figure, path)


def rows_over_cost(
  path: str, rows: Mapping[str, Mapping[str, tuple[float, float, float]]], *, title: str
) -> None:
  """Draws a sweep's rows, accuracy over cost with error bars, into a PNG of 1440 by 900 pixels.

  Args:
    path: of the PNG, local or gs://.
    rows: {name: {'final': (MAdds, top-1, its standard deviation)}}, the last two as fractions.
      'early' beside 'final' is the same with early termination; a line joins the two.
    title: shown above the picture.
  """
  figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor='white')
  canvas = FigureCanvasAgg(figure)
  axes = figure.add_axes((_LEFT, 0.125, 0.975 - _LEFT, 0.715))
  scale = np.array([1e-6, 100.0, 100.0])
  final = np.array([row['final'] for row in rows.values()]) * scale
  pairs = [
    np.array([row['early'], row['final']]) * scale for row in rows.values() if 'early' in row
  ]
  early = np.array([pair[0] for pair in pairs]).reshape(-1, 3)
  points = np.concatenate([final, early])
  bars = np.concatenate([points[:, :2] + [0, t] * points[:, 2:] for t in np.linspace(-1, 1, 9)])
  _frame(axes, bars, points[:, :2])
  axes.set_ylabel('top-1 accuracy (%), mean and standard deviation', color=_INK, fontsize=10)

  for kind, colour, found in (
    ('in full', _SPECIALIST, final),
    ('with early termination', _CURVE, early),
  ):
    if len(found):
      style = dict(ms=7, mec='white', mew=1, elinewidth=1.4, capsize=3, zorder=4)
      axes.errorbar(*found.T[:2], found[:, 2], fmt='o', color=colour, label=kind, **style)
  for pair in pairs:
    axes.plot(*pair.T[:2], color=_FAINT, lw=1.2, ls=(0, (4, 3)), zorder=2)
  axes.legend(
    loc='lower left',
    bbox_to_anchor=(-0.008, 1.0),
    ncols=2,
    frameon=False,
    fontsize=9,
    labelcolor=_INK,
  )
  figure.text(_LEFT, 0.935, title, fontsize=13, fontweight='bold', color=_INK)
  canvas.draw()
  labels = [(point[:2], name.replace('_', ' ')) for name, point in zip(rows, final, strict=True)]
  _annotate(canvas, axes, labels, [pair[:, :2] for pair in pairs], bars)
  save(figure, path)


def _frame(axes, line, ends):
  """Sets limits, ticks, grid and axis titles."""
  (low, high), (left, right) = (
    (values.min(), values.max())
    for values in (np.concatenate([line[:, 1], ends[:, 1]]), np.concatenate([line, ends])[:, 0])
  )
  middle, span = (low + high) / 2, max(high - low, _LEAST_SPAN)
  axes.set_ylim(middle - 0.75 * span, middle + 0.75 * span)
  width = right - left or right or 1.0
  # Zero cost belongs in the picture if it is near.
  axes.set_xlim(0 if left < right / 4 else left - 0.1 * width, right + 0.1 * width)
  axes.set_xlabel('average MAdds per image (millions)', color=_INK, fontsize=10, labelpad=6)
  axes.set_ylabel('top-1 accuracy (%)', color=_INK, fontsize=10)
  points = axes.get_window_extent().width / axes.figure.dpi * 72
  axes.yaxis.set_label_coords(-_LABEL_AWAY / points, 0.5)
  ticks = MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(*axes.get_ylim())
  ticks = [y for y in ticks if axes.get_ylim()[0] <= y <= min(100, axes.get_ylim()[1])]
  decimals = max(len(f'{y:g}'.partition('.')[2]) for y in ticks)
  axes.set_yticks(ticks, [f'{y:.{decimals}f}' for y in ticks])
  quiet(axes)


def quiet(axes, pad: float = 6) -> None:
  """Sets a light grid and small labels, `pad` points from the axes, so that the data stands out."""
  axes.grid(color='#E6E6E6', lw=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(length=0, pad=pad, labelsize=9, labelcolor='#555555')
  for side in ('top', 'right', 'left'):
    axes.spines[side].set_visible(False)
  axes.spines['bottom'].set_color('#BBBBBB')


def _thresholds(axes, points, marks):
  """Returns (position, text) for each group of thresholds that nearly coincide in the picture."""
  order = sorted(range(len(points)), key=lambda i: points[i]['threshold'])
  pixels = axes.transData.transform(marks) if len(marks) else marks
  near = _SAME_POINT * _DPI / 72
  groups = []
  for i in order:
    if groups and math.dist(pixels[groups[-1][0]], pixels[i]) < near:
      groups[-1].append(i)
    else:
      groups.append([i])
  labels = []
  for group in groups:
    first, last = (f'{points[i]["threshold"]:g}' for i in (group[0], group[-1]))
    text = first if len(group) == 1 else f'{first}\N{EN DASH}{last}'
    labels.append((marks[group[len(group) // 2]], text))
  return labels


def _annotate(canvas, axes, labels, lines, marks):
  """Writes labels where they hide least, and joins those that are apart with their points."""
  renderer, to_pixels = canvas.get_renderer(), axes.transData.transform
  unit, frame = _DPI / 72, axes.get_window_extent()  # Pixels in a point.
  texts = [
    axes.annotate(
      string,
      position,
      xytext=(0, 0),
      textcoords='offset points',
      ha='center',
      va='center',
      fontsize=9,
      color=_INK,
      linespacing=1.25,
      zorder=7,
      path_effects=[patheffects.withStroke(linewidth=2.5, foreground='white')],
    )
    for position, string in labels
  ]
  anchors = np.array([to_pixels(position) for position, _ in labels])
  halves = np.array([text.get_window_extent(renderer).size for text in texts]) / 2 + 2 * unit
  pixels = [to_pixels(line) for line in lines]
  places = label_placement.place(
    anchors, halves, (frame.min, frame.max), pixels, to_pixels(marks), unit
  )
  for text, anchor, (offset, line) in zip(texts, anchors, places, strict=True):
    text.set_position(offset / unit)
    if line is not None:
      ends = axes.transData.inverted().transform(anchor + line)
      axes.plot(*ends.T, color=_FAINT, lw=0.8, zorder=6)


def _short(millions):
  return f'{millions:.0f}' if millions >= 100 else f'{millions:.3g}'
