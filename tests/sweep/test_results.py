"""The table of a sweep: its statistics, by another hand, and its picture."""

import csv
import json
import statistics

import numpy as np
import pictures
import pytest

from basisnet_jax.evaluation import plots
from basisnet_jax.sweep import Sweep, records, results

SWEEP = Sweep(rows={'static': {}, 'basisnet_k4': {}, 'cascade': {}}, seeds=(0, 1, 2))
STATIC = {0: 0.70, 1: 0.72, 2: 0.71}
BASISNET = {0: 0.73, 1: 0.76, 2: 0.72}


def finish(run, evaluation, params, minutes):
  run.folder.mkdir(parents=True, exist_ok=True)
  (run.folder / 'evaluation.json').write_text(json.dumps({'step': 9, 'images': 100} | evaluation))
  (run.folder / 'cost.json').write_text(json.dumps({'total_params': params}))
  records.write(run, 60.0 * minutes, finished=True)


def two_stages(top1, chosen=None):
  evaluation = {
    'lightweight': {'top1': top1 - 0.1},
    'specialist': {'top1': top1},
    'total_madds': 10_000_000,
    'lightweight_madds': 2_000_000,
  }
  return evaluation | ({'chosen': chosen} if chosen else {})


@pytest.fixture
def runs(tmp_path):
  """All of the first two rows, and none of the third."""
  runs = records.of(SWEEP, str(tmp_path))
  for run in runs:
    if run.row == 'static':
      evaluation = {'network': {'top1': STATIC[run.seed]}, 'total_madds': 7_000_000}
      finish(run, evaluation, 500_000, 4)
    elif run.row == 'basisnet_k4':
      early = {'top1': BASISNET[run.seed] - 0.002, 'average_madds': 6e6 + 1e6 * run.seed}
      finish(run, two_stages(BASISNET[run.seed], early), 2_000_000, 5 + run.seed)
  return runs


def test_mean_and_standard_deviation_are_those_of_the_statistics_module(runs):
  static, basisnet = results.collect(runs, 'static')['rows']
  for entry, top1 in ((static, STATIC), (basisnet, BASISNET)):
    assert entry['top1']['values'] == list(top1.values())
    assert entry['top1']['mean'] == pytest.approx(statistics.mean(top1.values()))
    assert entry['top1']['std'] == pytest.approx(statistics.stdev(top1.values()))
  assert 'lightweight_top1' not in static and 'early_top1' not in static
  assert basisnet['lightweight_top1']['mean'] == pytest.approx(
    statistics.mean(BASISNET.values()) - 0.1
  )
  assert basisnet['total_params'] == {'mean': 2e6, 'std': 0.0, 'values': [2e6] * 3}
  assert basisnet['seconds']['mean'] == 360


def test_difference_is_of_pairs_of_equal_seeds_with_their_standard_error(runs):
  static, basisnet = results.collect(runs, 'static')['rows']
  differences = [BASISNET[seed] - STATIC[seed] for seed in range(3)]
  assert 'difference' not in static
  assert basisnet['difference']['mean'] == pytest.approx(statistics.mean(differences))
  error = statistics.stdev(differences) / 3**0.5
  assert basisnet['difference']['standard_error'] == pytest.approx(error)

  (runs[3].folder / 'evaluation.json').unlink()  # Of 'static', seed 1.
  static, basisnet = results.collect(runs, 'static')['rows']
  assert (static['seeds'], basisnet['seeds']) == ([0, 2], [0, 1, 2])
  assert basisnet['difference']['mean'] == pytest.approx((differences[0] + differences[2]) / 2)


def test_early_termination_is_at_the_chosen_threshold(runs):
  _, basisnet = results.collect(runs, None)['rows']
  assert basisnet['early_change']['mean'] == pytest.approx(-0.002)
  assert basisnet['early_average_madds'] == {'mean': 7e6, 'std': 1e6, 'values': [6e6, 7e6, 8e6]}
  assert basisnet['early_saving']['mean'] == pytest.approx(0.3)
  assert 'difference' not in basisnet


