"""Whether labels and lines of a picture get in each other's way."""

import numpy as np


def diagonals(low, high):
  """The two diagonals of a box, as pairs of points, from its lower left and upper right corners."""
  return (low, high), ((low[0], high[1]), (high[0], low[1]))


def meet(a, b, c, d) -> bool:
  """Whether the line from a to b crosses that from c to d; points (x, y)."""
  return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def within(heights: np.ndarray, low: float, high: float) -> bool:
  """Whether a curve's heights `[n]`, NaN where it has none, reach between low and high."""
  heights = heights[~np.isnan(heights)]
  return bool(heights.size and heights.min() < high and heights.max() > low)


def _side(a, b, c):
  """Above 0 if c is to the left of the line from a to b, below 0 if to the right."""
  return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
