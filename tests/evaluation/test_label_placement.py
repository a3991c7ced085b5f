"""Labels of pictures: what hides least is found, and lines that cross are seen."""

import itertools

import numpy as np
import pytest

from basisnet_jax.evaluation import label_placement


@pytest.mark.parametrize('seed', range(8))
def test_the_cheapest_choice_is_found(seed):
  random = np.random.default_rng(seed)
  own, pairs = random.uniform(0, 100, (4, 6)), np.zeros((4, 4, 6, 6))
  for i, j in itertools.combinations(range(4), 2):
    pairs[i, j] = 500.0 * (random.uniform(size=(6, 6)) < 0.5)
    pairs[j, i] = pairs[i, j].T

  def total(chosen):
    two = itertools.combinations(range(4), 2)
    hidden = sum(pairs[i, j][chosen[i], chosen[j]] for i, j in two)
    return hidden + sum(own[i, c] for i, c in enumerate(chosen))

  found = label_placement._least(own, pairs)
  assert total(found) == min(map(total, itertools.product(range(6), repeat=4)))


def test_a_label_keeps_off_a_mark_a_curve_and_the_edge():
  anchor = np.array([100.0, 100.0])
  halves, frame = np.array([[20.0, 8.0]]), (np.zeros(2), np.full(2, 200.0))

  def box(marks=(), lines=(), at=anchor):
    marks = np.array([at, *marks])
    (found,) = label_placement.place(at[None], halves, frame, lines, marks, 1.0)
    return at + found.offset - halves[0], at + found.offset + halves[0]

  assert box()[0][1] > 100  # Above, if nothing is there.
  low, high = box(marks=[(100, 114)])
  assert not np.all((low < (100, 114)) & (high > (100, 114)))
  low, high = box(lines=[np.array([[0, 112.0], [200, 112.0]])])
  assert high[1] <= 112 or low[1] >= 112
  assert box(at=np.array([100.0, 195.0]))[1][1] <= 200


def test_lines_that_cross_are_counted():
  anchors = np.array([[0.0, 0], [0, 10]])
  centres = np.array([[[10.0, 10], [20, 0]], [[10, 0], [-10, 10]]])
  low, high = centres - 0.5, centres + 0.5
  strokes = label_placement._strokes(anchors, centres, low, high)
  # Only the lines from (0, 0) to (10, 10) and from (0, 10) to (10, 0) cross, in (5, 5); and that
  # from (0, 0) to (20, 0) runs through the box at (10, 0) and both of its diagonals.
  cost = label_placement._between(low, high, strokes, 0, 1)
  np.testing.assert_array_equal(cost, [[200, 0], [400, 0]])
