"""Exported programs, read again, against the network."""

import functools
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence
from basisnet_jax.inference import exporting
from basisnet_jax.models import target

SIDE = tiny.RESOLUTION
TEMPERATURES = {'lightweight': 0.5, 'specialist': 2.0, 'network': 0.7}


def images(count):
  random = np.random.default_rng(count)
  return np.float32(random.uniform(-1, 1, (count, SIDE, SIDE, 3)))


@functools.cache
def network(refine=0.0, stages=2):
  model = tiny.basisnet().clone(refine=refine) if stages == 2 else tiny.TinyNetwork(10)
  return model, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))


@functools.cache
def read(refine=0.0, stages=2):
  """{name: its call}, from bytes."""
  parts = exporting.programs(*network(refine, stages), SIDE, TEMPERATURES, 'margin')
  return {part.name: exporting.read_stablehlo(exporting.stablehlo(part)) for part in parts}


@pytest.mark.parametrize('count', [1, 2, 7])
@pytest.mark.parametrize('refine', [0.0, 0.5])
def test_both_stages_say_what_the_network_says(refine, count):
  model, variables = network(refine)
  wanted = model.apply(variables, images(count))
  programs = read(refine)
  assert list(programs) == ['preview', 'specialist']
  probabilities, sure, coefficients, logits = programs['preview'](images(count))
  same = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  same(probabilities, jax.nn.softmax(wanted.lightweight / 0.5))
  same(sure, confidence.of(wanted.lightweight, 'margin', 0.5))
  same(coefficients, wanted.coefficients)
  same(logits, wanted.lightweight)
  (final,) = programs['specialist'](images(count), coefficients, logits)
  same(final, jax.nn.softmax(wanted.specialist / 2.0))


def test_a_network_of_one_stage_is_one_program():
  model, variables = network(stages=1)
  probabilities, sure = read(stages=1)['network'](images(3))
  wanted = jax.nn.softmax(model.apply(variables, images(3)) / 0.7)
  np.testing.assert_allclose(probabilities, wanted, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(sure, wanted.max(-1), rtol=1e-4)


def test_a_cascade_has_no_coefficients():
  model = tiny.basisnet().clone(layers=())
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  parts = exporting.programs(model, variables, SIDE, {}, 'margin')
  assert [list(part.inputs) for part in parts] == [['images'], ['images', 'logits']]
  first, last = (exporting.read_stablehlo(exporting.stablehlo(part)) for part in parts)
  probabilities, _, logits = first(images(2))
  wanted = model.apply(variables, images(2))
  np.testing.assert_allclose(probabilities, jax.nn.softmax(wanted.lightweight), rtol=1e-4)
  (final,) = last(images(2), logits)
  np.testing.assert_allclose(final, jax.nn.softmax(wanted.specialist), rtol=1e-4)


def test_programs_are_for_all_platforms():
  part = exporting.programs(*network(), SIDE, {}, 'margin')[1]
  exported = jax.export.deserialize(bytearray(exporting.stablehlo(part)))
  assert set(exported.platforms) == {'cpu', 'cuda', 'rocm', 'tpu'}


@pytest.mark.parametrize('backend', ['gpu', 'tpu'])
def test_programs_are_the_same_wherever_they_are_made(monkeypatch, backend):
  model, variables = network()
  model = model.clone(lightweight_resolution=SIDE // 2)

  def made():
    exported = map(exporting.stablehlo, exporting.programs(model, variables, SIDE, {}, 'margin'))
    texts = [jax.export.deserialize(bytearray(data)).mlir_module() for data in exported]
    return [re.sub(r'^#loc.*$|loc\(#loc\d*\)', '', text, flags=re.M).split('\n') for text in texts]

  own = made()
  monkeypatch.setattr(target, 'platform', lambda: backend)
  assert made() == own


@pytest.mark.parametrize('weights', ['float16', 'int8'])
def test_bases_stay_as_they_are_stored_when_it_is_compiled_for_one_image(weights):
  """Judge: the compiled program; float32 constants would be four times the reading."""
  model, variables = network()
  held = exporting.stored(model, variables, SIDE, weights)
  part = exporting.programs(model, held, SIDE, TEMPERATURES, 'margin')[1]
  run = jax.jit(exporting.read_stablehlo(exporting.stablehlo(part)))
  compiled = {count: run.lower(*part.takes(count)).compile().as_text() for count in (1, 2)}
  # Which way it goes was decided before.
  assert not any('conditional' in text for text in compiled.values())
  leaves = traverse_util.flatten_dict(held['params'], sep='/').items()
  bases = [leaf for path, leaf in leaves if path.endswith('/bases') and leaf.dtype == weights]
  short = {'float16': 'f16', 'int8': 's8'}[weights]
  shapes = {f'[{",".join(map(str, leaf.shape))}]' for leaf in bases}
  assert shapes and all(f'{short}{shape}' in compiled[1] for shape in shapes)
  assert not any(f'f32{shape}' in compiled[1] for shape in shapes)


def test_a_program_that_differs_is_refused():
  part = exporting.programs(*network(), SIDE, {}, 'margin')[0]
  run = jax.jit(part.call)
  assert exporting.check(part, run, (1, 3), 1e-3) < 1e-6

  def wrong(x):
    probabilities, *rest = run(x)
    return probabilities + 0.002, *rest

  def broken(x):
    probabilities, *rest = run(x)
    return probabilities * np.nan, *rest

  with pytest.raises(UserError, match='exported preview differs from the network by 0.002'):
    exporting.check(part, wrong, (2,), 1e-3)
  with pytest.raises(UserError, match='differs from the network by inf'):
    exporting.check(part, broken, (2,), 1e-3)


@pytest.mark.parametrize('stage', [0, 1])
def test_a_program_that_always_says_the_same_is_refused(stage):
  part = exporting.programs(*network(), SIDE, {}, 'margin')[stage]

  def constant(*arrays):
    probabilities, *rest = part.call(*arrays)
    return jnp.full_like(probabilities, 1 / probabilities.shape[-1]), *rest

  with pytest.raises(UserError, match='differs from the network by 100% of its largest logit'):
    exporting.check(part, constant, (2,), exporting.WEIGHTS['int8'])
