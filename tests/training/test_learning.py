"""From a recipe to its step: options that need two stages, pairs of images, the clipped norm."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.training import experiment, learning


@pytest.fixture
def config():
  return tiny.get_config()


@pytest.mark.parametrize(
  'key, value',
  [
    ('loss.exit_aware', 1),
    ('distillation.from_specialist', 1),
    ('training.alternate_steps', 1),
    ('training.remat_preview', True),
  ],
)
def test_option_for_two_stages_is_refused_where_there_is_one(config, key, value):
  config.update_from_flattened_dict({key: value})
  config.model.name = 'tiny'
  model = experiment.build_model(config)
  with pytest.raises(UserError, match=rf"{key}={value}.* is for two stages, and 'tiny' has one"):
    learning.objective(config, model, experiment.Schedule(config, 100))
    experiment.optimizer(config, model, optax.constant_schedule(0.1))


@pytest.mark.parametrize('name', ['cascade', 'tiny', 'condconv_resnet_10'])
@pytest.mark.parametrize('key', ['load_balance', 'coefficient_entropy'])
def test_loss_of_coefficients_is_refused_where_there_are_none(config, name, key):
  config.loss[key], config.model.name = 0.5, name
  model = experiment.build_model(config)
  with pytest.raises(UserError, match=f"{key}=0.5 is for 'basisnet', and this is '{name}'"):
    learning.objective(config, model, experiment.Schedule(config, 100))


def test_bases_are_scaled_for_sgd_alone(config):
  config.optimizer.scale_bases = True
  with pytest.raises(UserError, match="scale_bases is for 'sgd', not for 'rmsprop'"):
    experiment.optimizer(config, experiment.build_model(config), optax.constant_schedule(0.1))


def reported(config):
  """What the recipe's objective reports, by name; nothing runs."""
  model = experiment.build_model(config)
  objective = learning.objective(config, model, experiment.Schedule(config, 100))
  images = np.zeros((2, 16, 16, 3), np.uint8)
  variables = jax.eval_shape(model.init, jax.random.key(0), images.astype(np.float32))
  batch = {'image': images, 'label': np.zeros(2, np.int32)}
  arguments = variables['params'], variables['batch_stats'], batch, jax.random.key(0), jnp.int32(0)
  terms = jax.eval_shape(objective, *arguments)
  assert {leaf.shape for leaf in jax.tree.leaves(terms.values)} == {(2,)}
  return {*terms.values}


def test_every_option_of_the_loss_is_one_key_away_and_off_by_default(config):
  usual = reported(config)
  config.loss.exit_aware = 0.5
  assert reported(config) - usual == {'specialist_weight'}
  config.distillation.from_specialist = 0.5
  assert reported(config) - usual == {'specialist_weight', 'lightweight_from_specialist'}


def test_images_mix_in_pairs_that_a_device_has(config):
  mesh = sharding.create_mesh()
  assert learning.mixer(config, mesh) is None
  config.training.cutmix = 1.0
  assert learning.mixer(config, mesh) is not None
  config.training.batch_size = 24
  with pytest.raises(UserError, match='batch_size=24 .* 8 devices pairs .* a multiple of 16'):
    learning.mixer(config, mesh)


def test_what_never_learns_needs_a_file_of_weights(config):
  def start():
    return learning.Training(config, sharding.create_mesh(), 100).fresh_state()

  config.optimizer.learning_rate_factors = (('((lightweight|specialist)/)?(dense|norm)', 0.0),)
  with pytest.raises(UserError, match='lightweight_weights is empty.* lightweight/dense/kernel'):
    start()
  config.init.lightweight_weights = 'there.npz'
  with pytest.raises(UserError, match='config.init.weights is empty.* specialist/dense/.*bases'):
    start()
  config.model.name, config.init.lightweight_weights = 'tiny', ''
  with pytest.raises(UserError, match='config.init.weights is empty.* freezes dense/kernel'):
    start()
  # What begins as zeros and ones may stay so, and coefficients are in no file.
  config.model.name = 'basisnet'
  config.optimizer.learning_rate_factors = (('.*/bias', 0.0), ('coefficient_head', 0.0))
  assert start().step == 0


@pytest.mark.parametrize('name, stage', [('basisnet', 'lightweight/'), ('tiny', '')])
def test_a_classifier_that_starts_anew_is_not_frozen(config, name, stage):
  config.model.name, config.init.weights = name, 'there.npz'
  config.init.lightweight_weights = 'there.npz' if stage else ''
  config.optimizer.learning_rate_factors = ((f'{stage}(dense|classifier)', 0.0),)
  config.init.classifier = False
  with pytest.raises(UserError, match=f'init.classifier is False.* freezes {stage}classifier/ker'):
    learning.Training(config, sharding.create_mesh(), 100).read_weights()
  config.init.classifier = True
  with pytest.raises(UserError, match="There is no file 'there.npz'"):
    learning.Training(config, sharding.create_mesh(), 100).read_weights()


def test_gradients_are_clipped_by_their_global_norm(config):
  config.optimizer.clip_norm = 2.0
  config.optimizer.name, config.optimizer.weight_decay = 'sgd', 0.0
  update = experiment.optimizer(config, tiny.TinyNetwork(), optax.constant_schedule(1.0))
  params = {'a': {'kernel': jnp.zeros(2)}, 'b': {'bias': jnp.zeros(1)}}

  def updates(gradients):
    return update.update(gradients, update.init(params), params)[0]

  large, small = updates(of(6.0, 8.0, 24.0)), updates(of(0.6, 0.8, 0.0))
  factor = 2 / 26 * 1.9  # Nesterov's first step is 1 + momentum.
  np.testing.assert_allclose(large['a']['kernel'], [-6 * factor, -8 * factor], rtol=1e-6)
  np.testing.assert_allclose(large['b']['bias'], [-24 * factor], rtol=1e-6)
  np.testing.assert_allclose(small['a']['kernel'], [-0.6 * 1.9, -0.8 * 1.9], rtol=1e-6)


def of(first, second, third):
  return {'a': {'kernel': jnp.array([first, second])}, 'b': {'bias': jnp.array([third])}}
