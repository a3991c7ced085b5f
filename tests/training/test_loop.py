"""The loop on eight devices: what it refuses, what may change, what is left behind."""

import math
import os

import numpy as np
import pytest
import tiny

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import metrics
from basisnet_jax.training import evaluator, loop


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('digits'))


def recipe(data_dir):
  c = tiny.get_config()
  c.data.data_dir = data_dir
  c.training.steps = 6
  c.checkpoint.every_steps = 4
  c.logging.every_steps = 3
  c.evaluation.every_epochs = 0.04  # 4 steps.
  return c


@pytest.fixture
def config(data_dir):
  return recipe(data_dir)


@pytest.fixture(scope='module')
def finished(tmp_path_factory, data_dir):
  """(config, workdir, summary) of a run of six steps."""
  workdir = str(tmp_path_factory.mktemp('run'))
  return recipe(data_dir), workdir, loop.train_and_evaluate(recipe(data_dir), workdir)


def test_run_returns_its_last_evaluation(finished):
  config, workdir, summary = finished
  assert (summary['step'], summary['images']) == (6, 360)
  assert evaluator.evaluate_workdir(config, workdir) == summary
  assert sorted(os.listdir(os.path.join(workdir, 'checkpoints'))) == ['4', '6']


def test_best_checkpoint_can_be_evaluated(finished, config):
  _, workdir, summary = finished
  config.evaluation.checkpoint = 'best'
  best = evaluator.evaluate_workdir(config, workdir)
  (step,) = os.listdir(os.path.join(workdir, 'best'))
  assert best['step'] == int(step)
  assert best['specialist']['top1'] >= summary['specialist']['top1']
  config.evaluation.checkpoint = 'newest'
  with pytest.raises(UserError, match="'newest'; it can be 'latest' or 'best'"):
    evaluator.evaluate_workdir(config, workdir)


@pytest.mark.parametrize(
  'key, value', [('seed', 1), ('optimizer.learning_rate', 0.5), ('model.num_bases', 3)]
)
def test_run_is_not_continued_with_another_recipe(finished, config, key, value):
  _, workdir, _ = finished
  config.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=rf'another recipe \({key} was .* and is {value}\)'):
    loop.train_and_evaluate(config, workdir)


def test_what_a_run_does_not_compute_may_change(finished, config):
  _, workdir, summary = finished
  config.name = 'renamed'
  config.checkpoint.keep = 1
  config.logging.every_steps = 1
  config.evaluation.thresholds = (0.2,)
  found = loop.train_and_evaluate(config, workdir)
  assert found['specialist'] == summary['specialist']
  assert [point['threshold'] for point in found['early_exit']] == [0.2]


def test_loss_that_is_not_finite_ends_the_run_in_a_sentence(config, tmp_path):
  config.optimizer.learning_rate = 1e30
  config.optimizer.warmup_epochs = 0.0
  with pytest.raises(UserError, match=r'The loss became (nan|inf) by step \d .*learning_rate'):
    loop.train_and_evaluate(config, str(tmp_path))


def test_mistake_in_a_recipe_can_be_mended_in_the_same_workdir(config, tmp_path, finished):
  config.training.batch_size = 12
  with pytest.raises(UserError, match='training.batch_size=12 cannot be split over 8 devices'):
    loop.train_and_evaluate(config, str(tmp_path))
  config.training.batch_size = 16
  summary = loop.train_and_evaluate(config, str(tmp_path))
  # The same seed, recipe and machine: the same run.
  assert summary == finished[2]


def test_window_averages_and_times_its_steps(monkeypatch):
  class Clock:
    now = 100.0

    def monotonic(self):
      return self.now

  clock = Clock()
  monkeypatch.setattr(loop, 'time', clock)
  kind = metrics.collection(('loss',))
  window = loop._Window()
  for loss in (1.0, 2.0, 6.0):
    with window.waiting_for_data():
      clock.now += 0.5
    clock.now += 1.5
    window.add(kind.single_from_model_output(loss=np.float32(loss)))
  with window.paused():
    clock.now += 1000
  assert window.close(batch_size=8) == pytest.approx(
    {'train/loss': 3.0, 'perf/images_per_second': 3 * 8 / 6, 'perf/data_wait': 0.25}
  )
  clock.now += 2
  window.add(kind.single_from_model_output(loss=np.float32(math.inf)))
  assert window.close(batch_size=8)['perf/images_per_second'] == pytest.approx(4)
