import fractions
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence
from basisnet_jax.inference import early_exit

BATCH = 11


@functools.cache
def example():
  model = tiny.basisnet()
  images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BATCH, 8, 8, 3)), jnp.float32)
  variables = jax.jit(model.init)(jax.random.key(0), images)
  return model, variables, images


@functools.cache
def both_stages():
  """The judge: both stages for all images, and their confidence."""
  model, variables, images = example()
  outputs = jax.jit(model.apply)(variables, images)
  sure = confidence.of(outputs.lightweight, 'margin', 0.5)
  return tuple(np.asarray(a) for a in (outputs.lightweight, outputs.specialist, sure))


@pytest.mark.parametrize('chunks', [(4,), (4, 1), (8, 3), (32,)])
@pytest.mark.parametrize('kept', [0, 1, 4, 5, 10, BATCH])
def test_answers_are_those_of_the_stage_that_is_to_answer(chunks, kept):
  model, variables, images = example()
  first, final, sure = both_stages()
  predict = early_exit.make_predict(
    model, rule='margin', temperatures={'lightweight': 0.5, 'specialist': 2.0}, chunks=chunks
  )
  threshold = [*np.sort(sure), 2.0][kept]
  found = jax.jit(predict)(variables, images, threshold)
  np.testing.assert_array_equal(found.exited, sure >= threshold)
  assert found.exited.sum() == BATCH - kept
  wanted = np.where((sure >= threshold)[:, None], first / 0.5, final / 2.0)
  np.testing.assert_allclose(found.logits, wanted, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(found.confidence, sure, rtol=1e-6)


def test_outside_of_jit_numpys_images_and_fractions_do():
  model, variables, images = example()
  predict = early_exit.make_predict(model, rule='margin', temperatures={'lightweight': 0.5})
  threshold = fractions.Fraction(float(np.median(both_stages()[2])))
  found = predict(variables, np.asarray(images), threshold)
  wanted = jax.jit(predict)(variables, images, float(threshold))
  assert 0 < found.exited.sum() < BATCH
  np.testing.assert_array_equal(found.exited, wanted.exited)
  np.testing.assert_allclose(found.logits, wanted.logits, rtol=1e-4, atol=1e-5)
  with pytest.raises(UserError, match="^threshold='0.5' cannot be kept; give a finite number.$"):
    predict(variables, images, '0.5')


def test_images_whose_first_answer_is_not_a_number_go_on():
  model, variables, images = example()
  variables = jax.tree.map(lambda x: x, variables)
  variables['params']['lightweight']['classifier']['bias'] = jnp.full(10, jnp.nan)
  found = jax.jit(early_exit.make_predict(model))(variables, images, 0.0)
  assert not found.exited.any() and np.isfinite(found.logits).all()


@pytest.mark.parametrize('batch', [1, 2])
def test_the_specialist_is_not_taken_out_of_its_loop(batch):
  model, variables, images = example()
  predict = jax.jit(early_exit.make_predict(model))
  text = predict.lower(variables, images[:batch], 0.5).compile().as_text()
  always = text[text.index('\nENTRY') :]
  assert 'specialize/specialist/classifier' in text.replace('BasisNet.', '')
  assert 'lightweight/classifier' in always and 'specialist/classifier' not in always


def test_padding_may_be_marked_by_numbers():
  model, variables, images = example()
  predict, real = early_exit.make_predict(model), np.arange(BATCH) % 3 > 0
  wanted = predict(variables, images, 2.0, real)
  np.testing.assert_array_equal(wanted.exited, ~real)
  for mask in (real.astype(np.int32), real.astype(np.float32)):
    found = predict(variables, images, 2.0, mask)
    np.testing.assert_array_equal(found.exited, wanted.exited)
    np.testing.assert_array_equal(found.logits, wanted.logits)


@pytest.mark.parametrize(
  'change, told',
  [
    (lambda images: images[0], r'float32 \[8, 8, 3\]'),
    (lambda images: images[:0], r'float32 \[0, 8, 8, 3\]'),
    (lambda images: np.uint8(127.5 * (images + 1)), rf'uint8 \[{BATCH}, 8, 8, 3\]'),
  ],
)
def test_images_that_are_none_get_a_sentence(change, told):
  model, variables, images = example()
  predict = early_exit.make_predict(model)
  for ask in (predict, jax.jit(predict)):
    with pytest.raises(UserError, match=rf'float \[batch, height, width, 3\]; this is {told}'):
      ask(variables, change(images), 0.5)


@pytest.mark.parametrize('chunks', [(), (0,), (4, -1), (2.0,), ('8',), 8])
def test_chunks_that_cannot_be_get_a_sentence(chunks):
  sentence = re.escape(f'chunks={chunks!r} are no numbers of images; give whole ones')
  with pytest.raises(UserError, match=sentence):
    early_exit.make_predict(example()[0], chunks=chunks)


def test_other_networks_and_stages_get_a_sentence():
  with pytest.raises(UserError, match='^TinyNetwork is of one stage; only a BasisNet of two can'):
    early_exit.make_predict(tiny.TinyNetwork())
  with pytest.raises(
    UserError, match=r"^temperatures\['special'\] is of no stage; there are light"
  ):
    early_exit.make_predict(example()[0], temperatures={'special': 2.0})
