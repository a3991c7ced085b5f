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
  assert sharding.create_mesh(devices=jax.devices()[:2]).shape == {'data': 2}


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


def spec(*axes):
  return jax.sharding.PartitionSpec(*axes)


def test_mesh_takes_its_axes_from_the_recipe():
  assert sharding.create_mesh((('data', -1), ('fsdp', 4))).shape == {'data': 2, 'fsdp': 4}
  assert sharding.create_mesh((('fsdp', 8),)).shape == {'fsdp': 8}


@pytest.mark.parametrize(
  'axes', [(('data', 3),), (('data', 16),), (('data', -1), ('fsdp', -1)), (('data', -1), ('f', 3))]
)
def test_mesh_that_does_not_fit_the_devices_is_one_clear_sentence(axes):
  with pytest.raises(UserError, match='config.sharding.mesh=.* does not fit 8 devices'):
    sharding.create_mesh(axes)


class Chip:
  """What JAX asks of a device of one of several slices."""

  platform, device_kind = 'cpu', 'cpu'

  def __init__(self, number, slice_index):
    self.id, self.slice_index, self.process_index = number, slice_index, slice_index


def test_slices_lie_along_the_first_axis(monkeypatch):
  chips = [Chip(number, number % 2) for number in range(8)]
  grids = []
  monkeypatch.setattr(sharding, 'Mesh', lambda grid, *_, **__: grids.append(grid))
  sharding.create_mesh((('data', 4), ('fsdp', 2)), chips)
  (grid,) = grids
  assert grid.shape == (4, 2) and len({chip.id for chip in grid.flat}) == 8
  # Parameters are gathered over the second axis: within a slice.
  assert all(row[0].slice_index == row[1].slice_index for row in grid)
  with pytest.raises(UserError, match='first axis has 1 devices, which 2 slices cannot share'):
    sharding.create_mesh((('data', 1), ('fsdp', 8)), chips)


def test_first_rule_found_in_a_path_decides():
  mesh = sharding.create_mesh((('data', 2), ('fsdp', 4)))
  tree = {
    'params': {'head': {'kernel': jnp.zeros((8, 1024)), 'bias': jnp.zeros(64)}},
    'mu': {'head': {'kernel': jnp.zeros((8, 1024))}, 'bank': jnp.zeros((16, 3, 3, 96))},
    'odd': jnp.zeros((81, 81)),
    'step': jnp.int32(0),
  }
  found = sharding.of_tree(tree, mesh, (('params/head/kernel', ('data', 'fsdp')), ('', 'fsdp')))
  found = jax.tree.map(lambda leaf: leaf.spec, found)
  assert found == {
    'params': {'head': {'kernel': spec('data', 'fsdp'), 'bias': spec()}},  # The bias is small.
    'mu': {'head': {'kernel': spec(None, 'fsdp')}, 'bank': spec(None, None, None, 'fsdp')},
    'odd': spec(),  # 4 divides none of its dimensions.
    'step': spec(),
  }


def test_rule_that_cannot_split_is_one_clear_sentence():
  mesh = sharding.create_mesh((('fsdp', 8),))
  with pytest.raises(UserError, match=r"splits a \(12, 8\) over 'fsdp'.* does not divide 12"):
    sharding.of_tree({'a': jnp.zeros((12, 8))}, mesh, (('a', ('fsdp',)),))


def test_presets_come_after_the_recipes_rules_and_mistakes_are_named():
  mesh = sharding.create_mesh((('data', 2), ('fsdp', 4)))
  rules = sharding.rules_of('fsdp', (('bias', ''),), mesh=mesh)
  assert rules == (('bias', ''), *sharding.PRESETS['fsdp'])
  assert sharding.rules_of('replicated', mesh=mesh) == ()
  with pytest.raises(UserError, match="preset='zero': use 'replicated' or 'fsdp'"):
    sharding.rules_of('zero', mesh=mesh)
  with pytest.raises(UserError, match="names the axis 'fsdp'; .* has 'data', so add"):
    sharding.rules_of('fsdp', mesh=sharding.create_mesh())
