"""The files that an evaluation writes to the workdir: tables, pictures, a page for people."""

from collections.abc import Iterable
import os

from basisnet_jax import whole_file
from basisnet_jax.evaluation import (
  chosen,
  html_report,
  plots,
  plots_calibration,
  plots_coefficients,
  report,
)
from basisnet_jax.evaluation.analysis import Findings

_HOW_TO_CHOOSE = (
  'To have a threshold chosen, on images that neither training nor this table sees, train with '
  "--config.data.train_split='train[:95%]' --config.data.heldout_split='train[95%:]'."
)


def write(workdir: str, found: Findings) -> list[str]:
  """Prints the table and writes it as evaluation.json; returns the files' names.

  Held-out images add early_exit.json; two stages add cost_accuracy.png and, if there are
  coefficients, coefficients.png.
  """
  summary, subject = found.summary, found.subject
  print(report.table(summary), flush=True)  # First, in case the disk is full.
  if (exchanged := found.exchanged_top1) is not None:
    print(f"With another image's coefficients the specialist has {100 * exchanged:.2f}%.")
  report.write(workdir, summary)
  names = ['evaluation.json']
  if found.chosen is not None:
    chosen.save(workdir, found.chosen)
    names.append(chosen.NAME)
  if not found.two_stages:
    return names
  print(f'Chosen threshold: {found.chosen.reason}.' if found.chosen else _HOW_TO_CHOOSE)
  title = f'{subject.name}: {summary["images"]:,} images of {subject.data}'
  plots.cost_accuracy(
    os.path.join(workdir, 'cost_accuracy.png'),
    found.curve,
    summary['early_exit'],
    lightweight=(subject.lightweight_madds, summary['lightweight']['top1']),
    specialist=(subject.total_madds, summary['specialist']['top1']),
    chosen=summary.get('chosen'),
    title=title,
  )
  names.append('cost_accuracy.png')
  if statistics := found.results.get('coefficient_statistics'):
    maps = plots_coefficients.coefficient_maps(
      statistics, subject.layers, subject.label_names, title=title
    )
    plots.save(maps, os.path.join(workdir, 'coefficients.png'))
    names.append('coefficients.png')
  return names


def write_page(workdir: str, found: Findings) -> list[str]:
  """Writes the page and its contents as files; returns their names.

  They are report.html, report.json, classes.csv, calibration.png and, for two stages,
  cost_accuracy.csv.
  """
  join = lambda name: os.path.join(workdir, name)  # noqa: E731
  names = ['report.html', 'report.json', 'classes.csv', 'calibration.png']
  whole_file.write(join('report.html'), html_report.render(found))
  report.write_json(join('report.json'), found.as_dict())
  report.write_csv(join('classes.csv'), found.classes[0], (row.values() for row in found.classes))
  plots.save(plots_calibration.reliability(found.calibration), join('calibration.png'))
  if found.two_stages:
    names.append('cost_accuracy.csv')
    rows = zip(*found.curve.values(), strict=True)
    report.write_csv(join('cost_accuracy.csv'), found.curve, rows)
  return names


def tell(workdir: str, names: Iterable[str]) -> None:
  """Prints where the files of these names are."""
  print(f'\nWritten: {", ".join(os.path.join(workdir, name) for name in names)}')
