"""One training step on eight devices: what one computes, and what they say to each other."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from programs import collectives
import pytest
from steps import BATCH, new_step, optimizer
import tiny

from basisnet_jax import models, sharding
from basisnet_jax.models import layers, mobilenet_v3
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib


def test_eight_devices_compute_what_one_does(trajectories):
  one, eight = trajectories[1], trajectories[8]
  for first, second in zip(one['states'], eight['states'], strict=True):
    first, second = tiny.leaves(first), tiny.leaves(second)
    assert first.keys() == second.keys()
    for path, expected in first.items():
      np.testing.assert_allclose(second[path], expected, rtol=2e-4, atol=2e-6, err_msg=path)
  for first, second in zip(one['metrics'], eight['metrics'], strict=True):
    assert second == pytest.approx(first, rel=1e-5)


def test_state_is_born_replicated_over_the_mesh_and_stays_so(trajectories):
  after = jax.tree.map(lambda leaf: leaf.sharding, trajectories[8]['after'])
  for sharding_ in jax.tree.leaves([trajectories[8]['born'], after]):
    assert sharding_.is_fully_replicated and len(sharding_.device_set) == 8


def test_state_before_the_step_gives_its_memory_to_the_state_after(trajectories):
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(trajectories[8]['before']))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(trajectories[8]['after']))


def test_collectives_are_seen():
  mesh = sharding.create_mesh()
  split, whole = sharding.over_data(mesh), sharding.replicated(mesh)
  program = jax.jit(lambda x: (x * 2, x[::-1].sum()), in_shardings=split, out_shardings=whole)
  text = program.lower(jnp.zeros(8)).compile().as_text()
  assert {'all-gather', 'all-reduce'} <= collectives(text)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_devices_exchange_sums_and_never_images_or_kernels(dtype):
  # The first blocks of a MobileNetV3: dense and depthwise kernels, 1x1, squeeze-excite, strides.
  style = layers.Style(dtype=dtype)
  options = {'num_classes': 10, 'width': 0.5, 'dropout': 0.2, 'output_stride': 4, 'style': style}
  model = models.create(
    'basisnet',
    lightweight=tiny.TinyNetwork(dropout=0.2, style=style),
    specialist=mobilenet_v3.MobileNetV3(blocks=mobilenet_v3.SMALL[:2], head=16, **options),
    resolution=16,
    num_bases=2,
    based_layers='(?!.*classifier)',
  )
  mesh, update = sharding.create_mesh(), optimizer()
  create = functools.partial(train_state.create, model, update, 0, 16, use_ema=True)
  batch = jax.eval_shape(lambda: tiny.batch(BATCH, resolution=16))
  step = step_lib.jit_train_step(new_step(model, update), mesh)
  text = step.lower(jax.eval_shape(create), batch).compile().as_text()
  assert collectives(text) == {'all-reduce'}


@pytest.fixture
def fsdp(model, monkeypatch):
  """Mesh, shardings, abstract state and compiled-to-be step of a state split over four devices."""
  monkeypatch.setattr(sharding, 'SMALLEST_SPLIT', 64)
  mesh, update = sharding.create_mesh((('data', 2), ('fsdp', 4))), optimizer()
  create = functools.partial(train_state.create, model, update, 0, tiny.RESOLUTION, use_ema=True)
  like = sharding.abstract(jax.eval_shape(create), mesh, sharding.PRESETS['fsdp'])
  held = jax.tree.map(lambda leaf: leaf.sharding, like)
  step = new_step(model, update, gather=sharding.gather(mesh))
  return mesh, held, like, create, step_lib.jit_train_step(step, mesh, held)


def test_split_state_is_trained_as_a_whole_one(fsdp, trajectories):
  mesh, held, _, create, step = fsdp
  state = train_state.initialize(create, held)
  for batch in sharding.to_device((tiny.batch(BATCH, seed) for seed in range(2)), mesh):
    state, _ = step(state, batch)
    assert jax.tree.map(lambda leaf: leaf.sharding.spec, state) == jax.tree.map(
      lambda sharding_: sharding_.spec, held
    )
  found, expected = tiny.leaves(jax.device_get(state)), tiny.leaves(trajectories[1]['states'][2])
  for path, value in expected.items():
    np.testing.assert_allclose(found[path], value, rtol=2e-4, atol=2e-6, err_msg=path)


def test_of_a_split_state_only_weights_are_gathered_each_once(fsdp):
  _, held, like, _, step = fsdp
  compiled = step.lower(like, jax.eval_shape(lambda: tiny.batch(BATCH))).compile()
  text = compiled.as_text()
  assert collectives(text) <= {'all-gather', 'all-reduce', 'reduce-scatter'}
  gathered = re.findall(r'= \w+\[([\d,]*)\]\S* all-gather\(', text)
  weights = {tuple(leaf.shape) for leaf in jax.tree.leaves(like.params)}
  assert gathered and {tuple(map(int, shape.split(','))) for shape in gathered} <= weights
  # One for each weight that is split, whatever uses it.
  split = [s for s in jax.tree.leaves(held.params) if not s.is_fully_replicated]
  assert len(gathered) <= len(split)
