"""Distillation: whose predictions a stage learns, by numpy; and inside of a split step."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from programs import collectives
import pytest
from steps import BATCH, new_step, optimizer, values
import tiny

from basisnet_jax import sharding
from basisnet_jax.training import distillation, losses, mixing
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib

OPTIONS = {'weight': 0.3, 'temperature': 2.0, 'lightweight': True, 'from_specialist': 0.0}


def soft(logits, teacher, temperature=2.0):
  """temperature^2 * KL(teacher || student), in float64."""
  p, q = (np.exp(x.astype(np.float64) / temperature) for x in (teacher, logits))
  p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
  return temperature**2 * (p * np.log(p / q)).sum(1)


@pytest.mark.parametrize(
  ('lightweight', 'from_specialist'), [(True, 0.0), (False, 0.0), (True, 0.6)]
)
def test_each_stage_learns_from_whom_it_should(lightweight, from_specialist):
  random = np.random.default_rng(0)
  hard = {stage: random.uniform(0, 3, 6) for stage in ('lightweight', 'specialist')}
  logits = {stage: random.normal(size=(6, 5)).astype(np.float32) for stage in hard}
  images, weights = (random.normal(size=s).astype(np.float32) for s in ((6, 3), (3, 5)))
  options = OPTIONS | {'lightweight': lightweight, 'from_specialist': from_specialist}
  distill = distillation.make_distill(lambda variables, x: x @ variables, **options)
  found, reported = distill(hard, logits, images, np.arange(6) % 5, weights)

  teacher, light, special = images @ weights, logits['lightweight'], logits['specialist']
  of_light = 0.7 * hard['lightweight'] + 0.3 * soft(light, teacher)
  of_light = of_light if lightweight else hard['lightweight']
  of_light = (1 - from_specialist) * of_light + from_specialist * soft(light, special)
  np.testing.assert_allclose(found['lightweight'], of_light, rtol=1e-4)
  expected = 0.7 * hard['specialist'] + 0.3 * soft(special, teacher)
  np.testing.assert_allclose(found['specialist'], expected, rtol=1e-4)
  np.testing.assert_allclose(reported['specialist_distillation'], soft(special, teacher), rtol=1e-4)
  right = teacher.argmax(1) == np.arange(6) % 5
  np.testing.assert_array_equal(reported['teacher_top1'], right)
  assert ('lightweight_from_specialist' in reported) == (from_specialist > 0)


def test_specialist_learns_nothing_from_being_a_teacher():
  distill = distillation.make_distill(None, **OPTIONS | {'from_specialist': 1.0})
  logits = {'lightweight': jnp.array([[1.0, 2.0]]), 'specialist': jnp.array([[3.0, 0.0]])}
  hard = {stage: jnp.zeros(1) for stage in logits}
  slopes = jax.grad(lambda x: distill(hard, x, None, None, None)[0]['lightweight'].sum())(logits)
  assert np.abs(slopes['lightweight']).min() > 0.1
  np.testing.assert_array_equal(slopes['specialist'], [[0.0, 0.0]])


def test_teacher_answers_as_in_evaluation_at_its_own_resolution():
  model, images = tiny.basisnet(dropout=0.5), np.zeros((2, 12, 12, 3), np.float32)
  images[:, :, 6:] = np.random.default_rng(0).normal(size=(2, 12, 6, 3))
  variables = jax.jit(model.init)(jax.random.key(0), images[:, :8, :8])
  found = jax.jit(distillation.make_teacher(model, 8))(variables, images)
  smaller = jax.image.resize(images, (2, 8, 8, 3), 'bilinear')
  expected = jax.jit(model.apply)(variables, smaller).specialist
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_split_step_with_a_teacher_computes_what_one_device_does(model, monkeypatch):
  monkeypatch.setattr(sharding, 'SMALLEST_SPLIT', 64)
  mesh, update = sharding.create_mesh((('data', 2), ('fsdp', 4))), optimizer()
  network = tiny.TinyNetwork(width=2.0)
  teacher = jax.jit(network.init)(jax.random.key(7), np.zeros((1, 8, 8, 3), np.float32))
  create = functools.partial(train_state.create, model, update, 0, tiny.RESOLUTION, use_ema=False)
  objective = {
    'distill': distillation.make_distill(
      distillation.make_teacher(network, tiny.RESOLUTION), **OPTIONS | {'from_specialist': 0.5}
    ),
    'exit_weight': functools.partial(losses.exit_weight, share=0.9, threshold=0.2, softness=0.1),
  }
  new = functools.partial(new_step, model, update, objective=objective)
  mix = functools.partial(mixing.make_mixer, 10, mixup=0.4, cutmix=1.0, cutmix_share=0.5)
  batch = tiny.batch(BATCH)
  batch['mask'][3] = 0
  expected, measured = jax.jit(new(mix=mix()))(jax.jit(create)(), batch, teacher)

  like = sharding.abstract(jax.eval_shape(create), mesh, sharding.PRESETS['fsdp'])
  held = jax.tree.map(lambda leaf: leaf.sharding, like)
  teacher_held = sharding.of_tree(teacher, mesh, sharding.PRESETS['fsdp'])
  gather = sharding.gather(mesh)
  step = new(mix=mix(), gather=gather)
  step = step_lib.jit_train_step(step, mesh, held, teacher_held)
  placed = jax.device_put(teacher, teacher_held)
  (on_mesh,) = sharding.to_device([batch], mesh)
  program = step.lower(like, on_mesh, placed).compile()
  found, measured_split = program(train_state.initialize(create, held), on_mesh, placed)

  assert values(measured_split) == pytest.approx(values(measured), rel=1e-4)
  assert {'teacher_top1', 'specialist_weight', 'lightweight_from_specialist'} <= {*values(measured)}
  expected, found = tiny.leaves(expected), tiny.leaves(jax.device_get(found))
  for path, value in expected.items():
    np.testing.assert_allclose(found[path], value, rtol=2e-4, atol=2e-6, err_msg=path)
  jax.tree.map(np.testing.assert_array_equal, placed, teacher)  # Neither donated nor trained.
  text = program.as_text()
  assert collectives(text) <= {'all-gather', 'all-reduce', 'reduce-scatter'}
  gathered = re.findall(r'= \w+\[([\d,]*)\]\S* all-gather\(', text)
  weights = {leaf.shape for leaf in jax.tree.leaves((like.params, teacher['params']))}
  assert gathered and {tuple(map(int, shape.split(','))) for shape in gathered} <= weights
