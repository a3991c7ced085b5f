"""Where a recipe's teacher comes from, and what becomes of a recipe whose teacher is amiss."""

import os

import jax
import numpy as np
import pytest
import tiny
import torchvision_file

from basisnet_jax import config as config_lib
from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained
from basisnet_jax.training import checkpoints, experiment, teacher
from basisnet_jax.training import state as train_state


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(workdir, state) of a run that is saved at its start; its averages are not its parameters."""
  workdir, config = str(tmp_path_factory.mktemp('teacher')), tiny.get_config()
  model = experiment.build_model(config)
  update = experiment.optimizer(config, model, lambda step: 0.1)
  create = experiment.state_factory(config, model, update)
  state = train_state.initialize(create, sharding.replicated(sharding.create_mesh()))
  state = state.replace(ema=jax.tree.map(lambda leaf: leaf + 1, state.ema))
  config_lib.save(config, workdir, label_names=list('0123456789'), device_kind='cpu')
  with checkpoints.Checkpoints(os.path.join(workdir, 'checkpoints'), keep=1) as saved:
    saved.save(state)
  return workdir, state


@pytest.fixture
def config(run):
  c = tiny.get_config()
  c.model.resolution = 32
  c.distillation.teacher.workdir = run[0]
  return c


def refusal(config):
  with pytest.raises(UserError) as caught:
    teacher.load(config, sharding.create_mesh())
  return str(caught.value)


def test_recipe_without_a_teacher_has_none():
  assert teacher.load(tiny.get_config(), sharding.create_mesh()) is None


def test_teacher_without_a_weight_is_left_out(config):
  config.distillation.weight = 0.0
  assert teacher.load(config, sharding.create_mesh()) is None


def test_run_teaches_by_the_averages_of_its_own_recipe(config, run, monkeypatch):
  monkeypatch.setattr(sharding, 'SMALLEST_SPLIT', 64)
  config.sharding.mesh, config.sharding.preset = (('data', 2), ('fsdp', 4)), 'fsdp'
  found = teacher.load(config, sharding.create_mesh(config.sharding.mesh))
  assert found.resolution == 16 and found.model.layers == ('dense', 'depthwise', 'pointwise')
  jax.tree.map(np.testing.assert_array_equal, found.variables, run[1].ema)
  assert not all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(found.variables))


def test_network_of_the_registry_teaches_with_its_weights(config, tmp_path):
  path = str(tmp_path / 'weights.npz')
  np.savez(path, **torchvision_file.state_dict(torchvision_file.random_leaves()))
  config.model.num_classes, t = torchvision_file.CLASSES, config.distillation.teacher
  t.workdir, t.name, t.weights = '', 'mobilenet_v2', path
  t.width, t.resolution = torchvision_file.WIDTH, 48
  t.padding, t.pixel_std = 'symmetric', (1.0, 1.0, 1.0)
  found = teacher.load(config, sharding.create_mesh())
  style = found.model.style
  assert (found.resolution, style.padding, style.pixel_std) == (48, 'symmetric', (1.0, 1.0, 1.0))
  expected = pretrained.load(found.model, path)
  jax.tree.map(np.testing.assert_array_equal, found.variables, expected)
  assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(found.variables))
  assert config.model.name == 'basisnet'

  config.model.num_classes = 5
  assert 'classifier' in refusal(config)
  t.weights = ''
  assert 'teacher.name=mobilenet_v2 needs its weights' in refusal(config)
  t.name, t.weights = 'basisnet', path
  assert 'teacher.name=basisnet has two stages' in refusal(config)
  t.workdir = str(tmp_path)
  assert 'both a workdir' in refusal(config)
  t.workdir, t.name = '', ''
  assert 'weights.npz is of which network' in refusal(config)


def test_teacher_that_is_not_there_is_one_sentence(config, run, tmp_path):
  t = config.distillation.teacher
  t.checkpoint = 'best'
  assert refusal(config) == (
    f'config.distillation.teacher.workdir={run[0]} has no checkpoint in best/; train it first.'
  )
  t.checkpoint = 'newest'
  assert "teacher.checkpoint is 'newest'; it can be 'latest' or 'best'" in refusal(config)
  t.checkpoint, t.workdir = 'latest', str(tmp_path / 'nowhere')
  assert 'nowhere holds no run (it has no config.json)' in refusal(config)


def test_teacher_of_other_classes_is_one_sentence(config):
  config.model.num_classes = 100
  assert 'has 10 classes, the data to be learned 100' in refusal(config)
