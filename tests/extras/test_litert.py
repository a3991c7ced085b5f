"""Exports to LiteRT: what its interpreter says, against the network."""

import functools
import os

from ai_edge_litert.interpreter import Interpreter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax import data, export, models
from basisnet_jax.inference import agreement, exporting, litert
from basisnet_jax.models import preprocessing, pretrained, upcycling

SIDE = 32
DATA = os.environ.get('BASISNET_DATA')


@functools.cache
def network(name, kernels=True):
  if name == 'small':
    model = models.create(
      'basisnet',
      lightweight=models.create('mobilenet_v3_small', num_classes=10, width=0.5),
      specialist=models.create('mobilenet_v3_large', num_classes=10, width=0.5),
      resolution=SIDE,
      num_bases=3,
      lightweight_resolution=24,
      refine=0.5,
    )
  elif name == 'one stage':
    model = tiny.TinyNetwork(10)
  else:  # Which have maps of single pixels; a cascade has no coefficients.
    resnet = functools.partial(models.create, 'resnet_10', num_classes=10, width=0.25)
    stages = {'lightweight': resnet(), 'specialist': resnet(output_stride=32)}
    options = {} if name == 'cascade' else {'num_bases': 3}
    model = models.create(name, **stages, resolution=SIDE, **options)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))

  # As after training: what a layer does depends on what it sees.
  def shake(leaf):
    noise = 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return leaf + noise if kernels or leaf.ndim == 1 else leaf

  return model, {
    'params': jax.tree.map(shake, variables['params']),
    **{kind: tree for kind, tree in variables.items() if kind != 'params'},
  }


@pytest.mark.parametrize('name', ['small', 'basisnet', 'cascade', 'one stage'])
def test_signatures_say_what_the_network_says(name):
  parts = exporting.programs(*network(name), SIDE, {'lightweight': 0.5}, 'margin')
  interpreter = Interpreter(model_content=litert.flatbuffer(parts))
  assert set(interpreter.get_signature_list()) == {part.name for part in parts}
  known = {'images': np.float32(np.random.default_rng(0).uniform(-1, 1, (1, SIDE, SIDE, 3)))}
  for part in parts:
    wanted = jax.jit(part.call)(*(known[key] for key in part.inputs))
    runner = interpreter.get_signature_runner(part.name)
    found = runner(**{key: known[key] for key in runner.get_input_details()})
    for key, value in zip(part.outputs, wanted, strict=True):
      np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-4)
    known |= found
  assert np.ptp(known['probabilities']) > 0.01  # It says something.


def stored(name, weights):
  """The programs of the network's own variables; of the stored ones; and their bytes."""
  model, variables = network(name, kernels=False)
  cold = {'lightweight': 0.1, 'specialist': 0.1}  # Its logits are small.
  of = lambda v: exporting.programs(model, v, SIDE, cold, 'margin')  # noqa: E731
  kept = exporting.stored(model, variables, SIDE, weights)
  parts = of(jax.tree.map(np.float32, kept))
  return of(variables), parts, litert.flatbuffer(parts, weights)


@pytest.mark.parametrize('weights, at_most', [('float32', 1e-4), ('float16', 5e-3), ('int8', 0.1)])
def test_weights_in_less_say_nearly_the_same(weights, at_most):
  parts, _, flatbuffer = stored('small', weights)
  interpreter = Interpreter(model_content=flatbuffer)
  random = np.random.default_rng(0)
  inputs = {key: np.float32(random.uniform(-1, 1, (1, *s))) for key, s in parts[1].inputs.items()}
  inputs['coefficients'] = np.asarray(jax.nn.softmax(3 * inputs['coefficients']))
  for part in parts:
    (wanted, *_) = jax.jit(part.call)(*(inputs[key] for key in part.inputs))
    runner = interpreter.get_signature_runner(part.name)
    found = runner(**{key: inputs[key] for key in runner.get_input_details()})['probabilities']
    assert np.abs(found - wanted).max() < at_most
    assert np.ptp(wanted) > 0.01
    # Bases in int8 are not what they were.
    assert weights != 'int8' or np.abs(found - wanted).max() > 1e-5


def test_int8_is_a_quarter():
  sizes = {weights: len(stored('small', weights)[2]) for weights in ('float32', 'int8')}
  params = sum(leaf.size for leaf in jax.tree.leaves(network('small')[1]['params']))
  assert sizes['float32'] == pytest.approx(4 * params, rel=0.1)
  assert sizes['int8'] < 0.35 * sizes['float32']  # The structure of this small one is a tenth.


@pytest.mark.skipif(not DATA, reason='BASISNET_DATA is not set to a folder with tfds/ and weights/')
def test_published_weights_as_bases_in_int8_give_the_same_answers():
  """With a step for each channel. A step for each basis alone: 92% of 200 images."""
  model = models.create(
    'basisnet',
    lightweight=models.create('mobilenet_v3_small', num_classes=1000),
    specialist=models.create('efficientnet_lite0', num_classes=1000),
    resolution=224,
    num_bases=4,
    lightweight_resolution=96,
  )
  fresh = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
  weights = pretrained.load(model.specialist, f'{DATA}/weights/efficientnet_lite0_fp16.npz')
  variables = upcycling.upcycle(model, fresh, specialist=weights, perturbation=0.3)
  of = lambda v: exporting.programs(model, v, 224, {}, 'margin')  # noqa: E731
  own = {part.name: jax.jit(part.call) for part in of(variables)}
  kept = exporting.stored(model, variables, 224, 'int8')
  ((_, read),) = export.tflite(of(jax.tree.map(np.float32, kept)), 'int8')
  dataset = data.open_dataset('imagenet2012', f'{DATA}/tfds')
  batches = data.eval_batches(
    dataset, split='validation[:100]', batch_size=20, resolution=224, eval_crop=0.875
  )
  images = ((preprocessing.normalize(b['image']), b['label']) for b in batches)
  found = agreement.measure(of(variables), own, {'': read}, images, 2.0)['']['specialist']
  assert found.images == 100
  assert found.right > 0.8
  assert found.same >= 0.97
