import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.inference import streaming
from basisnet_jax.models import basisnet

FRAMES = 7


@functools.cache
def example(refine=0.0):
  model = tiny.basisnet().clone(refine=refine)
  frames = np.random.default_rng(0).uniform(-1, 1, (FRAMES, 2, 8, 8, 3)).astype(np.float32)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.asarray(frames[0]))
  return model, variables, frames


def predictor(refine=0.0, **options):
  model, variables, _ = example(refine)
  light, special = jax.devices()[1:3]
  return streaming.StreamingPredictor(
    model, variables, lightweight_device=light, specialist_device=special, **options
  )


@pytest.mark.parametrize('depth', [0, 1, 5, 20])
@pytest.mark.parametrize('refine', [0.0, 0.5])
def test_frames_are_answered_in_order_as_by_one_device(depth, refine):
  model, variables, frames = example(refine)
  answers = list(predictor(refine, depth=depth)(frames))
  assert len(answers) == FRAMES
  apply = jax.jit(model.apply)
  for frame, (first, final) in zip(frames, answers, strict=True):
    wanted = apply(variables, jnp.asarray(frame))
    assert first.devices() == {jax.devices()[1]} and final.devices() == {jax.devices()[2]}
    np.testing.assert_allclose(first, wanted.lightweight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(final, wanted.specialist, rtol=1e-5, atol=1e-5)


def test_no_more_frames_are_taken_than_may_be_under_way():
  *_, frames = example()
  taken = []

  def camera():
    for i, frame in enumerate(frames):
      taken.append(i)
      yield frame

  answers = predictor(depth=2)(camera())
  assert not taken
  next(answers)
  assert taken == [0, 1, 2]
  next(answers)
  assert taken == [0, 1, 2, 3]
  assert len(list(answers)) == FRAMES - 2 and len(taken) == FRAMES


def test_each_device_holds_the_weights_of_its_stage_alone():
  _, variables, _ = example()
  light, special = basisnet.of_stages(variables)
  assert set(light['params']) == {'lightweight', 'coefficient_head'}
  assert set(special['params']) == {'specialist'}
  assert set(light['batch_stats']) == {'lightweight'}
  assert set(special['batch_stats']) == {'specialist'}
