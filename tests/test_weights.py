"""Bases stored in fewer bytes: who answers with them, what they say, and who has none."""

import csv

import jax
import numpy as np
from PIL import Image
import pytest
import saved
from saved import LABELS
import tiny

from basisnet_jax import predict, serve, stream
from basisnet_jax.errors import UserError


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return saved.run(tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  folder, random = tmp_path_factory.mktemp('photos'), np.random.default_rng(0)
  for i in range(3):
    Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f'{i}.png')
  return folder


def of_table(path):
  """Probabilities by label, `[images, classes]`."""
  with path.open() as file:
    rows = list(csv.DictReader(file))
  numbers = range(1, 1 + len(LABELS))
  by_label = [{row[f'label_{i}']: float(row[f'probability_{i}']) for i in numbers} for row in rows]
  return np.array([[row[label] for label in LABELS] for row in by_label])


@pytest.fixture(scope='module')
def predicted(workdir, photos, tmp_path_factory):
  """{weights: probabilities}."""
  table, found = tmp_path_factory.mktemp('tables') / 'out.csv', {}
  for weights in ('float32', 'float16', 'int8'):
    asked = {'checkpoint': '', 'top_k': len(LABELS), 'weights': weights}
    predict.predict_files(str(workdir), str(photos), str(table), **asked)
    found[weights] = of_table(table)
  return found


@pytest.mark.parametrize('weights', ['float16', 'int8'])
def test_predictions_are_nearly_those_of_the_network(predicted, weights):
  wanted, found = np.log(predicted['float32']), np.log(predicted[weights])
  np.testing.assert_allclose(found, wanted, atol=0.03 * np.ptp(wanted))
  assert not np.array_equal(found, wanted)


def test_bases_are_held_in_fewer_bytes(workdir):
  ready = predict.ready(str(workdir), '', jax.devices()[0], weights='int8')
  leaves = tiny.leaves(ready.variables['params'])
  narrow = {path for path, leaf in leaves.items() if leaf.dtype == np.int8}
  bases = {path for path in leaves if 'bases' in path}
  assert narrow == {path for path in bases if 'depthwise' not in path} and narrow


@pytest.mark.parametrize('reuse', [None, 0.0])
def test_a_stream_says_what_predictions_do(workdir, photos, predicted, tmp_path, reuse):
  asked = {'checkpoint': '', 'top_k': len(LABELS), 'weights': 'int8', 'realtime': False}
  stream.stream_clip(str(workdir), str(photos), str(tmp_path / 'out.csv'), reuse=reuse, **asked)
  found = of_table(tmp_path / 'out.csv')
  np.testing.assert_allclose(found, predicted['int8'], atol=1e-6)
  assert np.abs(found - predicted['float32']).max() > 1e-5


def test_a_server_has_them(workdir, monkeypatch):
  class Asked(Exception):
    pass

  def load(_, **options):
    raise Asked(options['weights'])

  monkeypatch.setattr(predict, 'load', load)
  limits = ('batch_size', 'batch_wait', 'max_body', 'max_pixels', 'queue', 'request_timeout')
  asked = {'checkpoint': '', 'host': '', 'port': 0, 'top_k': 1} | dict.fromkeys(limits, 1)
  with pytest.raises(Asked, match='int8'):
    serve.serve_workdir(str(workdir), weights='int8', **asked)


@pytest.mark.parametrize('name', ['tiny', 'cascade'])
def test_a_network_without_bases_gets_a_sentence(tmp_path, name):
  saved.run(tmp_path, model__name=name)
  with pytest.raises(UserError, match="^weights='int8' is for bases, and the network of .* none"):
    predict.load(tmp_path, weights='int8')


def test_bases_of_depthwise_layers_alone_do_not_become_smaller(tmp_path):
  saved.run(tmp_path, model__based_layers='.*depthwise')
  with pytest.raises(UserError, match=r'none that become smaller .*depthwise.*; leave it out\.$'):
    predict.load(tmp_path, weights='int8')


@pytest.mark.parametrize('weights', ['int4', None, ['int8']], ids=repr)
def test_others_are_told(workdir, weights):
  with pytest.raises(UserError, match='^weights=.*: there are float32, float16, int8.$'):
    predict.load(workdir, weights=weights)
