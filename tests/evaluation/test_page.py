"""The report: its numbers, and a page that needs nothing else and trips nobody up."""

import csv
import dataclasses
from html.parser import HTMLParser
import json
import re

import jax
import numpy as np
import pytest

from basisnet_jax.evaluation import analysis, calibration, chosen, coefficients, evaluate, files
from basisnet_jax.evaluation.examples import Example
from basisnet_jax.models.cost import Cost, Layer

IMAGES = 500
NAMES = ('<script>cat</script>', 'a "dog" & more', 'bird', 'none of these')
COST = Cost([Layer('a', (), 2_000_000, 1), Layer('b', (), 8_000_000, 1)], 2_000_000, 0)
VOID = {'br', 'img', 'link', 'meta', 'rect'}


def results_of(stages):
  random = np.random.default_rng(0)
  found = {'label': random.integers(0, 3, IMAGES).astype(np.int32)}
  for stage, skill in stages.items():
    sure = random.random(IMAGES).astype(np.float32)
    found[f'{stage}_top1'] = (random.random(IMAGES) < skill * (0.5 + sure / 2)).astype(np.float32)
    found |= {f'{stage}_top5': np.ones(IMAGES), f'{stage}_loss': random.random(IMAGES)}
    found |= {f'{stage}_probability': sure, f'{stage}_calibrated': sure**2}
    found[f'{stage}_prediction'] = random.integers(0, 4, IMAGES).astype(np.int32)
  return found


def example(results):
  values = {key: value[0].item() for key, value in results.items() if value.ndim == 1}
  blend = np.full((2, 3), 1 / 3) if 'confidence' in results else None
  return Example(np.zeros((8, 8, 3), np.uint8), values, blend)


@pytest.fixture(scope='module')
def two():
  """Findings of two stages with a chosen threshold."""
  results = results_of({'lightweight': 0.7, 'specialist': 0.9})
  results['confidence'] = results['lightweight_calibrated']
  shown = {'early': [example(results)] * 2, 'lost': []}
  blends = jax.nn.softmax(jax.random.normal(jax.random.key(0), (IMAGES, 2, 3)))
  sums = coefficients.sums(blends, results['label'], np.ones(IMAGES), 4)
  results['coefficient_statistics'] = coefficients.statistics(coefficients.add(None, sums))
  results['exchanged'] = np.arange(IMAGES) % 5 == 0
  summary = evaluate.summarize(results, cost=COST, thresholds=(0.5,), step=7, chosen=0.4)
  choice = chosen.Chosen(
    'margin', {'lightweight': 1.5, 'specialist': 1.0}, 0.4, {'by': 'exit_rate'}, 'the highest',
    {'data': 'pets', 'split': 'train[90%:]', 'images': 50, 'exit_rate': 0.3, 'average_madds': 7e6,
     'top1': 0.7, 'specialist_top1': 0.71}, 'best', 7,
  )  # fmt: skip
  subject = analysis.Subject(
    'a <recipe>', 'pets', 'test', NAMES, ('stem', 'block_1/conv'), 2_000_000, 10_000_000
  )
  return analysis.Findings(subject, summary, results, 0.4, choice, shown)


@pytest.fixture(scope='module')
def one():
  """Findings of a single network, which was not calibrated."""
  results = results_of({'network': 0.8})
  summary = evaluate.summarize(results, cost=COST, thresholds=(0.5,), step=7)
  subject = analysis.Subject('plain', 'pets', 'test', NAMES, (), None, 10_000_000)
  return analysis.Findings(subject, summary, results, 0.5, None, {'surest': [example(results)]})


