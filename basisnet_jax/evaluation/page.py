"""The report of an evaluation as files: a page for people, tables and pictures for the rest."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import io
import os
from typing import Any, NamedTuple

from etils import epath

from basisnet_jax.evaluation import analysis, html_report, plots_calibration, report
from basisnet_jax.evaluation.chosen import Chosen
from basisnet_jax.evaluation.examples import Example


class Subject(NamedTuple):
  """What was evaluated, in words.

  Attributes:
    name: of the recipe.
    data: the dataset's name.
    split: that was evaluated.
    label_names: by label.
    layers: paths of the layers with bases; () where there are none.
    lightweight_madds: multiply-adds per image of the first stage; None for a single network.
    total_madds: of everything.
  """

  name: str
  data: str
  split: str
  label_names: Sequence[str]
  layers: Sequence[str]
  lightweight_madds: float | None
  total_madds: float


def write(
  workdir: str,
  subject: Subject,
  summary: Mapping[str, Any],
  results: Mapping[str, Any],
  *,
  threshold: float,
  chosen: Chosen | None,
  examples: Mapping[str, Sequence[Example]],
) -> list[str]:
  """Writes report.html, report.json, classes.csv, calibration.png and, for two stages,
  cost_accuracy.csv.

  Args:
    workdir: local or gs://.
    subject: what was evaluated.
    summary: of `evaluate.summarize`.
    results: of `evaluate.run`.
    threshold: of early termination: the chosen one, or one to show.
    chosen: how it was chosen; None if it was not. Its temperatures are those of `results`.
    examples: of `Examples.best`.

  Returns:
    The names of the files.
  """
  temperatures = None if chosen is None else chosen.temperatures
  numbers = analysis.as_dict(
    results,
    label_names=subject.label_names,
    layers=subject.layers,
    threshold=threshold,
    temperatures=temperatures,
  )
  calibrations = analysis.calibrations(results, temperatures)
  curve = None
  names = ['report.html', 'report.json', 'classes.csv', 'calibration.png']
  if 'confidence' in results:
    curve = analysis.curve(results, subject.lightweight_madds, subject.total_madds)
    rows = zip(*curve.values(), strict=True)
    _write_csv(os.path.join(workdir, 'cost_accuracy.csv'), curve, rows)
    names.append('cost_accuracy.csv')
  report.write_json(os.path.join(workdir, 'report.json'), numbers)
  classes = numbers['classes']
  _write_csv(os.path.join(workdir, 'classes.csv'), classes[0], (row.values() for row in classes))
  plots_calibration.save(
    plots_calibration.reliability(calibrations), os.path.join(workdir, 'calibration.png')
  )
  text = html_report.render(
    subject, summary, results, numbers, calibrations, curve, chosen, examples
  )
  (epath.Path(workdir) / 'report.html').write_text(text)
  return names


def _write_csv(path: str, header: Iterable[str], rows: Iterable[Iterable]) -> None:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  writer.writerows(rows)
  epath.Path(path).write_text(text.getvalue())
