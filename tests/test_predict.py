"""Runs that cannot be loaded; tables that grow: to full disks, and to readers who leave."""

import io
import json
import os
import re
import sys

import jax
import numpy as np
import pytest
import running
import saved
import tiny

from basisnet_jax import config as config_lib
from basisnet_jax import predict
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import chosen
from basisnet_jax.inference import folder, prediction
from basisnet_jax.training import class_names
from basisnet_jax.training.progress import Progress


def test_each_line_is_there_when_it_is_written(tmp_path):
  path = tmp_path / 'new' / 'table.csv'
  with predict.opened(str(path)) as file:
    for line in ('a\n', 'b\n'):
      file.write(line)
      assert path.read_text().endswith(line)


@pytest.mark.parametrize(('name', 'first'), [('.csv', 'file,stage,'), ('.jsonl', '{"file": ')])
def test_a_name_that_is_a_kind_alone_tells_the_kind(tmp_path, name, first):
  answer = prediction.Prediction(('a',), (1.0,), 'network', 1.0, 5)
  predict.write([('a.jpg', answer)], str(tmp_path / name), 1, Progress(1, enabled=False))
  assert (tmp_path / name).read_text().startswith(first)


def test_a_full_disk_is_told():
  with pytest.raises(UserError, match=r'--output=/dev/full cannot be written \(No space left'):
    with predict.opened('/dev/full') as file:
      file.write('a\n')


def test_a_reader_who_leaves_is_told_once(monkeypatch):
  reader, writer = os.pipe()
  os.close(reader)
  with os.fdopen(writer, 'w') as stdout:
    monkeypatch.setattr(sys, 'stdout', stdout)
    with pytest.raises(UserError, match=r'^The table cannot be written \(Broken pipe\)\.$'):
      with predict.opened(None) as file:
        file.write('a\n')
    stdout.flush()  # As Python does at its end.


def test_a_console_without_a_labels_letters_gets_their_numbers(monkeypatch):
  console = io.TextIOWrapper(io.BytesIO(), 'ascii')
  monkeypatch.setattr(sys, 'stdout', console)
  with predict.opened(None) as file:
    file.write('köter,1\n')
  assert console.buffer.getvalue() == b'k\\xf6ter,1\n'


def test_errors_of_those_who_answer_are_theirs():
  with pytest.raises(OSError, match='image file is truncated'):
    with predict.opened(None):
      raise OSError('image file is truncated')


@pytest.mark.parametrize(
  'workdir, devices, sentence',
  [
    (None, None, '^workdir is the folder of a run, and this is NoneType.$'),
    (3, None, '^workdir is the folder of a run, and this is int.$'),
    ('nowhere', 'cpu', "^devices='cpu' is no list of JAX devices, such as jax.devices"),
    ('nowhere', ['cpu'], r"^devices=\['cpu'\] is no list of JAX devices"),
    ('nowhere', jax.devices()[0], 'is no list of JAX devices'),
    ('nowhere', 1, '^devices=1 is no list of JAX devices'),
    ('nowhere', [], r'^devices=\[\] is no list of JAX devices'),
    ('nowhere', jax.devices()[:2], '^nowhere holds no run'),
  ],
  ids=repr,
)
def test_what_cannot_be_loaded_is_told(workdir, devices, sentence):
  with pytest.raises(UserError, match=sentence):
    predict.load(workdir, devices=devices)


def test_labels_are_utf_8_and_others_are_told(tmp_path):
  config_lib.save(tiny.get_config(), tmp_path, label_names=['cat', 'köter'], device_kind='cpu')
  (tmp_path / 'labels.txt').write_text('cat\nköter\n', 'latin-1')
  with pytest.raises(UserError, match=r"/labels\.txt cannot be read \('utf-8' .*, in UTF-8"):
    predict.load(tmp_path)
  (tmp_path / 'labels.txt').write_text('cat\nköter\n', 'utf-8-sig')  # As editors may save it.
  assert class_names.labels(tmp_path) == ('cat', 'köter')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  return saved.run(tmp_path_factory.mktemp('run'))


