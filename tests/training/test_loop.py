"""The loop on eight devices: what it refuses, what may change, what is left behind."""

import dataclasses
import json
import math
import os
import shutil

import jax
import numpy as np
import pytest
import tiny

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import chosen
from basisnet_jax.training import evaluator, experiment, learning, loop


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return str(tmp_path_factory.mktemp('digits'))


def recipe(data_dir):
  c = tiny.get_config()
  c.data.data_dir = data_dir
  c.training.steps = 6
  c.checkpoint.every_steps = 4
  c.logging.every_steps = 3
  c.data.train_split = 'train[:80%]'
  c.data.heldout_split = 'train[80%:]'
  c.evaluation.every_epochs = 0.05  # 4 steps.
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


def test_threshold_is_chosen_on_held_out_images_and_kept_with_the_checkpoint(finished, config):
  _, workdir, summary = finished
  kept = chosen.load(workdir, 6)
  assert kept.heldout['images'] == 287 and kept.heldout['split'] == 'train[80%:]'
  assert summary['chosen']['threshold'] == kept.threshold
  config.early_exit.choose.by, config.early_exit.choose.exit_rate = 'exit_rate', 0.5
  again = evaluator.evaluate_workdir(config, workdir)  # Chosen anew, without training.
  kept = chosen.load(workdir, 6)
  assert kept.goal == {'by': 'exit_rate', 'exit_rate': 0.5}
  assert 0.5 <= kept.heldout['exit_rate'] < 0.51
  assert again['chosen']['threshold'] == kept.threshold
  assert again['specialist'] == summary['specialist']
  config.data.heldout_split = ''  # What was chosen stays in use.
  assert evaluator.evaluate_workdir(config, workdir) == again


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


def test_choice_of_another_step_or_rule_is_not_used_and_it_is_said(
  finished, config, tmp_path, capsys
):
  _, workdir, _ = finished
  run = shutil.copytree(workdir, tmp_path / 'run')
  evaluator.evaluate_workdir(config, run)
  kept = chosen.load(run, 6)
  config.data.heldout_split = ''
  chosen.save(run, dataclasses.replace(kept, step=4))
  assert 'chosen' not in evaluator.evaluate_workdir(config, run)
  said = capsys.readouterr().out
  assert 'No threshold is used.' in said and 'of step 4, and this one is of step 6' in said
  assert "--config.data.heldout_split='train[95%:]'" in said  # How to get one.
  chosen.save(run, dataclasses.replace(kept, rule='margin'))
  assert 'chosen' not in evaluator.evaluate_workdir(config, run)
  assert "early_exit.rule='margin'" in capsys.readouterr().out
  chosen.save(run, dataclasses.replace(kept, heldout={**kept.heldout, 'split': 'test[50%:]'}))
  assert 'chosen' not in evaluator.evaluate_workdir(config, run)
  assert "eval_split='test' share 180 images" in capsys.readouterr().out


@pytest.mark.parametrize('model', ['basisnet', 'tiny'])
def test_split_of_broken_images_alone_is_refused(config, model, monkeypatch):
  config.model.name, config.data.eval_split = model, 'test[:8]'
  read = experiment.eval_batches

  def broken(*arguments):
    for batch in read(*arguments):
      yield batch | {'mask': np.zeros_like(batch['mask'])}

  monkeypatch.setattr(experiment, 'eval_batches', broken)
  mesh, dataset = sharding.create_mesh(), experiment.open_dataset(config)
  training = learning.Training(config, mesh, 100)
  evaluate = evaluator.Evaluator(config, training.model, dataset, mesh, training.state)
  with pytest.raises(UserError, match=r"None of the 8 images of 'test\[:8\]' of dataset 'digits'"):
    evaluate(training.fresh_state())


