"""The report of an evaluation as files: a page for people, tables and pictures for the rest."""

from collections.abc import Iterable
import csv
import io
import os

from etils import epath

from basisnet_jax.evaluation import html_report, plots_calibration, report
from basisnet_jax.evaluation.analysis import Findings


def write(workdir: str, found: Findings) -> list[str]:
  """Writes the files into `workdir`, local or gs://, and returns their names.

  report.html, report.json, classes.csv, calibration.png and, for two stages, cost_accuracy.csv.
  """
  join = lambda name: os.path.join(workdir, name)  # noqa: E731
  names = ['report.html', 'report.json', 'classes.csv', 'calibration.png']
  (epath.Path(workdir) / 'report.html').write_text(html_report.render(found))
  report.write_json(join('report.json'), found.as_dict())
  _write_csv(join('classes.csv'), found.classes[0], (row.values() for row in found.classes))
  plots_calibration.save(plots_calibration.reliability(found.calibration), join('calibration.png'))
  if found.two_stages:
    names.append('cost_accuracy.csv')
    _write_csv(join('cost_accuracy.csv'), found.curve, zip(*found.curve.values(), strict=True))
  return names


def _write_csv(path: str, header: Iterable[str], rows: Iterable[Iterable]) -> None:
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  writer.writerows(rows)
  epath.Path(path).write_text(text.getvalue())
