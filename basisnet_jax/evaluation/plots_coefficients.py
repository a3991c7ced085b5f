"""Heat maps of the coefficients: which bases each layer uses, and for which classes."""

from collections.abc import Sequence
import math
import warnings

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np

from basisnet_jax.evaluation.coefficients import Statistics

_MAPS = 4  # Layers whose coefficients are shown by class, evenly spaced.
_COLOURS = 'YlGnBu'
_BARS = '#0072B2'
_INK = '#222222'
_ROW = 0.17  # Inches for a row with a name.
_HEIGHTS = (2.6, 8.6)  # Inches; if more rows than fit, not all have a name.
_LONGEST_NAME = 18


class _Figure(Figure):
  """Draws letters that the font lacks as boxes, silently: classes are named in any script."""

  def draw(self, renderer):
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', 'Glyph .* missing from font')
      super().draw(renderer)


def coefficient_maps(
  statistics: Statistics, layers: Sequence[str], label_names: Sequence[str], title: str
) -> Figure:
  """Draws the mean coefficients by layer and, for a few layers, by class.

  Beside the first map are the number of bases that each layer uses (`effective_bases`) and how much
  its coefficients depend on the image (`input_dependence`). Classes that use the bases similarly
  are neighbours; classes without images are left out.

  Args:
    statistics: of the images.
    layers: paths of the layers, in the order of the coefficients.
    label_names: names of the classes.
    title: shown above the picture.
  """
  by_class = statistics.class_means[statistics.images > 0]
  names = [label_names[i] for i in np.flatnonzero(statistics.images)]
  shown = _shown(by_class)
  order = similar_together(by_class[:, shown].reshape(len(names), -1))
  num_bases = statistics.mean.shape[1]

  low, high = _HEIGHTS
  height = min(max(_ROW * max(len(layers), len(names)), low), high)
  map_width = min(max(0.14 * num_bases, 1.0), 2.2)
  widths = [map_width, 0.9, 0.9, *[map_width] * len(shown)]
  figure = _Figure((sum(widths) + 3.6, height + 1.3), 150, facecolor='white', layout='constrained')
  FigureCanvasAgg(figure)
  figure.suptitle(title, x=0.012, ha='left', fontsize=12, fontweight='bold', color=_INK)
  axes = figure.subplots(1, len(widths), width_ratios=widths)
  # Uniform coefficients, 1 / K, are never darker than half way.
  largest = max(statistics.mean.max(), by_class[:, shown].max(), min(1, 2 / num_bases))
  colours = {'vmin': 0, 'vmax': largest}

  image = _heat_map(axes[0], statistics.mean, 'all images', **colours)
  _name_rows(axes[0], [_short(layer) for layer in layers], height)
  _bars(axes[1], statistics.effective_bases, 'bases\nin use', (0, num_bases))
  _bars(axes[2], 100 * statistics.input_dependence, 'depends on\nimage (%)', (0, 100))
  for i, (axis, layer) in enumerate(zip(axes[3:], shown, strict=True)):
    _heat_map(axis, by_class[order, layer], _short(layers[layer], lines=True), **colours)
    if i == 0:
      _name_rows(axis, [_cut(names[c]) for c in order], height)
      axis.set_ylabel(f'{len(names):,} classes, those alike together', fontsize=9, color=_INK)
  bar = figure.colorbar(image, ax=axes, fraction=0.02, pad=0.01, aspect=30)
  bar.set_label('mean coefficient', fontsize=9, color=_INK)
  bar.outline.set_visible(False)
  bar.ax.tick_params(length=0, labelsize=8)
  return figure


def pixels(figure: Figure) -> np.ndarray:
  """A figure as uint8 `[height, width, 3]`."""
  figure.canvas.draw()
  return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def similar_together(rows: np.ndarray) -> np.ndarray:
  """Orders rows so that similar ones are neighbours.

  Rows are split in two at their mean along the direction in which they differ most, then each part
  again (principal direction divisive partitioning, Boley 1998).
  """

  def parted(indices, before):
    if len(indices) < 3:
      return indices
    centred = rows[indices] - rows[indices].mean(0)
    direction = np.linalg.svd(centred, full_matrices=False)[2][0]
    direction *= -1 if direction @ before < 0 else 1  # Oriented as before.
    along = centred @ direction
    indices, cut = indices[np.argsort(along, kind='stable')], np.count_nonzero(along < 0)
    if cut in (0, len(indices)):
      return indices
    return np.concatenate([parted(indices[:cut], direction), parted(indices[cut:], direction)])

  return parted(np.arange(len(rows)), np.ones(rows.shape[1]))


def _shown(by_class):
  """Which layers have a map by class; only one if all classes have the same coefficients."""
  layers = by_class.shape[1]
  if np.ptp(by_class, axis=1).max() < 1e-6:
    return np.array([0])
  return np.unique(np.linspace(0, layers - 1, _MAPS).round().astype(int))


def _heat_map(axes, values, title, **colours):
  image = axes.imshow(values, aspect='auto', cmap=_COLOURS, **colours)
  axes.set_title(title, fontsize=9, color=_INK)
  num_bases = values.shape[1]
  every = math.ceil(num_bases / 8)
  axes.set_xticks(range(0, num_bases, every), range(1, num_bases + 1, every))
  axes.set_xlabel('basis', fontsize=9, color=_INK)
  _plain(axes)
  return image


def _name_rows(axes, names, height):
  # Rows with names are at least about a row's height apart.
  every = math.ceil(len(names) * _ROW * 0.85 / height)
  axes.set_yticks(range(0, len(names), every), names[::every])
  axes.tick_params(axis='y', labelleft=True)


def _bars(axes, values, title, limits):
  axes.barh(range(len(values)), values, 0.75, color=_BARS)
  axes.set_ylim(len(values) - 0.5, -0.5)
  axes.set_xlim(limits)
  ends = axes.set_xticks(limits, [str(limit) for limit in limits])
  for end, side in zip(ends, ('left', 'right'), strict=True):  # Or neighbours' labels would meet.
    end.label1.set_horizontalalignment(side)
  axes.set_title(title, fontsize=9, color=_INK)
  axes.grid(axis='x', color='#E6E6E6', lw=0.8)
  axes.set_axisbelow(True)
  _plain(axes)


def _plain(axes):
  axes.tick_params(length=0, labelsize=8, labelleft=False)
  for side in axes.spines.values():
    side.set_visible(False)


def _short(layer, lines=False):
  """A layer's path without its uninformative ending; with `lines`, on two lines."""
  path = layer.removesuffix('/conv')
  return path.replace('/', '\n', 1) if lines else path


def _cut(name):
  return (
    name if len(name) <= _LONGEST_NAME else f'{name[: _LONGEST_NAME - 1]}\N{HORIZONTAL ELLIPSIS}'
  )
