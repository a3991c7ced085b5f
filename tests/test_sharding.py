"""The mesh: who holds what, and which batches can be split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax import sharding
from basisnet_jax.errors import UserError


@pytest.fixture
def mesh():
  return sharding.create_mesh()


def test_mesh_has_all_devices_on_one_axis(mesh):
  assert mesh.shape == {'data': 8}
  assert sharding.create_mesh(jax.devices()[:2]).shape == {'data': 2}


def test_batches_arrive_split_in_order_and_complete(mesh):
  batches = [
    {'image': np.full((16, 2), i, np.uint8), 'label': np.arange(16, dtype=np.int32) + i}
    for i in range(3)
  ]
  arrived = list(sharding.to_device(iter(batches), mesh))
  assert len(arrived) == 3
  for expected, found in zip(batches, arrived, strict=True):
    for key, value in expected.items():
      np.testing.assert_array_equal(found[key], value)
      assert found[key].dtype == value.dtype
      assert [shard.data.shape[0] for shard in found[key].addressable_shards] == [2] * 8


def test_one_batch_is_prepared_while_another_is_used(mesh):
  read = []

  def batches():
    for i in range(4):
      read.append(i)
      yield {'label': np.zeros(8, np.int32)}

  arriving = sharding.to_device(batches(), mesh)
  next(arriving)
  assert read == [0, 1]


def test_no_batches_are_no_batches(mesh):
  assert list(sharding.to_device([], mesh)) == []


def test_batch_that_cannot_be_split_evenly_is_refused_with_the_nearest_that_can(mesh):
  assert sharding.checked_batch_size(24, mesh, 'config.training.batch_size') == 24
  with pytest.raises(UserError, match='training.batch_size=30 .* 8 devices; the nearest .* is 32'):
    sharding.checked_batch_size(30, mesh, 'config.training.batch_size')
  with pytest.raises(UserError, match='the nearest that can is 8'):
    sharding.checked_batch_size(3, mesh, 'config.training.batch_size')


def test_abstract_tree_keeps_shapes_and_dtypes(mesh):
  tree = {'a': jnp.zeros((3, 2), jnp.bfloat16), 'b': None, 'c': jnp.int32(1)}
  found = sharding.abstract(tree, mesh)
  assert (found['a'].shape, found['a'].dtype, found['b']) == ((3, 2), jnp.bfloat16, None)
  assert found['a'].sharding == sharding.replicated(mesh) == found['c'].sharding
