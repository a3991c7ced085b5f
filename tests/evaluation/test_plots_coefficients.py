"""The heat maps of the coefficients show what they say, and stay legible with many classes."""

import numpy as np
import pytest

from basisnet_jax.evaluation import coefficients as coefficients_lib
from basisnet_jax.evaluation import plots, plots_coefficients


def statistics(by_class, images=None):
  """Of one image of each class, `[classes, layers, K]`, or as many as said."""
  images = np.ones(len(by_class)) if images is None else np.asarray(images)
  weights = images[:, None, None]
  shares = by_class.astype(np.float64)
  entropy = -(shares * np.log(np.maximum(shares, 1e-300))).sum(-1) / np.log(shares.shape[-1])
  return coefficients_lib.statistics(
    coefficients_lib.Sums(
      images=images,
      coefficients=weights * shares,
      squares=(weights * (shares - 1 / shares.shape[-1]) ** 2).sum(0),
      shares=(weights * shares).sum(0),
      entropy=(images[:, None] * entropy).sum(0),
    )
  )


def draw(found, layers, names):
  figure = plots_coefficients.coefficient_maps(found, layers, names, 'A network')
  figure.canvas.draw()
  return figure


def maps(figure):
  """[what each heat map shows]."""
  return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def test_maps_show_the_means_of_layers_and_classes():
  by_class = np.random.default_rng(0).dirichlet([0.5] * 3, (6, 2))
  found = statistics(by_class, images=[1, 2, 0, 4, 1, 1])
  figure = draw(found, ['stem/conv', 'block_1/expand/conv'], [f'class {i}' for i in range(6)])
  of_layers, *of_classes = maps(figure)
  np.testing.assert_array_equal(of_layers, found.mean)
  assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
    'stem', 'block_1/expand',
  ]  # fmt: skip
  named = [int(label.get_text()[-1]) for label in figure.axes[3].get_yticklabels()]
  assert sorted(named) == [0, 1, 3, 4, 5]  # Without the class that has no images.
  for layer, shown in enumerate(of_classes):
    np.testing.assert_array_equal(shown, by_class[named, layer])
  pixels = plots_coefficients.pixels(figure)
  assert pixels.dtype == np.uint8 and pixels.shape == (*figure.canvas.get_width_height()[::-1], 3)
  assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
  np.testing.assert_array_equal(pixels[[0, -1]], 255)  # Nothing is cut at the edges.
  np.testing.assert_array_equal(pixels[:, [0, -1]], 255)


@pytest.mark.parametrize('classes, layers', [(1000, 47), (2, 1)])
def test_names_of_rows_neither_overlap_nor_leave_the_picture(classes, layers):
  by_class = np.random.default_rng(0).dirichlet([0.5] * 16, (classes, layers))
  names = [f'a class with a long name, {i}' for i in range(classes)]
  figure = draw(statistics(by_class), [f'block_{i}/depthwise/conv' for i in range(layers)], names)
  width, height = figure.canvas.get_width_height()
  assert height < 1600
  for axes in (figure.axes[0], figure.axes[3]):
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert min(classes, layers, 25) <= len(boxes)
    assert all(0 <= box.x0 and box.x1 <= width and 0 <= box.y0 for box in boxes)
    for above, below in zip(boxes, boxes[1:], strict=False):
      assert below.y1 <= above.y0


def test_layers_that_share_coefficients_have_one_map():
  by_class = np.random.default_rng(0).dirichlet([0.5] * 3, (6, 1)).repeat(5, axis=1)
  assert len(maps(draw(statistics(by_class), list('abcde'), list('uvwxyz')))) == 2


def test_rows_alike_become_neighbours():
  random = np.random.default_rng(0)
  kinds = random.permutation(np.arange(40) % 4)
  rows = np.eye(4)[kinds] + 0.1 * random.normal(size=(40, 4))
  ordered = kinds[plots_coefficients.similar_together(rows)]
  assert np.count_nonzero(np.diff(ordered)) == 3  # Four kinds in a row.
  for equal in (np.ones((5, 3)), np.ones((1, 3)), np.ones((2, 3))):
    assert sorted(plots_coefficients.similar_together(equal)) == list(range(len(equal)))


def test_names_in_letters_that_the_font_lacks_are_drawn_without_a_warning(tmp_path):
  found = statistics(np.full((2, 1, 2), 0.5))
  figure = draw(found, ['stem/conv'], ['\u72d7', '\u732b'])  # pytest makes warnings errors.
  plots.save(figure, str(tmp_path / 'maps.png'))
  assert plots_coefficients.pixels(figure).size
