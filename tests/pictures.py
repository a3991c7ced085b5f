"""What is written in a picture of `plots`, and where."""

from typing import NamedTuple

from matplotlib.text import Annotation

from basisnet_jax.evaluation import plots


class Labels(NamedTuple):
  """Of the picture that is drawn next, in pixels.

  Attributes:
    points: {a label's text: its point}.
    boxes: {its text: its box}, and that of the 'axes'.
  """

  points: dict
  boxes: dict


def labels(monkeypatch) -> Labels:
  """Fills the labels as the picture is drawn."""
  found, annotate = Labels({}, {}), plots._annotate

  def spy(canvas, axes, *arguments):
    annotate(canvas, axes, *arguments)
    for text in axes.findobj(Annotation):
      found.points[text.get_text()] = axes.transData.transform(text.xy)
      found.boxes[text.get_text()] = text.get_window_extent(canvas.get_renderer())
    found.boxes['axes'] = axes.get_window_extent()

  monkeypatch.setattr(plots, '_annotate', spy)
  return found


def assert_apart(boxes):
  """Labels neither overlap nor leave the axes."""
  axes = boxes['axes']
  placed = [box for text, box in boxes.items() if text != 'axes']
  for i, box in enumerate(placed):
    assert axes.containsx(box.x0) and axes.containsx(box.x1)
    assert axes.containsy(box.y0) and axes.containsy(box.y1)
    assert not any(box.overlaps(other) for other in placed[:i])
