"""Costs of many networks in one table."""

import csv
import pathlib

from matplotlib import image as matplotlib_image
import pytest

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import cost_report
from basisnet_jax.models import published

NAMES = ['mobilenet_v3_small', 'fbnet_v3_a0']


@pytest.fixture(scope='module')
def table():
  return cost_report.rows(NAMES)


def test_each_published_size_has_a_row_and_the_others_one(table):
  assert [(row.network, row.width, row.resolution) for row in table] == [
    ('mobilenet_v3_small', 1.0, 224),
    ('mobilenet_v3_small', 0.75, 224),
    ('fbnet_v3_a0', 1.0, 224),
  ]
  first, last = table[0], table[-1]
  assert (round(first.madds, 2), round(first.params, 3)) == (56.51, 2.543)
  assert first.madds < first.madds_with_elementwise < 1.02 * first.madds
  assert (first.published_madds, first.top1) == (56.52, 67.2)
  assert last.top1 is None and last.published_madds is None and last.source == ''


def test_a_progress_line_gets_to_all_sizes(monkeypatch):
  counted = cost_report.cost_lib.count(models.create('mobilenet_v3_small', num_classes=10), 32)
  monkeypatch.setattr(cost_report.cost_lib, 'count', lambda network, resolution: counted)
  done = []
  cost_report.rows(NAMES, done.append)
  assert done == [1, 2, 3] and len(cost_report.sizes(NAMES)) == 3


def test_files_hold_the_same_table(table, tmp_path):
  paths = cost_report.write(str(tmp_path / 'new'), table)
  assert [path.rsplit('.', 1)[1] for path in paths] == ['csv', 'md', 'png']
  with open(paths[0]) as file:
    rows = list(csv.DictReader(file))
  assert [row['network'] for row in rows] == [row.network for row in table]
  assert float(rows[0]['madds']) == table[0].madds and rows[-1]['top1'] == ''
  lines = pathlib.Path(paths[1]).read_text().splitlines()
  assert len({len(line) for line in lines}) == 1 and len(lines) == 2 + len(table)
  assert 'd-li14' in lines[2] and '56.51' in lines[2]
  pixels = matplotlib_image.imread(paths[2])
  assert pixels.shape[:2] == (780, 1260) and pixels[..., :3].std() > 0.02


def test_families_that_differ_in_more_than_size_are_lines_apart(monkeypatch, tmp_path):
  drawn = {}
  monkeypatch.setattr(cost_report.plots, 'cost_comparison', lambda _, lines: drawn.update(lines))
  names = ['efficientnet_b0', 'efficientnet_b1', 'efficientnet_lite0', 'efficientnet_lite1']
  cost_report.write(str(tmp_path), cost_report.rows(names))
  assert {family: len(points) for family, points in drawn.items()} == {
    'efficientnet': 2,
    'efficientnet_lite': 2,
  }


def test_every_published_network_is_in_the_registry():
  assert {result.network for result in published.RESULTS} <= set(models.names())


@pytest.mark.parametrize(
  ('name', 'sentence'),
  [('mobilenet_v9', "no network 'mobilenet_v9'; did you mean"), ('basisnet', 'needs a recipe')],
)
def test_name_that_has_no_row_is_one_clear_sentence(name, sentence):
  with pytest.raises(UserError, match=sentence):
    cost_report.rows([name])


def test_all_begins_with_the_papers_basisnet_and_has_the_registry(monkeypatch):
  monkeypatch.setattr(models, 'names', lambda: ['basisnet', 'cascade', *NAMES])
  first, *others = cost_report.rows(['all'])
  assert (first.network, first.madds, first.published_madds) == ('basisnet (the paper)', None, 290)
  assert {row.network for row in others} == set(NAMES)
  assert '80.3' in cost_report.markdown([first, *others]).splitlines()[2]
