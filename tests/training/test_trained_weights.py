"""Runs that start from trained weights: what the recipe's files say is what is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_file

from basisnet_jax import base_config, sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained
from basisnet_jax.training import experiment

IMAGES = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A file of a trained MobileNetV2."""
  path = tmp_path_factory.mktemp('weights') / 'mobilenet_v2.npz'
  np.savez(path, **torchvision_file.state_dict(torchvision_file.random_leaves()))
  return str(path)


@pytest.fixture
def config(weights):
  c = base_config.get_config()
  c.model.num_classes = torchvision_file.CLASSES
  c.model.resolution = c.model.lightweight.resolution = 32
  c.model.specialist = c.model.lightweight.name = 'mobilenet_v2'
  for stage in (c.model, c.model.lightweight):
    stage.width, stage.output_stride = torchvision_file.WIDTH, 8
  c.model.num_bases = 2
  c.init.weights = c.init.lightweight_weights = weights
  return c


def fresh(config):
  model = experiment.build_model(config)
  update = experiment.optimizer(config, model, lambda step: 0.1)
  create = experiment.state_factory(config, model, update)
  # Constants, because drawing them takes long to compile.
  where = sharding.abstract(jax.eval_shape(create), sharding.create_mesh())
  return model, jax.tree.map(
    lambda s: jax.device_put(jnp.full(s.shape, 0.5, s.dtype), s.sharding), where
  )


def apply(network, variables):
  # Compiles in half the time.
  compiled = jax.jit(network.apply, compiler_options={'xla_backend_optimization_level': 0})
  return compiled(jax.device_get(variables), IMAGES)


def test_two_stages_start_as_the_trained_network(config, weights):
  model, start = fresh(config)
  state = experiment.with_trained_weights(config, model, start)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  outputs = apply(model, variables)
  plain = pretrained.load(model.lightweight, weights)
  expected = apply(model.lightweight, plain)
  np.testing.assert_allclose(outputs.lightweight, expected, rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(outputs.specialist, expected, rtol=1e-3, atol=1e-3)
  # The averages begin there too, and everything stays where it was.
  jax.tree.map(np.testing.assert_array_equal, state.ema['params'], state.params)
  assert jax.tree.map(lambda a: a.sharding, state) == jax.tree.map(lambda a: a.sharding, start)


def test_new_classes_get_a_new_classifier(config):
  config.model.num_classes = 3
  model, start = fresh(config)
  with pytest.raises(UserError, match='classifier=False'):
    experiment.with_trained_weights(config, model, start)
  config.init.classifier = False
  state = experiment.with_trained_weights(config, model, start)
  for stage in ('lightweight', 'specialist'):
    new, old = state.params[stage], start.params[stage]
    np.testing.assert_array_equal(new['classifier']['kernel'], old['classifier']['kernel'])
    assert np.abs(new['stem']['norm']['scale'] - old['stem']['norm']['scale']).max() > 0.1


def test_single_network_takes_weights_and_has_no_lightweight_ones(config, weights):
  config.model.name = 'mobilenet_v2'
  model, start = fresh(config)
  with pytest.raises(UserError, match="'mobilenet_v2' has one stage: use config.init.weights"):
    experiment.with_trained_weights(config, model, start)
  config.init.lightweight_weights = ''
  state = experiment.with_trained_weights(config, model, start)
  variables = {'params': state.params, 'batch_stats': state.batch_stats}
  expected = apply(model, pretrained.load(model, weights))
  np.testing.assert_allclose(apply(model, variables), expected, rtol=1e-5, atol=1e-5)
