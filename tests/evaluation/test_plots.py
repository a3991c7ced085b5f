"""The picture of early termination is written, whole and legible."""

import itertools
import subprocess
import sys

import matplotlib.image
import numpy as np
import pictures
import pytest

from basisnet_jax.evaluation import early_exit, plots

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
COSTS = {'lightweight_madds': 26e6, 'total_madds': 290e6}


def draw(path, confidence, thresholds=THRESHOLDS, seed=0, chosen=None):
  random = np.random.default_rng(seed)
  light = random.random(confidence.size) < confidence
  special = light | (random.random(confidence.size) < 0.5)
  plots.cost_accuracy(
    str(path),
    early_exit.cost_accuracy_curve(confidence, light, special, **COSTS),
    early_exit.operating_points(thresholds, confidence, light, special, **COSTS),
    lightweight=(26e6, light.mean()),
    specialist=(290e6, special.mean()),
    title='A network',
    chosen=chosen and early_exit.operating_point(chosen, confidence, light, special, **COSTS),
  )


def draw_run_on_digits(path, steps, right, chosen=None):
  """Draws one of 360 images: of the thresholds, exits in 360ths and images that are right."""
  madds, top1 = 560128 + 20507.4 * np.array(steps), np.array(right) / 360
  points = [
    {'threshold': threshold, 'average_madds': cost, 'top1': right}
    for threshold, cost, right in zip(THRESHOLDS, madds, top1, strict=True)
  ]
  stages = {'lightweight': (madds[0], top1[0]), 'specialist': (7942784, top1[0])}
  curve = {'average_madds': [*madds, 7942784], 'top1': [*top1, top1[0]]}
  if chosen:
    chosen = points[5] | {'threshold': chosen}
  plots.cost_accuracy(str(path), curve, points, title='A network', chosen=chosen, **stages)


@pytest.fixture
def drawn(monkeypatch):
  return pictures.labels(monkeypatch)


@pytest.fixture
def drawn_labels(drawn):
  return drawn.boxes


def test_picture_has_its_size_and_all_colours(tmp_path):
  draw(tmp_path / 'curve.png', np.random.default_rng(1).beta(1.3, 0.75, 2000))
  pixels = matplotlib.image.imread(tmp_path / 'curve.png')[..., :3]
  assert pixels.shape == (900, 1440, 3)
  for colour in (plots._CURVE, plots._LIGHTWEIGHT, plots._SPECIALIST):
    rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    assert np.count_nonzero(np.all(np.abs(pixels - rgb) < 0.01, -1)) > 200
  np.testing.assert_array_equal(pixels[[0, -1]], 1)  # Nothing is cut at the edges.
  np.testing.assert_array_equal(pixels[:, [0, -1]], 1)


@pytest.mark.parametrize('shape', [(1.3, 0.75), (8, 1), (1, 8), (30, 30)])
def test_labels_neither_overlap_nor_leave_the_axes(tmp_path, drawn_labels, shape):
  draw(tmp_path / 'curve.png', np.random.default_rng(1).beta(*shape, 2000))
  assert len(drawn_labels) > 3
  pictures.assert_apart(drawn_labels)


def test_lines_from_labels_to_their_points_do_not_cross(tmp_path, drawn):
  right = [356, 356, 356, 355, 355, 355, 356, 356, 356, 356]
  steps = [0, 0, 0, 3, 7, 9, 10, 10, 12, 18]
  draw_run_on_digits(tmp_path / 'curve.png', steps, right, chosen=0.800682)
  joints = {
    text: (point, (drawn.boxes[text].min + drawn.boxes[text].max) / 2)
    for text, point in drawn.points.items()
  }

  def turn(a, b, c):
    return np.sign(np.linalg.det([b - a, c - a]))

  assert {'0.3–0.5', '0.85–0.95', '0.99'} < set(joints)
  for (a, b), (c, d) in itertools.combinations(joints.values(), 2):
    assert turn(a, b, c) * turn(a, b, d) >= 0 or turn(c, d, a) * turn(c, d, b) >= 0


