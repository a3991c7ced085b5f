"""Smaller bases: what they change, by how much, and what stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.inference import storage
from basisnet_jax.models import basisnet, synthesis

# Of a weight: half a step, of the largest weight of its basis.
STORED = {
  'float16': (storage.in_float16, 2.0**-11),
  'int8': (storage.in_int8, 0.5 / 127),
}


@pytest.fixture(scope='module')
def variables():
  return tiny.basisnet().init(jax.random.key(0), jnp.zeros((2, 8, 8, 3)))


@pytest.mark.parametrize('dtype', STORED)
def test_kernels_change_by_their_rounding_alone(dtype):
  store, error = STORED[dtype]
  random = np.random.default_rng(0)
  sizes = np.array([1, 9, 0.1, 0])[:, None, None, None, None]
  bases = jnp.asarray(sizes * random.normal(size=(4, 1, 1, 5, 7)), jnp.float32)
  stored = store({'conv': {'bases': bases}})['conv']
  assert stored['bases'].dtype == dtype
  coefficients = jax.nn.softmax(jnp.asarray(random.normal(size=(1, 4)), jnp.float32))
  wanted = synthesis.synthesize(coefficients, bases)
  scaled = coefficients * stored.get('scales', 1)
  found = synthesis.synthesize(scaled, stored['bases'], jnp.float32)
  largest = jnp.abs(bases).max((1, 2, 3, 4))
  np.testing.assert_allclose(found, wanted, atol=1.01 * error * float(coefficients[0] @ largest))
  assert not np.array_equal(found, wanted)


@pytest.mark.parametrize('dtype', STORED)
def test_all_but_the_bases_of_matrices_and_dense_convolutions_stays(variables, dtype):
  stored = STORED[dtype][0](variables)
  small = set()
  for path, leaf in jax.tree_util.tree_leaves_with_path(stored):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if leaf.dtype == dtype:
      small.add(name)
    elif not name.endswith('scales'):
      original = variables
      for key in path:
        original = original[key.key]
      assert leaf is original
  based = {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
    if path[-1].key == 'bases' and not (leaf.ndim == 5 and leaf.shape[-2] == 1)
  }
  assert small == based and based


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('dtype', STORED)
def test_the_network_says_nearly_the_same(variables, dtype, batch):
  model = tiny.basisnet()
  images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (batch, 8, 8, 3)), jnp.float32)
  wanted = model.apply(variables, images)
  found = model.apply(STORED[dtype][0](variables), images)
  np.testing.assert_array_equal(found.lightweight, wanted.lightweight)
  spread = np.ptp(wanted.specialist)
  np.testing.assert_allclose(found.specialist, wanted.specialist, atol=0.03 * spread)
  assert not np.array_equal(found.specialist, wanted.specialist)


@pytest.mark.parametrize('dtype', STORED)
def test_blended_from_smaller_bases(variables, dtype):
  model, stored = tiny.basisnet(), STORED[dtype][0](variables)
  images = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)), jnp.float32)
  _, coefficients = model.apply(variables, images, method='preview')
  own = basisnet.blended(model, stored, coefficients)
  wanted = model.apply(stored, images, coefficients, method='specialize')
  np.testing.assert_allclose(
    basisnet.call_blended(model, own, images), wanted, rtol=1e-4, atol=1e-5
  )


def test_bases_that_become_smaller_are_known():
  small, depthwise = jnp.zeros((4, 1, 1, 5, 7)), jnp.zeros((4, 3, 3, 1, 5))
  assert storage.has_bases({'block': {'conv': {'bases': small}}, 'norm': {'scale': small}})
  assert not storage.has_bases({'block': {'conv': {'bases': depthwise, 'kernel': small}}})