def test_partial_table_says_what_is_missing_and_one_seed_has_no_deviation(runs):
  finish(runs[2], two_stages(0.9), 1_000_000, 1)
  found = results.collect(runs, 'static')
  cascade = found['rows'][2]
  assert cascade['top1']['std'] is cascade['difference']['standard_error'] is None
  text = results.markdown(found)
  rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in text.splitlines()[:5]]
  header, _, static, basisnet, cascade = (dict(zip(rows[0], row, strict=True)) for row in rows)
  assert static['top-1 %'] == '71.00 ± 1.00' and static['lightweight top-1 %'] == ''
  assert basisnet['against static, points'] == '+2.67 ± 0.88'
  assert basisnet['saving %'] == '30.0 ± 10.0' and basisnet['minutes'] == '6.0 ± 1.0'
  assert cascade['top-1 %'] == '90.00' and cascade['params (M)'] == '1.000'
  assert 'Partial: 7 of 9 runs are finished; not yet cascade, seed 1; cascade, seed 2.' in text
  assert 'change and saving are against both stages for every image.' in text
  alone = {**found, 'rows': found['rows'][:1]}  # Of one stage.
  assert 'change and saving' not in results.markdown(alone)


def test_files_hold_the_same_numbers_and_nothing_is_written_of_nothing(runs, tmp_path):
  told = results.write(str(tmp_path), 'A sweep', runs, 'static')
  found = json.loads((tmp_path / 'results.json').read_text())
  assert found == results.collect(runs, 'static')
  table = (tmp_path / 'results.md').read_text()
  assert table.strip() in told
  rows = list(csv.DictReader((tmp_path / 'results.csv').read_text().splitlines()))
  assert float(rows[1]['difference']) == found['rows'][1]['difference']['mean']
  assert float(rows[0]['top1_std']) == found['rows'][0]['top1']['std']
  assert rows[0]['early_top1'] == '' and rows[0]['seeds'] == '0 1 2'
  assert (tmp_path / 'results.png').read_bytes().startswith(b'\x89PNG')

  nothing = records.of(SWEEP, str(tmp_path / 'new'))
  assert results.write(str(tmp_path / 'new'), 'A sweep', nothing, None).startswith('None of the 9')
  assert not (tmp_path / 'new').exists()


def test_labels_of_the_picture_neither_overlap_nor_leave_the_axes(tmp_path, monkeypatch):
  boxes = pictures.labels(monkeypatch).boxes
  rows = {'static': {'final': (7e6, 0.78, 0.004)}, 'condconv': {'final': (7.4e6, 0.785, 0.003)}}
  for k in (2, 4, 8, 16):
    final, early = (9e6 + k * 1e5, 0.79 + k / 1000, 0.003), (6e6 + k * 1e5, 0.788 + k / 1000, 0.003)
    rows[f'basisnet_k{k}'] = {'final': final, 'early': early}
  plots.rows_over_cost(str(tmp_path / 'rows.png'), rows, title='Rows')
  assert set(boxes) == {'axes', *(name.replace('_', ' ') for name in rows)}
  pictures.assert_apart(boxes)


def test_many_rows_are_drawn_by_name_below_each_other(tmp_path, monkeypatch):
  sweep = Sweep(rows={f'row_{i}': {} for i in range(20)}, seeds=(0, 1), compare='row_3')
  runs = records.of(sweep, str(tmp_path))
  for run in runs:
    finish(run, two_stages(0.7 + int(run.row.split('_')[1]) / 100 + run.seed / 500), 1_000_000, 1)
  drawn = {}

  def look(figure, path):
    (axes,) = figure.axes
    drawn['names'] = [text.get_text() for text in axes.get_yticklabels()]
    drawn['final'] = axes.containers[0].lines[0].get_xdata(orig=False)
    drawn['boxes'] = [
      text.get_window_extent(figure.canvas.get_renderer()) for text in axes.get_yticklabels()
    ]
    drawn['left'] = figure.bbox.x0

  monkeypatch.setattr(plots, 'save', look)
  results.write(str(tmp_path), 'many', runs, sweep.compare)
  assert drawn['names'] == [f'row {i}' for i in range(20)]
  np.testing.assert_allclose(drawn['final'], 70.1 + np.arange(20))
  boxes = drawn['boxes']
  assert all(not a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))
  assert min(box.x0 for box in boxes) > drawn['left']