@pytest.mark.parametrize(
  'heldout, sentence',
  [
    ('train[70%:]', r"data.train_split='train\[:80%\]' share 144 images; hold out others"),
    ('test', "data.eval_split='test' share 360 images; hold out others"),
    ('train[-3:]', 'has 3 images, too few to choose'),
  ],
)
def test_held_out_images_that_are_few_or_seen_elsewhere_are_refused(
  config, tmp_path, heldout, sentence
):
  config.data.heldout_split = heldout
  with pytest.raises(UserError, match=sentence):
    loop.train_and_evaluate(config, str(tmp_path))
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
  'key, value, sentence',
  [
    ('data.eval_split', 'validation', "has no split 'validation'"),
    ('data.eval_resize', 'lanczos', "data.eval_resize is 'lanczos'"),
    ('evaluation.batch_size', 100, 'batch_size=100 cannot be split over 8 devices'),
  ],
)
def test_what_the_first_evaluation_would_refuse_is_refused_before_training(
  config, tmp_path, key, value, sentence
):
  config.data.heldout_split = ''
  config.update_from_flattened_dict({key: value})
  with pytest.raises(UserError, match=sentence):
    loop.train_and_evaluate(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_evaluation_images_that_training_sees_are_counted(config, tmp_path, capsys):
  config.data.heldout_split, config.data.eval_split = '', 'train[:10%]'
  config.training.steps = 1
  loop.train_and_evaluate(config, str(tmp_path))
  assert "144 images of config.data.eval_split='train[:10%]' are in" in capsys.readouterr().out


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


def test_interrupted_run_with_all_parts_of_the_recipe_ends_as_one_that_was_not(
  finished, config, tmp_path
):
  config.training.mixup, config.training.cutmix = 0.4, 1.0
  config.training.alternate_steps = 3
  config.training.accumulation = 2
  config.optimizer.clip_norm = 1.0
  config.loss.exit_aware = 0.5
  config.distillation.from_specialist = 0.5
  config.distillation.teacher.workdir = finished[1]
  whole, resumed = str(tmp_path / 'whole'), str(tmp_path / 'resumed')
  expected = loop.train_and_evaluate(config, whole)
  shutil.copytree(whole, resumed)
  for name in ('checkpoints/6', 'best'):
    shutil.rmtree(os.path.join(resumed, name))
  assert loop.train_and_evaluate(config, resumed) == expected
  # The teacher is in no checkpoint.
  model = experiment.build_model(config)
  update = experiment.optimizer(config, model, lambda step: 0.1)
  wanted = jax.eval_shape(experiment.state_factory(config, model, update))
  saved = json.loads((tmp_path / 'whole/checkpoints/6/about/metadata').read_text())
  assert len(saved['checksums']) == len(jax.tree.leaves(wanted))


def test_loss_that_is_not_finite_ends_the_run_and_names_the_images(config, tmp_path):
  config.optimizer.learning_rate = 1e30
  config.optimizer.warmup_epochs = 0.0
  sentence = r'not finite in step 2 \(no checkpoint was saved yet; .*learning_rate'
  with pytest.raises(UserError, match=sentence):
    loop.train_and_evaluate(config, str(tmp_path))
  found = json.loads((tmp_path / 'not_finite_step_2_process_0.json').read_text())
  dataset = experiment.open_dataset(config)
  assert found['images_of_steps']['2'] == experiment.train_records(config, dataset, batch=1)
  assert len(found['images_of_steps']['1']) == config.training.batch_size


def poison(monkeypatch, *steps):
  """Makes the loss of these steps not a number."""
  train_batches = experiment.train_batches

  def poisoned(config, dataset, mesh, start):
    for step, batch in enumerate(train_batches(config, dataset, mesh, start), start + 1):
      yield batch | {'mask': np.full_like(batch['mask'], np.nan)} if step in steps else batch

  monkeypatch.setattr(experiment, 'train_batches', poisoned)


def test_last_good_checkpoint_stays_and_the_run_goes_on_without_the_step(
  config, tmp_path, monkeypatch, capsys
):
  poison(monkeypatch, 5)
  with pytest.raises(UserError, match=r"step 5 \(step 4 is kept; .*nonfinite='skip'"):
    loop.train_and_evaluate(config, str(tmp_path))
  assert os.listdir(tmp_path / 'checkpoints') == ['4']
  config.training.nonfinite = 'skip'
  summary = loop.train_and_evaluate(config, str(tmp_path))
  assert (summary['step'], math.isfinite(summary['specialist']['loss'])) == (6, True)
  assert 'step 6  not finite and left out: 1 of the last steps' in capsys.readouterr().out


def test_steps_that_are_all_skipped_end_the_run(config, tmp_path, monkeypatch):
  poison(monkeypatch, *range(7))
  config.training.nonfinite = 'skip'
  with pytest.raises(UserError, match='The loss was not finite in step 3 '):
    loop.train_and_evaluate(config, str(tmp_path))
  assert os.listdir(tmp_path / 'checkpoints') == []


def test_wrong_file_of_weights_is_told_before_anything_is_set_up(config, tmp_path, capsys):
  config.init.weights = str(tmp_path / 'none.npz')
  with pytest.raises(UserError, match='There is no file .*none.npz'):
    loop.train_and_evaluate(config, str(tmp_path / 'run'))
  assert capsys.readouterr().out == ''
  assert not (tmp_path / 'run' / 'config.json').exists()


def test_continued_run_needs_its_files_of_weights_no_more(finished, config, monkeypatch):
  _, workdir, summary = finished
  monkeypatch.delattr(learning.Training, 'read_weights')
  assert loop.train_and_evaluate(config, workdir)['specialist'] == summary['specialist']


def test_unknown_policy_is_one_sentence(config, tmp_path):
  config.training.nonfinite = 'ignore'
  with pytest.raises(UserError, match="training.nonfinite is 'ignore': use 'stop' or 'skip'"):
    loop.train_and_evaluate(config, str(tmp_path))


def test_mistake_in_a_recipe_can_be_mended_in_the_same_workdir(config, tmp_path, finished):
  config.training.batch_size = 12
  with pytest.raises(UserError, match='training.batch_size=12 cannot be split over 8 devices'):
    loop.train_and_evaluate(config, str(tmp_path))
  config.training.batch_size = 16
  summary = loop.train_and_evaluate(config, str(tmp_path))
  # The same seed, recipe and machine: the same run.
  assert summary == finished[2]
