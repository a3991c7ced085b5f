"""A trained network as the bases of a specialist."""

import functools

from flax import traverse_util
from foreign_networks import ResNet, VisionTransformer
import jax
import numpy as np
import pytest
from quick import jit

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models.upcycling import upcycle

IMAGES = np.random.default_rng(0).normal(size=(3, 16, 16, 3)).astype(np.float32)


def trained(network, seed):
  """Random weights, and random statistics of the normalisation."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), IMAGES)
  random = np.random.default_rng(seed)
  return jax.tree.map(
    lambda s: (
      (0.1 + random.uniform(size=s.shape)).astype(np.float32)
      if len(s.shape) == 1
      else random.normal(size=s.shape, scale=s.shape[-1] ** -0.5).astype(np.float32)
    ),
    shapes,
  )


@functools.cache
def plain():
  return trained(ResNet(), 1), trained(VisionTransformer(), 2)


def two_stage(num_bases=3, **options):
  return models.create(
    'basisnet',
    lightweight=VisionTransformer(),
    specialist=ResNet(),
    resolution=16,
    num_bases=num_bases,
    **options,
  )


def fresh(model):
  return jit(model.init)(jax.random.key(3), IMAGES)


@pytest.mark.parametrize(
  'options',
  [{'perturbation': 0.0}, {'perturbation': 0.1}, {'perturbation': 0.1, 'activation': 'sigmoid'}],
  ids=str,
)
def test_upcycled_stages_say_what_the_trained_networks_said(options):
  special, light = plain()
  perturbation = options.pop('perturbation')
  model = two_stage(**options)
  variables = upcycle(
    model, fresh(model), specialist=special, lightweight=light, perturbation=perturbation
  )
  outputs = jit(model.apply)(variables, IMAGES)
  expected = jit(ResNet().apply)(special, IMAGES)
  np.testing.assert_allclose(outputs.specialist, expected, rtol=1e-4, atol=1e-5)
  expected = jit(VisionTransformer().apply)(light, IMAGES)
  np.testing.assert_allclose(outputs.lightweight, expected, rtol=1e-4, atol=1e-5)
  assert np.ptp(outputs.coefficients) == 0  # Uniform.


def test_perturbation_parts_the_bases_by_its_share_and_is_the_seeds():
  special, _ = plain()
  model = two_stage(num_bases=400, based_layers='stem')
  start = fresh(model)

  def bases(seed):
    made = upcycle(model, start, specialist=special, perturbation=0.25, seed=seed)
    return np.asarray(made['params']['specialist']['stem']['bases'])

  kernel = special['params']['stem']['kernel']
  noise = bases(0) - kernel
  np.testing.assert_allclose(noise.std() / kernel.std(), 0.25, rtol=0.02)
  np.testing.assert_allclose(noise.mean(0), 0, atol=1e-6)
  np.testing.assert_array_equal(bases(0), bases(0))
  assert np.abs(bases(0) - bases(1)).max() > 0.1


def test_training_reaches_each_basis_and_the_head_after_a_perturbed_start():
  special, light = plain()
  model = two_stage()
  variables = upcycle(model, fresh(model), specialist=special, lightweight=light, perturbation=0.1)

  def loss(params):
    outputs = model.apply({**variables, 'params': params}, IMAGES)
    return (outputs.specialist * np.arange(5)).sum()

  gradients = traverse_util.flatten_dict(jit(jax.grad(loss))(variables['params']), sep='/')
  assert np.abs(gradients['coefficient_head/dense/kernel']).max() > 0
  for path, leaf in gradients.items():
    if path.endswith('/bases'):
      assert all(np.abs(basis).max() > 0 for basis in leaf), path


def test_what_was_not_trained_stays_fresh():
  special, _ = plain()
  params = {name: leaf for name, leaf in special['params'].items() if name != 'logits'}
  model = two_stage(based_layers='stem')
  start = fresh(model)
  made = upcycle(model, start, specialist={**special, 'params': params})
  for stage in ('lightweight', 'specialist'):
    np.testing.assert_array_equal(
      made['params'][stage]['logits']['kernel'], start['params'][stage]['logits']['kernel']
    )


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    ({'stem': {'kernel': np.zeros((3, 3, 3, 8), np.float32)}}, r'wants \[3, 7, 7, 3, 8\]'),
    ({'other': {'kernel': np.zeros((2, 2), np.float32)}}, 'other/kernel.*has no such array'),
  ],
  ids=['misshapen', 'extra'],
)
def test_array_that_does_not_fit_is_named(change, sentence):
  special, _ = plain()
  model = two_stage()
  with pytest.raises(UserError, match=sentence):
    upcycle(model, fresh(model), specialist={**special, 'params': {**special['params'], **change}})
