"""Every network of the registry: shapes, gradients, types, sizes, mistakes."""

import functools

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import layers
from basisnet_jax.models.preprocessing import normalize

NAMES = [name for name in models.names() if name != 'basisnet']
KEY = jax.random.key(0)
# Compiles in half the time.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def create(name, **options):
  return models.create(name, **{'num_classes': 7, 'width': 0.25, **options})


def images(size=32, batch=4):
  return np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)


def random_variables(network, x):
  """He-like weights without compiling `init`; statistics of a normalisation at rest."""

  def leaf(path, shape):
    rng = np.random.default_rng(sum(shape.shape))
    if path[-1].key in ('scale', 'var'):
      return np.ones(shape.shape, np.float32)
    fan_in = max(1, int(np.prod(shape.shape[:-1])))
    return rng.normal(size=shape.shape, scale=(2 / fan_in) ** 0.5).astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(network.init, KEY, x))


@pytest.mark.parametrize('name', NAMES)
def test_training_reaches_every_parameter(name):
  network, x = create(name, output_stride=8), images()
  variables = random_variables(network, x)
  cotangent = np.random.default_rng(1).normal(size=(len(x), 7)).astype(np.float32)

  def loss(params):
    logits, after = network.apply(
      {**variables, 'params': params},
      x,
      train=True,
      mutable=['batch_stats'],
      rngs={'dropout': KEY},
    )
    return (logits * cotangent).sum(), (logits, after)

  gradients, (logits, after) = jit(jax.grad(loss, has_aux=True))(variables['params'])
  assert logits.shape == (len(x), 7) and logits.dtype == jnp.float32
  for path, gradient in traverse_util.flatten_dict(gradients, sep='/').items():
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 0, path
  before = traverse_util.flatten_dict(variables['batch_stats'])
  moved = traverse_util.flatten_dict(after['batch_stats'])
  assert all(np.abs(moved[path] - leaf).max() > 0 for path, leaf in before.items())


@functools.cache
def evaluation(name):
  """Images of an odd size, random variables, the compiled network and its logits."""
  network, x = create(name, dropout=0.9), images(45, 2)
  variables, apply = random_variables(network, x), jit(network.apply)
  return x, variables, apply, apply(variables, x)


@pytest.mark.parametrize('name', NAMES)
def test_evaluation_of_an_image_depends_on_nothing_else(name):
  # Neither on dropout nor on the statistics of the batch.
  x, variables, apply, logits = evaluation(name)
  assert logits.shape == (2, 7) and logits.dtype == jnp.float32
  other = apply(variables, np.stack([x[0], np.full_like(x[1], 5.0)]))
  np.testing.assert_allclose(other[0], logits[0], rtol=1e-4, atol=1e-5)
  assert np.abs(other[1] - logits[1]).max() > 1e-2


@pytest.mark.parametrize('name', NAMES)
def test_bfloat16_computes_near_float32_on_float32_parameters(name):
  x, variables, _, exact = evaluation(name)
  logits = jit(create(name, dtype=jnp.bfloat16).apply)(variables, x)
  assert logits.dtype == jnp.bfloat16
  # Not nearer, because fifty layers of random weights amplify what each one rounds.
  assert 0.97 < np.corrcoef(logits.astype(jnp.float32).ravel(), exact.ravel())[0, 1] < 1


@pytest.mark.parametrize('name', NAMES)
def test_parameters_of_a_bfloat16_network_are_float32(name):
  init = jax.eval_shape(create(name, dtype=jnp.bfloat16).init, KEY, images())
  assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {np.dtype('float32')}


@pytest.mark.parametrize('name', NAMES)
def test_output_stride_sets_the_size_of_the_last_map_and_no_parameter(name):
  shapes = []
  for stride in (8, 16, 32):
    network = create(name, output_stride=stride)

    def run(x, network=network):
      return network.init_with_output(
        KEY, x, capture_intermediates=lambda module, _: module.name == 'last'
      )[1]

    variables = jax.eval_shape(run, images(64))
    last = variables['intermediates']['last']['__call__'][0]
    assert last.shape[1:3] == (64 // stride, 64 // stride)
    shapes.append(jax.tree.map(jnp.shape, variables['params']))
  assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize('name', NAMES)
def test_width_multiplies_channels(name):
  trees = [
    jax.eval_shape(create(name, width=width).init, KEY, images())['params']
    for width in (0.5, 1.0, 2.0)
  ]
  stems = [tree['stem']['conv']['kernel'].shape[-1] for tree in trees]
  assert stems == [stems[1] // 2, stems[1], stems[1] * 2]
  counts = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees]
  assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize(
  ('name', 'near'),
  [('mobilenet_v3', 'mobilenet_v3_large'), ('mobilenetv2', 'mobilenet_v2'), ('', None)],
)
def test_unknown_network_names_the_nearest_and_all(name, near):
  with pytest.raises(UserError) as error:
    models.create(name, num_classes=7)
  assert f'There is no network {name!r}' in str(error.value)
  assert near is None or 'did you mean' in str(error.value)
  assert all(known in str(error.value) for known in models.names())


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    ({'width': 0.0}, 'width=0.0 is too small; it must be above 0'),
    ({'width': -1.0}, 'width=-1.0'),
    ({'dropout': 1.0}, 'dropout=1.0 is too large; it must be below 1'),
    ({'dropout': -0.1}, 'dropout=-0.1 is too small'),
    ({'num_classes': 0}, 'num_classes=0 is too small'),
  ],
  ids=str,
)
def test_option_out_of_its_range_is_one_clear_sentence(options, sentence):
  with pytest.raises(UserError, match=sentence):
    create('mobilenet_v2', **options)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('stride', [3, 64, 0])
def test_impossible_output_stride_names_the_possible_ones(name, stride):
  sentence = rf'output_stride={stride} cannot be; .* \[1, 2, 4, 8, 16, 32\]'
  with pytest.raises(UserError, match=sentence):
    jax.eval_shape(create(name, output_stride=stride).init, KEY, images())


def test_first_strides_give_way_to_a_smaller_output_stride():
  assert layers.strides_for([2, 2, 1, 2], 4) == [1, 2, 1, 2]
  assert layers.strides_for([2, 2, 1, 2], 8) == [2, 2, 1, 2]
  assert layers.strides_for([2, 2, 1, 2], 1) == [1, 1, 1, 1]


@pytest.mark.parametrize(
  ('value', 'rounded'),
  [(16, 16), (5.6, 8), (0.1, 8), (20, 24), (26.6, 24), (26.7, 32), (10.7, 16), (72.5, 72)],
)
def test_channels_round_to_eights_and_lose_at_most_a_tenth(value, rounded):
  assert layers.round_channels(value) == rounded
  assert rounded >= 0.9 * value


def test_images_are_normalized_to_minus_one_to_one():
  pixels = np.array([0, 255, 51], np.uint8)
  np.testing.assert_allclose(normalize(pixels), [-1, 1, -0.6], atol=1e-6)