class Page(HTMLParser):
  """The elements of a page, and whether each is closed where it must be."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.text = [], [], ''
    self.feed(text)
    assert self.open == []

  def handle_starttag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.tags.append((tag, dict(attributes)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data

  def all(self, tag):
    return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(params=['two', 'one'])
def written(request, tmp_path):
  found = request.getfixturevalue(request.param)
  names = files.write_page(str(tmp_path), found)
  assert set(names) == {path.name for path in tmp_path.iterdir()}
  return found, tmp_path, Page((tmp_path / 'report.html').read_text())


def test_page_needs_nothing_but_itself_and_takes_no_text_for_markup(written):
  _, folder, read = written
  text = (folder / 'report.html').read_text()
  assert not re.search(r'(src|href)="(?!data:|#)|url\(|@import|https?://', text)
  assert read.all('script') == [] and '<script>cat</script>' in read.text


def test_page_can_be_read_without_seeing_it(written):
  _, _, read = written
  assert read.all('html')[0]['lang'] == 'en'
  assert all(len(image['alt']) > 10 for image in read.all('img'))
  assert all(svg['role'] == 'img' and svg['aria-label'] for svg in read.all('svg'))
  assert {th['scope'] for th in read.all('th')} == {'col', 'row'}
  assert len(read.all('caption')) == len(read.all('table'))
  ids = {attributes['id'] for _, attributes in read.tags if 'id' in attributes}
  assert {link['href'].removeprefix('#') for link in read.all('a')} <= ids


def test_tables_and_files_have_the_same_numbers(two, tmp_path):
  files.write_page(str(tmp_path), two)
  text = Page((tmp_path / 'report.html').read_text()).text
  found = json.loads((tmp_path / 'report.json').read_text())
  exits = two.results['confidence'] >= 0.4
  light, special = two.results['lightweight_top1'], two.results['specialist_top1']
  assert found['groups']['exited'] == pytest.approx({
    'images': exits.sum(),
    'lightweight_top1': light[exits].mean(),
    'specialist_top1': special[exits].mean(),
  })  # fmt: skip
  assert f'{100 * special[~exits].mean():.2f}%' in text
  with open(tmp_path / 'classes.csv') as file:
    rows = list(csv.DictReader(file))
  assert [row['name'] for row in rows] == list(NAMES[:3])  # The last one has no images.
  own = two.results['label'] == 1
  assert int(rows[1]['images']) == own.sum()
  assert float(rows[1]['exit_rate']) == pytest.approx(exits[own].mean())
  assert float(rows[1]['top1']) == pytest.approx(np.where(exits, light, special)[own].mean())
  with open(tmp_path / 'cost_accuracy.csv') as file:
    last = list(csv.DictReader(file))[-1]
  assert float(last['exit_rate']) == 1 and float(last['average_madds']) == 2e6
  ece = calibration.reliability(two.results['specialist_calibrated'], special).ece
  assert found['calibration']['specialist']['ece_after'] == pytest.approx(ece)
  assert f'{100 * ece:.2f}%' in text
  means = two.results['coefficient_statistics'].mean
  assert np.array([row['mean'] for row in found['bases']]) == pytest.approx(means)
  assert found['exchanged_top1'] == 0.2
  assert 'those of another image, drawn at random, 20.00%' in text


def test_oracle_and_random_exits_bound_every_rule(two):
  for threshold in (0.0, 0.1, 0.4, 0.8, 2.0):
    found = dataclasses.replace(two, threshold=threshold)
    assert found.point['top1'] <= found.bounds['oracle'] + 1e-9
  ends = dataclasses.replace(two, threshold=0.0), dataclasses.replace(two, threshold=2.0)
  for found, stage in zip(ends, ('lightweight', 'specialist'), strict=True):
    top1 = two.results[f'{stage}_top1'].mean()
    assert found.bounds == pytest.approx({'random': top1, 'oracle': top1})


def test_cascade_has_a_page_without_bases(two, tmp_path):
  results = {k: v for k, v in two.results.items() if k != 'coefficient_statistics'}
  (shown, *_), subject = two.examples['early'], two.subject._replace(layers=())
  examples = {'early': [shown._replace(coefficients=np.zeros((0, 3)))]}
  found = dataclasses.replace(two, results=results, subject=subject, examples=examples)
  files.write_page(str(tmp_path), found)
  text = Page((tmp_path / 'report.html').read_text()).text
  assert 'First is the answer of the lightweight model' in text
  assert 'basis 1' not in text and 'Use of the bases' not in text


def test_page_says_how_the_threshold_was_chosen_or_how_to_have_one(two, tmp_path):
  files.write_page(str(tmp_path), two)
  text = Page((tmp_path / 'report.html').read_text()).text
  assert 'Threshold 0.4 on the largest softmax less the second' in text
  assert 'train[90%:]' in text and '\N{MINUS SIGN}1.00' in text
  files.write_page(str(tmp_path), dataclasses.replace(two, chosen=None))
  text = Page((tmp_path / 'report.html').read_text()).text
  assert 'No threshold was chosen' in text and '--config.data.heldout_split' in text
