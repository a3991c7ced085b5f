"""Where the labels of a picture hide least: near their points, off curves, marks and other labels.

Lengths are in pixels unless said otherwise, and points are (x, y). A candidate is a place that a
label may take; its costs are weighed against its distance, which costs 1 for each 1/72 inch.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np

# In points (1/72 inch):
_BESIDE = 6.0  # A label this close to its point needs no line to it.
_LINE_FROM = 7.0  # Where a line begins, beside its point.
_DISTANCES = (_BESIDE, 14.0, 24.0, 36.0, 50.0)  # From a point to its label's box.
_NEAR = 6.0  # A line this close to a mark or a curve hides it.
_DEGREES = (90, 115, 65, 140, 40, 270, 295, 245, 320, 220, 165, 15, 345, 195)
_STARTS = 50  # Choices at random from which the search begins.


class Place(NamedTuple):
  """Where a label is.

  Attributes:
    offset: of its centre from its point, float `[2]`.
    line: both ends of the line that joins them, from the point, float `[2, 2]`; None if they are
      close enough to be read together.
  """

  offset: np.ndarray
  line: np.ndarray | None


def place(
  anchors: np.ndarray,
  halves: np.ndarray,
  frame: tuple[np.ndarray, np.ndarray],
  lines: Sequence[np.ndarray],
  marks: np.ndarray,
  unit: float,
) -> list[Place]:
  """Places labels so that they hide little.

  From many choices at random it moves one label at a time while that hides less, and it keeps the
  best choice found. The same arguments give the same places.

  Args:
    anchors: the labels' points, `[n, 2]`.
    halves: half of the labels' widths and heights, `[n, 2]`.
    frame: the lower left and upper right corners that they should stay between.
    lines: curves over x, `[points, 2]` each.
    marks: points that should stay visible, `[m, 2]`.
    unit: pixels in 1/72 inch.

  Returns:
    A place for each label.
  """
  across = np.arange(frame[0][0], frame[1][0], 0.5)
  heights = []
  for line in lines:
    line = line[np.argsort(line[:, 0], kind='stable')]
    heights.append(np.interp(across, *line.T, left=np.nan, right=np.nan))

  distances, degrees = (axis.ravel() for axis in np.meshgrid(_DISTANCES, _DEGREES, indexing='ij'))
  ways = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)
  # So that a label's box, not its centre, keeps the distance.
  reach = np.min(halves[:, None] / np.maximum(np.abs(ways), 1e-9), axis=-1)
  offsets = ways * (reach + distances * unit)[..., None]
  centres = anchors[:, None] + offsets
  low, high = centres - halves[:, None], centres + halves[:, None]

  # Large labels name what matters most, and hide most.
  weights = halves.sum(1, keepdims=True) / halves.sum(1).min()
  own = weights * distances + 0.02 * np.abs(degrees - 90)
  own += 1000 * (np.any(low < frame[0], -1) | np.any(high > frame[1], -1))
  own += 80 * np.sum(np.all((marks > low[:, :, None]) & (marks < high[:, :, None]), -1), -1)
  along = np.linspace(_LINE_FROM, np.maximum(distances, _LINE_FROM), 8, axis=1)
  joints = ways[:, None] * along[..., None] * unit  # [c, 8, 2], from the point.
  apart = distances > _BESIDE
  for i, anchor in enumerate(anchors):
    others = marks[np.hypot(*(marks - anchor).T) > _NEAR * unit]
    gaps = np.linalg.norm((anchor + joints)[:, :, None] - others, axis=-1)
    own[i] += 80 * apart * np.sum(np.any(gaps < _NEAR * unit, 1), -1)
    for height in heights:
      own[i] += 60 * weights[i] * _touch(across, height, low[i], high[i])
      x, y = (anchor + joints).T
      over = np.interp(x, across, height)  # NaN where there is no curve.
      own[i] += 5 * apart * np.sum(np.abs(y - over) < _NEAR * unit, 0)

  strokes = _strokes(anchors, centres, low, high)
  count, candidates = own.shape
  pairs = np.zeros((count, count, candidates, candidates))
  for i, j in itertools.combinations(range(count), 2):
    pairs[i, j] = _between(low, high, strokes, i, j)
    pairs[j, i] = pairs[i, j].T
  chosen = _least(own, pairs)
  return [
    Place(offsets[i, c], joints[c, [0, -1]] if apart[c] else None) for i, c in enumerate(chosen)
  ]


def _least(own, pairs):
  """Chooses a candidate for each label, `[n]`, so that the costs are low in sum.

  `own [n, c]` are its candidates' costs, `pairs [n, n, c, c]` those of two labels' candidates, 0
  for a label and itself.
  """
  random, everyone, found = np.random.default_rng(0), np.arange(len(own)), []
  for start in range(_STARTS):
    chosen, before = random.integers(own.shape[1], size=len(own)), None
    while not np.array_equal(chosen, before):
      before = chosen.copy()
      for i in random.permutation(len(own)):
        cost = own[i] + pairs[i, everyone, :, chosen].sum(0)
        best = np.argmin(cost)
        if cost[best] < cost[chosen[i]]:
          chosen[i] = best
    hidden = pairs[everyone[:, None], everyone, chosen[:, None], chosen].sum() / 2
    found.append((hidden + own[everyone, chosen].sum(), start, chosen))
  return min(found)[-1]


def _touch(across, height, low, high):
  """Whether a curve, of this height `[w]` over `across`, goes through boxes `[c, 2]`; `[c]`."""
  under = (across > low[:, :1]) & (across < high[:, :1]) & ~np.isnan(height)
  lowest = np.where(under, height, np.inf).min(1)
  highest = np.where(under, height, -np.inf).max(1)
  return (lowest < high[:, 1]) & (highest > low[:, 1])


def _strokes(anchors, centres, low, high):
  """The lines that others should not cross: to the point, and both diagonals; `[n, c, 3, 2, 2]`."""
  joint = np.stack([np.broadcast_to(anchors[:, None], centres.shape), centres], -2)
  left = np.stack([low[..., 0], high[..., 1]], -1)
  right = np.stack([high[..., 0], low[..., 1]], -1)
  return np.stack([joint, np.stack([low, high], -2), np.stack([left, right], -2)], -3)


def _between(low, high, strokes, i, j):
  """What candidates of labels i and j hide of each other, `[c, c]`."""
  overlap = np.all((low[i][:, None] < high[j]) & (high[i][:, None] > low[j]), -1)
  a, b = strokes[i][:, None, :, None, 0], strokes[i][:, None, :, None, 1]
  c, d = strokes[j][:, None, :, 0], strokes[j][:, None, :, 1]
  cross = (_side(a, b, c) * _side(a, b, d) < 0) & (_side(c, d, a) * _side(c, d, b) < 0)
  return 500.0 * overlap + 200.0 * cross.sum((-1, -2))


def _side(a, b, c):
  """Above 0 if c is to the left of the line from a to b, below 0 if to the right."""
  along, to = b - a, c - a
  return along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]
