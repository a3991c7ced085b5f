"""From a recipe to its parts."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from basisnet_jax import command_line, models, sharding
from basisnet_jax.errors import UserError
from basisnet_jax.training import experiment, learning


@pytest.fixture
def config():
  return tiny.get_config()


@pytest.fixture(scope='session')
def digits_folder(tmp_path_factory):
  return str(tmp_path_factory.mktemp('digits'))


def test_model_is_the_recipes(config):
  config.model.dtype = 'bfloat16'
  config.model.coefficients.temperature = 3.0
  config.model.coefficients.shared = True
  config.model.coefficients.activation = 'sigmoid'
  config.model.coefficients.basis_dropout = 0.125
  config.model.refine = 0.5
  model = experiment.build_model(config)
  assert isinstance(model, models.BasisNet)
  assert (model.num_bases, model.lightweight_resolution) == (2, 8)
  assert (model.temperature, model.shared, model.activation) == (3.0, True, 'sigmoid')
  assert (model.lightweight.width, model.specialist.width) == (0.5, 1.0)
  assert (model.lightweight.dropout, model.specialist.dropout) == (0.2, 0.2)
  for network in (model.lightweight, model.specialist):
    assert (network.num_classes, network.style.dtype) == (10, jnp.bfloat16)
  assert model.layers == ('dense', 'depthwise', 'pointwise')
  assert model.basis_dropout == 0.125 and model.refine == 0.5


def test_the_demo_holds_images_out_for_its_threshold(digits_folder):
  recipe = pathlib.Path(__file__).parents[2] / 'configs' / 'digits.py'
  demo = command_line.load_recipe(str(recipe))
  demo.data.data_dir = digits_folder
  dataset = experiment.open_dataset(demo)
  experiment.check_heldout(demo, dataset, demo.data.heldout_split)
  splits = demo.data.train_split, demo.data.heldout_split, demo.data.eval_split
  assert [experiment.num_images(dataset, split) for split in splits] == [1150, 287, 360]


def test_any_other_name_is_that_network_alone(config):
  config.model.name = 'tiny'
  config.model.width = 2.0
  model = experiment.build_model(config)
  assert isinstance(model, tiny.TinyNetwork) and model.width == 2.0


def test_layers_of_a_peer_are_the_recipes_but_not_of_the_preview(config):
  config.model.based_layers = 'last'
  config.model.coefficients.temperature = 3.0
  config.model.name = 'condconv_mobilenet_v3_small'
  alone = experiment.build_model(config)
  assert (alone.layers, alone.temperature) == (('last/conv',), 3.0)
  config.model.name = 'basisnet'
  config.model.specialist = 'mobilenet_v3_small'
  config.model.lightweight.name = 'condconv_mobilenet_v3_small'
  model = experiment.build_model(config)
  assert model.layers == ('last/conv',) and model.temperature == 3.0
  assert len(model.lightweight.layers) > 1 and model.lightweight.temperature == 1.0


def test_each_stage_has_its_stochastic_depth(config):
  config.model.name, config.model.specialist = 'cascade', 'mobilenet_v2'
  config.model.lightweight.name = 'resnet_18'
  config.model.stochastic_depth, config.model.lightweight.stochastic_depth = 0.2, 0.1
  model = experiment.build_model(config)
  assert (model.specialist.stochastic_depth, model.lightweight.stochastic_depth) == (0.2, 0.1)


def test_classes_are_known_without_the_data(config):
  config.data.name = 'imagenet2012'
  assert experiment.num_classes(config) == 1000
  config.model.num_classes = 7
  assert experiment.num_classes(config) == 7


def test_wrong_dtype_is_refused(config):
  config.model.dtype = 'float16'
  with pytest.raises(UserError, match="'float16'; it can be 'float32' or 'bfloat16'"):
    experiment.build_model(config)


def test_wrong_number_of_classes_is_refused(config, digits_folder):
  config.data.data_dir = digits_folder
  dataset = experiment.open_dataset(config)
  experiment.check_classes(config, dataset)
  config.model.num_classes = 11
  with pytest.raises(UserError, match='num_classes=11, but digits has 10'):
    experiment.check_classes(config, dataset)


def test_epochs_become_steps_of_the_whole_batch(config):
  config.training.batch_size = 64
  config.training.epochs = 2.0
  schedule = experiment.Schedule(config, 1437)
  assert schedule.steps_per_epoch == pytest.approx(1437 / 64)
  assert (schedule.total_steps, schedule.steps(0.5), schedule.steps(0.0)) == (45, 12, 0)
  config.training.steps = 7
  assert experiment.Schedule(config, 1437).total_steps == 7


def test_learning_rate_counts_epochs(config):
  config.training.batch_size = 10
  config.optimizer.update(
    {
      'schedule': 'exponential',
      'learning_rate': 1.0,
      'warmup_epochs': 0.5,
      'decay_rate': 0.5,
      'decay_epochs': 2.0,
    }
  )
  rate = experiment.learning_rate(config, experiment.Schedule(config, 100))
  found = [float(rate(step)) for step in (0, 4, 19, 20, 40)]
  assert found == pytest.approx([0.2, 1.0, 1.0, 0.5, 0.25])


def test_epochs_without_end_hold_their_first_value(config):
  config.model.coefficients.update({'uniform_mix': 0.8, 'uniform_mix_hold_epochs': 1e300})
  config.optimizer.update({'schedule': 'exponential', 'learning_rate': 1.0, 'decay_epochs': 1e300})
  config.optimizer.warmup_epochs = 0.0
  schedule = experiment.Schedule(config, 100)
  assert float(learning.annealed(config, schedule)(10**6).uniform_mix) == pytest.approx(0.8)
  assert float(experiment.learning_rate(config, schedule)(10**6)) == 1.0


def test_uniform_mix_holds_then_falls_linearly_and_is_off_by_default(config):
  config.training.batch_size = 10
  config.model.coefficients.uniform_mix = 0.8
  config.model.coefficients.uniform_mix_epochs = 2.0
  schedule = experiment.Schedule(config, 100)
  for hold, expected in ((0.0, [0.8, 0.4, 0.0, 0.0]), (1.5, [0.8, 0.8, 0.6, 0.2])):
    config.model.coefficients.uniform_mix_hold_epochs = hold
    annealed = learning.annealed(config, schedule)
    mix = [float(annealed(step).uniform_mix) for step in (0, 10, 20, 30)]
    assert mix == pytest.approx(expected)
  config.model.coefficients.uniform_mix_hold_epochs = 0.0
  config.model.coefficients.uniform_mix = 0.0
  config.model.coefficients.uniform_mix_epochs = 0.0
  assert float(learning.annealed(config, schedule)(0).uniform_mix) == 0.0


def test_temperature_falls_linearly_to_the_heads_and_is_off_by_default(config):
  config.training.batch_size = 10
  schedule = experiment.Schedule(config, 100)
  assert learning.annealed(config, schedule)(0).temperature is None
  config.model.coefficients.temperature_start = 30.0
  config.model.coefficients.temperature = 2.0
  config.model.coefficients.temperature_epochs = 2.0
  annealed = learning.annealed(config, schedule)
  temperatures = [float(annealed(step).temperature) for step in (0, 10, 20, 30)]
  assert temperatures == pytest.approx([30.0, 16.0, 2.0, 2.0])


@pytest.mark.parametrize('name', ['rmsprop', 'sgd', 'adamw'])
def test_optimizer_is_the_recipes(config, name):
  config.optimizer.name = name
  schedule = experiment.Schedule(config, 100)
  update = experiment.optimizer(
    config, tiny.TinyNetwork(), experiment.learning_rate(config, schedule)
  )
  params = {'kernel': jnp.ones(2)}
  updates, _ = update.update({'kernel': jnp.ones(2)}, update.init(params), params)
  assert (updates['kernel'] < 0).all()


def test_state_has_averages_only_where_the_recipe_wants_them(config):
  model = experiment.build_model(config)
  update = experiment.optimizer(config, tiny.TinyNetwork(), lambda step: 0.1)
  assert jax.eval_shape(experiment.state_factory(config, model, update)).ema is not None
  config.ema_decay = 0.0
  assert jax.eval_shape(experiment.state_factory(config, model, update)).ema is None


def test_bases_start_as_alike_as_the_recipe_says(config):
  model = experiment.build_model(config)
  update = experiment.optimizer(config, model, lambda step: 0.1)

  def start(correlation):
    config.init.bases_correlation = correlation
    state = jax.jit(experiment.state_factory(config, model, update))()
    return tiny.leaves(state.params), tiny.leaves(state.ema['params'])

  (apart, _), (equal, averages) = start(0.0), start(1.0)
  assert sum(path.endswith("['bases']") for path in apart) == 3
  for path, leaf in apart.items():
    if path.endswith("['bases']"):
      assert np.abs(leaf[0] - leaf[1]).max() > 0.01
      np.testing.assert_array_equal(equal[path][0], equal[path][1])
      np.testing.assert_allclose(equal[path][0], leaf.sum(0) / 2**0.5, atol=1e-6)
    else:
      np.testing.assert_array_equal(equal[path], leaf)
    np.testing.assert_array_equal(averages[path], equal[path])


def test_batches_are_the_recipes(config, digits_folder):
  config.data.data_dir = digits_folder
  dataset, mesh = experiment.open_dataset(config), sharding.create_mesh()
  assert experiment.num_images(dataset, 'train') == 1437
  assert experiment.num_images(dataset, 'test') == 360
  first, second, third = (
    next(experiment.train_batches(config, dataset, mesh, step)) for step in (0, 0, 5)
  )
  assert first['image'].shape == (16, 16, 16, 3)
  np.testing.assert_array_equal(first['image'], second['image'])
  assert not np.array_equal(first['image'], third['image'])
  config.evaluation.batch_size = 200
  masks = [batch['mask'].sum() for batch in experiment.eval_batches(config, dataset, mesh, 'test')]
  assert masks == [200, 160]


@pytest.mark.parametrize('key', ['training', 'evaluation'])
def test_batch_size_that_the_devices_cannot_share_is_refused(config, digits_folder, key):
  config.data.data_dir = digits_folder
  config[key].batch_size = 12
  batches = experiment.train_batches if key == 'training' else experiment.eval_batches
  arguments = (0,) if key == 'training' else ('test',)
  with pytest.raises(UserError, match=f'config.{key}.batch_size=12 cannot be split over 8 devices'):
    batches(config, experiment.open_dataset(config), sharding.create_mesh(), *arguments)


def test_state_of_the_imagenet_recipe_takes_an_eighth_of_the_memory_on_eight_devices():
  config = command_line.load_recipe('configs/mnv3.py')
  with config.unlocked():
    config.sharding.mesh, config.sharding.preset = (('data', 1), ('fsdp', 8)), 'fsdp'
    config.model.num_classes = 1000
  mesh = sharding.create_mesh(config.sharding.mesh)
  model = experiment.build_model(config)
  update = experiment.optimizer(config, model, optax.constant_schedule(0.1))
  create = experiment.state_factory(config, model, update)
  state = experiment.abstract_state(config, create, mesh)
  held = sharding.bytes_per_device(state)
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
  assert whole / 8 < held < 1.03 * whole / 8