def test_lines_from_labels_to_their_points_cross_out_no_stage(tmp_path, drawn):
  # Its line from 0.8-0.95 once crossed out the name of the lightweight stage.
  right = [356, 356, 355, 355, 355, 356, 356, 356, 356, 356]
  draw_run_on_digits(tmp_path / 'curve.png', [0, 0, 1, 2, 6, 10, 11, 12, 15, 29], right)
  for text, other in itertools.permutations(drawn.points, 2):
    if 'alone' not in other:
      continue
    own, box = drawn.boxes[text], drawn.boxes[other]
    line = np.linspace(drawn.points[text], (own.min + own.max) / 2, 200)
    rim = 0.15 * box.size
    inside = np.all((line > box.min + rim) & (line < box.max - rim), axis=1)
    assert not inside.any(), f'the line of {text!r} crosses {other!r}'


def test_thresholds_at_one_point_share_a_label(tmp_path, drawn_labels):
  draw(tmp_path / 'curve.png', np.full(100, 0.999))
  assert '0.3–0.99' in drawn_labels
  assert '0.5' not in drawn_labels


def test_picture_without_thresholds_has_the_two_stages(tmp_path, drawn_labels):
  draw(tmp_path / 'curve.png', np.linspace(0, 1, 50), thresholds=())
  assert {text.splitlines()[0] for text in drawn_labels} == {
    'lightweight alone',
    'specialist alone',
    'axes',
  }


def test_chosen_threshold_and_oracle_are_in_the_picture_of_the_page():
  random = np.random.default_rng(0)
  light, special = random.random((2, 300)) < [[0.6], [0.8]]
  answers = random.random(300), light, special
  draw_svg = lambda: plots.cost_accuracy_svg(  # noqa: E731
    early_exit.cost_accuracy_curve(*answers, **COSTS),
    [],
    lightweight=(26e6, light.mean()),
    specialist=(290e6, special.mean()),
    chosen=early_exit.operating_point(0.625, *answers, **COSTS),
    oracle=early_exit.oracle_curve(light, special, **COSTS),
  )
  svg = draw_svg()
  assert b'oracle</text>' in svg and b'chosen threshold</text>' in svg
  assert plots._CHOSEN.lower().encode() in svg
  assert svg == draw_svg()  # Byte for byte.


@pytest.mark.parametrize('size, title', [(plots._SIZE, 'A network'), (plots._SMALL_SIZE, '')])
def test_name_of_the_accuracy_is_beside_its_numbers(size, title):
  accuracies = (26e6, 0.995), (290e6, 1.0)
  curve = {'average_madds': [290e6, 26e6], 'top1': [1.0, 0.995]}
  figure = plots._cost_accuracy(size, curve, [], *accuracies, title, None, None)
  (axes,) = figure.axes
  name = axes.yaxis.label.get_window_extent()
  numbers = [label.get_window_extent() for label in axes.get_yticklabels()]
  assert '100.00' in [label.get_text() for label in axes.get_yticklabels()]
  assert 0 < name.x0 and name.x1 < min(number.x0 for number in numbers)


def test_plots_leave_pyplot_alone():
  code = 'import sys, basisnet_jax.evaluation.plots; sys.exit("matplotlib.pyplot" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


@pytest.mark.parametrize(('threshold', 'label'), [(0.800682, '0.801'), (0.9999613, '0.999961')])
def test_chosen_threshold_is_rounded(tmp_path, drawn_labels, threshold, label):
  draw(tmp_path / 'curve.png', np.linspace(0, 1, 500), thresholds=(0.3,), chosen=threshold)
  assert {'0.3', label} < set(drawn_labels)


def test_chosen_threshold_that_no_image_reaches_has_no_label(tmp_path, drawn_labels):
  draw(tmp_path / 'curve.png', np.linspace(0, 1, 500), thresholds=(0.3,), chosen=2.0)
  assert {text.splitlines()[0] for text in drawn_labels} == {
    'lightweight alone',
    'specialist alone',
    '0.3',
    'axes',
  }