@pytest.mark.parametrize('checkpoint', [['best'], 1, b'latest', 'first'])
def test_a_checkpoint_that_there_is_not_is_told(workdir, checkpoint):
  sentence = re.escape(f"checkpoint is {checkpoint!r}; it can be 'latest' or 'best'.")
  with pytest.raises(UserError, match=sentence):
    predict.load(workdir, checkpoint=checkpoint)


def test_a_budget_that_takes_no_exit_is_told_in_words(workdir, capsys):
  asked = predict.load(workdir)
  threshold, madds = asked.threshold_for(average_madds=1e6), asked.cost.total_madds
  predict.tell(asked, folder.Total(2, 0, 2 * madds, []), threshold, 'table.csv')
  assert '; 0.0% exited, threshold 2: every image goes through both' in capsys.readouterr().err
  predict.tell(asked, folder.Total(2, 0, 2 * madds, []), 1.0, 'table.csv')
  assert '; 0.0% exited, threshold 1\n' in capsys.readouterr().err


@pytest.mark.parametrize('count', [1, 9, 11])
def test_other_labels_than_classes_are_told(workdir, count):
  whole = (workdir / 'labels.txt').read_text()
  (workdir / 'labels.txt').write_text('cat\n' * count)
  with pytest.raises(UserError) as refused:
    predict.load(workdir)
  assert str(refused.value) == (
    f'{workdir}/labels.txt names {count} classes, and the network has 10; bring back a name of '
    'each, one a line.'
  )
  (workdir / 'labels.txt').write_text(whole)
  assert predict.load(workdir).labels == tuple('abcdefghij')


@pytest.mark.parametrize(
  'group, key, value, sentence',
  [
    ('data', 'eval_crop', -1, 'config.json: data.eval_crop is -1.0, wanted above 0 and at most 1;'),
    ('data', 'eval_resize', 'nearest', "data.eval_resize is 'nearest' .*: use 'bilinear' or"),
    ('model', 'width', 2.0, r'is of the shape \[\d.*\], and by this recipe \[\d.*\]\); if they'),
  ],
)
def test_a_recipe_that_was_edited_is_told(workdir, group, key, value, sentence):
  path = workdir / 'config.json'
  whole = path.read_text()
  saved = json.loads(whole)
  saved[group][key] = value
  path.write_text(json.dumps(saved))
  with pytest.raises(UserError, match=sentence):
    predict.load(workdir)
  path.write_text(whole)


def test_how_to_exit_is_told_where_nobody_has_chosen(workdir):
  asked = predict.load(workdir)
  told = predict.how_to_exit(asked, asked.threshold_for())
  assert told.startswith('Nobody exits: give --threshold, or have one chosen')
  numbers = dict.fromkeys(('images', 'exit_rate', 'average_madds', 'top1', 'specialist_top1'), 0)
  kept = chosen.Chosen(
    rule='margin',
    temperatures={'lightweight': 1.0, 'specialist': 1.0},
    threshold=2.0,
    goal={'by': 'guarantee'},
    reason='nobody exits, since none passed the test',
    heldout={'data': 'digits', 'split': 'train[80%:]'} | numbers,
    checkpoint='checkpoints',
    step=0,
  )
  chosen.save(workdir, kept)
  asked = predict.load(workdir)
  assert asked.about(asked.threshold)['chosen']['reason'] == kept.reason
  assert predict.how_to_exit(asked, asked.threshold_for()) == ''
  (workdir / chosen.NAME).unlink()


def test_a_network_of_one_stage_answers_as_it_was_calibrated(tmp_path, data_flag):
  held_out = ('--config.data.train_split=train[:80%]', '--config.data.heldout_split=train[80%:]')
  one = '--config.model.name=resnet_18', '--config.training.steps=60'
  workdir = tmp_path / 'run'
  running.run_well(*tiny.RUN, *one, *held_out, data_flag, f'--workdir={workdir}')
  images = list(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))

  def answers():
    return np.stack([a.probabilities for a in predict.load(str(workdir)).predict(images, top_k=10)])

  temperature = json.loads((workdir / 'early_exit.json').read_text())['temperatures']['network']
  calibrated = answers()
  (workdir / 'early_exit.json').unlink()
  expected = answers() ** (1 / temperature)
  np.testing.assert_allclose(calibrated, expected / expected.sum(1, keepdims=True), rtol=1e-4)
  assert abs(temperature - 1) > 0.01
