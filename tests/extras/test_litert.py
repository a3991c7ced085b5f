"""Exports to LiteRT: what its interpreter says, against the network."""

import functools

from ai_edge_litert.interpreter import Interpreter
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax import models
from basisnet_jax.inference import exporting, litert

SIDE = 32


@functools.cache
def network(name):
  if name == 'basisnet':
    model = models.create(
      'basisnet',
      lightweight=models.create('mobilenet_v3_small', num_classes=10, width=0.5),
      specialist=models.create('mobilenet_v3_large', num_classes=10, width=0.5),
      resolution=SIDE,
      num_bases=3,
      lightweight_resolution=24,
      refine=0.5,
    )
  else:
    model = tiny.TinyNetwork(10)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  # As after training: what a layer does depends on what it sees.
  shake = lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)  # noqa: E731
  return model, {
    'params': jax.tree.map(shake, variables['params']),
    **{kind: tree for kind, tree in variables.items() if kind != 'params'},
  }


@pytest.mark.parametrize('name', ['basisnet', 'one stage'])
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
