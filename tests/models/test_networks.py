"""Every network of the registry, without being listed here: what each must do; mistakes."""

import functools
import os
import re

from flax import traverse_util
import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit, normal
import tiny

from basisnet_jax import models, sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import cost, layers, once_for_all, routed
from basisnet_jax.models.preprocessing import normalize
from basisnet_jax.training.checkpoints import Checkpoints
from basisnet_jax.training.state import TrainState

NAMES = [name for name in models.names() if name not in ('basisnet', 'cascade')]
# All of them take many minutes: `make test` tests what compiles, or traces often, on one network
# of each kind, the first or a small one, `make test-extras` on every one. The deepest kinds, of
# MobileNetV3's blocks, are left to it.
KINDS = {
  re.match(r'mobilenet_v\d|[a-z]+', name)[0]: name
  for name in sorted(reversed(NAMES), key=lambda name: name.endswith('_small'))
  if not name.startswith(('efficientnet', 'fbnet', 'once'))
}
every_kind = pytest.mark.parametrize(
  'name', NAMES if 'EVERY_NETWORK' in os.environ else KINDS.values()
)
KEY = jax.random.key(0)


def create(name, **options):
  return models.create(name, **{'num_classes': 7, 'width': 0.25, 'output_stride': 8, **options})


def images(size=32, batch=4):
  return normal(0, (batch, size, size, 3))


@functools.cache
def shapes(name, width=0.25):
  return jax.eval_shape(create(name, width=width).init, KEY, images())


def random_variables(tree):
  """He-like weights without compiling `init`; statistics of a normalisation at rest."""

  def leaf(path, shape):
    rng = np.random.default_rng(sum(shape.shape))
    if path[-1].key in ('scale', 'var'):
      return np.ones(shape.shape, np.float32)
    fan_in = max(1, int(np.prod(shape.shape[:-1])))
    if path[-1].key == 'bases':
      # The mean square of a coefficient: of a sigmoid (K is 8), and of a softmax (K is 4).
      fan_in *= 0.3 if shape.shape[0] == 8 else 1 / 16
    # Routers of large random weights would switch between bases at a rounding error.
    gain = 0.1 if any(key.key == 'routing' for key in path) else 1.0
    return rng.normal(size=shape.shape, scale=gain * (2 / fan_in) ** 0.5).astype(np.float32)

  return jax.tree_util.tree_map_with_path(leaf, tree)


def parameters(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree['params']))


@every_kind
def test_logits_depend_on_every_parameter(name):
  network, params = create(name), shapes(name)['params']
  stats = jax.tree.map(lambda s: jnp.ones(s.shape), shapes(name).get('batch_stats', {}))

  def run(params, x):
    return network.apply({'params': params, 'batch_stats': stats}, x)

  jaxpr = jax.make_jaxpr(run)(params, images(45))
  assert [out.shape for out in jaxpr.out_avals] == [(4, 7)]
  live = set(jaxpr.jaxpr.outvars)
  for equation in reversed(jaxpr.jaxpr.eqns):
    if live & set(equation.outvars):
      live |= {v for v in equation.invars if not isinstance(v, jax.extend.core.Literal)}
  inputs = zip(tiny.leaf_paths(params), jaxpr.jaxpr.invars, strict=False)  # And the images.
  assert not [path for path, variable in inputs if variable not in live]


@every_kind
def test_training_reaches_every_parameter(name):
  network, x = create(name), images()
  variables = random_variables(shapes(name))
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
    # Attention does not see what is added to all keys, and of two rectified units of a narrow
    # router both may be off.
    assert np.abs(gradient).max() > 0 or re.search('attention/key/bias|routing', path), path
  before = traverse_util.flatten_dict(variables.get('batch_stats', {}))
  moved = traverse_util.flatten_dict(after.get('batch_stats', {}))
  assert all(np.abs(moved[path] - leaf).max() > 0 for path, leaf in before.items())


@functools.cache
def evaluation(name):
  """Images of an odd size, random variables, the compiled network and its logits."""
  network, x = create(name, dropout=0.9), images(45, 2)
  variables, apply = random_variables(shapes(name)), jit(network.apply)
  return x, variables, apply, apply(variables, x)


@every_kind
def test_evaluation_of_an_image_depends_on_nothing_else(name):
  # Neither on dropout nor on the statistics of the batch.
  x, variables, apply, logits = evaluation(name)
  assert logits.shape == (2, 7) and logits.dtype == jnp.float32
  other = apply(variables, np.stack([x[0], np.full_like(x[1], 5.0)]))
  np.testing.assert_allclose(other[0], logits[0], rtol=1e-4, atol=1e-5)
  assert np.abs(other[1] - logits[1]).max() > 1e-2


@every_kind
def test_bfloat16_computes_near_float32_on_float32_parameters(name):
  x, variables, apply, _ = evaluation(name)

  # Fifty layers of random weights amplify what each one rounds, unless shortcuts outweigh them.
  def calm(path, leaf):
    last_of_block = [key.key for key in path][-3:] == ['project', 'norm', 'scale']
    return leaf * np.float32(0.3) if last_of_block else leaf

  variables = jax.tree_util.tree_map_with_path(calm, variables)
  exact = apply(variables, x)
  logits = jit(create(name, dtype=jnp.bfloat16).apply)(variables, x)
  assert logits.dtype == jnp.bfloat16
  assert 0.97 < np.corrcoef(logits.astype(jnp.float32).ravel(), exact.ravel())[0, 1] < 1


@every_kind
def test_parameters_of_a_bfloat16_network_are_float32_and_its_logits_are_not(name):
  network = create(name, dtype=jnp.bfloat16)
  logits, init = jax.eval_shape(network.init_with_output, KEY, images())
  assert logits.dtype == jnp.bfloat16
  assert {leaf.dtype for leaf in jax.tree.leaves(init)} == {np.dtype('float32')}


@every_kind
def test_output_stride_sets_the_size_of_the_last_map_and_no_parameter(name):
  found = []
  for stride in (8, 32):
    network = create(name, output_stride=stride)

    def run(x, network=network):
      return network.init_with_output(KEY, x, capture_intermediates=True)[1]

    variables = jax.eval_shape(run, images(64))
    maps = [leaf.shape for leaf in jax.tree.leaves(variables['intermediates'])]
    smallest = min(shape[1] for shape in maps if len(shape) == 4 and shape[1] == shape[2])
    # Some of FBNetV3's convolutions give up the border.
    borders = 2 if name.startswith('fbnet') else 0
    assert 64 // stride - borders <= smallest <= 64 // stride
    found.append({p: s.shape for p, s in flat(variables['params']).items() if 'stem' not in p})
  if not name.startswith('vit'):  # There it is the side of the patches that the stem reads.
    assert found[0] == found[1]


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


@every_kind
def test_width_multiplies_parameters_and_cost_counts_them(name):
  narrow, wide = shapes(name), shapes(name, 0.5)
  assert parameters(narrow) < parameters(wide)
  counted = cost.count(create(name), 32)
  assert counted.total_params == parameters(narrow)
  assert 0 < counted.total_madds < cost.count(create(name), 48).total_madds


@pytest.mark.parametrize(
  'name', NAMES if 'EVERY_NETWORK' in os.environ else ['condconv_mobilenet_v3_small']
)
def test_state_survives_a_checkpoint(name, tmp_path):
  variables = jax.tree.map(jnp.asarray, random_variables(shapes(name)))
  state = TrainState(
    step=jnp.int32(3),
    params=variables['params'],
    batch_stats=variables.get('batch_stats', {}),
    opt_state=(),
    ema=None,
  )
  mesh = sharding.create_mesh()
  with Checkpoints(str(tmp_path), keep=1) as saved:
    saved.save(state)
    saved.wait()
    restored = saved.restore(sharding.abstract(jax.eval_shape(lambda: state), mesh))
  found = tiny.leaves(restored)
  for path, leaf in tiny.leaves(state).items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@every_kind
def test_network_is_either_stage(name):
  small = models.create('mobilenet_v1', num_classes=7, width=0.1, output_stride=8)
  network, options = create(name), {'resolution': 32, 'num_bases': 2}

  def trace(kind, lightweight, specialist, **more):
    model = models.create(kind, lightweight=lightweight, specialist=specialist, **options, **more)
    outputs, variables = jax.eval_shape(model.init_with_output, KEY, images())
    assert outputs.lightweight.shape == outputs.specialist.shape == (4, 7)
    assert outputs.coefficients.shape == (4, len(model.layers), 2)
    return model, variables['params']

  trace('cascade', network, small)
  if isinstance(network, routed.Routed):
    with pytest.raises(UserError, match='blends bases by itself.*cascade'):
      trace('basisnet', small, network)
    return
  pattern = '(?!.*(squeeze_excite|classifier))'
  model, params = trace('basisnet', small, network, based_layers=pattern)
  leaves = flat(params['specialist'])
  based = {path.removesuffix('/bases') for path in leaves if path.endswith('/bases')}
  assert based == set(model.layers)
  plain = {path.removesuffix('/kernel') for path in leaves if path.endswith('/kernel')}
  assert plain and all('squeeze_excite' in path or 'classifier' in path for path in plain)


@pytest.mark.parametrize(
  ('name', 'near'),
  [('mobilenet_v3', 'mobilenet_v3_large'), ('mobilenetv2', 'mobilenet_v2'), ('', None), (3, None)],
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
    ({'num_classes': '10'}, "num_classes='10' is no number; give one"),
    ({'width': None}, 'width=None is no number'),
    ({'num_classes': 10.5}, 'num_classes=10.5 is no whole number; give one'),
    ({'output_stride': 0}, 'output_stride=0 is too small; it must be at least 1'),
  ],
  ids=str,
)
def test_option_out_of_its_range_is_one_clear_sentence(options, sentence):
  with pytest.raises(UserError, match=sentence):
    create('mobilenet_v2', **options)


@pytest.mark.parametrize('name', [name for name in NAMES if not name.startswith('vit')])
def test_impossible_output_stride_names_the_possible_ones(name):
  sentence = r'output_stride=3 cannot be; .* \[1, 2, 4, 8, 16, 32\]'
  with pytest.raises(UserError, match=sentence):
    network = create(name, output_stride=3)  # Those that are lifted are traced here.
    jax.eval_shape(network.init, KEY, images())


def test_patch_larger_than_the_image_is_one_clear_sentence():
  with pytest.raises(UserError, match=r'output_stride=64.*larger than the images \(32x32\)'):
    jax.eval_shape(create('vit_tiny', output_stride=64).init, KEY, images())


@pytest.mark.parametrize('name', ['fbnet_v3_a', 'fbnet_v3_b', 'fbnet_v3_c'])
def test_images_of_which_a_given_up_border_leaves_nothing_are_one_clear_sentence(name):
  small = jax.ShapeDtypeStruct((1, 32, 48, 3), jnp.float32)
  with pytest.raises(UserError, match='output_stride=32 leaves nothing of images of 32x48 pixels'):
    jax.eval_shape(create(name, output_stride=32).init, KEY, small)
  logits, _ = jax.eval_shape(create(name, output_stride=16).init_with_output, KEY, small)
  assert logits.shape[0] == 1


def test_unknown_padding_names_the_known():
  with pytest.raises(UserError, match="padding='valid' is unknown; it is 'same' or 'symmetric'"):
    jax.eval_shape(create('mobilenet_v2', padding='valid').init, KEY, images())


def test_networks_own_style_holds_where_nothing_else_is_asked():
  assert models.create('fbnet_v3_a', num_classes=7).style.padding == 'symmetric'
  changed = models.create('fbnet_v3_a', num_classes=7, norm_epsilon=0.1).style
  assert changed == layers.Style(0.9, 0.1, 'symmetric')


@pytest.mark.parametrize(
  ('settings', 'sentence'),
  [
    ({'depths': (4, 4)}, 'wants 5 depths, 20 kernels and 20 expansions.*it has 2, 20 and 20'),
    ({'depths': (4, 4, 4, 4, 5)}, 'must be between 1 and 4'),
  ],
  ids=str,
)
def test_impossible_settings_of_once_for_all_are_one_clear_sentence(settings, sentence):
  network = create('once_for_all', settings=once_for_all.Settings(**settings))
  with pytest.raises(UserError, match=sentence):
    jax.eval_shape(network.init, KEY, images())


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


def test_network_changes_the_units_of_its_images_by_itself():
  pixels = np.array([[0, 255, 51], [100, 110, 120]], np.uint8)
  style = layers.Style(pixel_mean=(100.0, 110.0, 120.0), pixel_std=(50.0, 40.0, 30.0))
  expected = (pixels - np.array(style.pixel_mean)) / style.pixel_std
  np.testing.assert_allclose(style.images(normalize(pixels)), expected, atol=1e-5)
  assert style._replace(dtype=jnp.bfloat16).images(normalize(pixels)).dtype == jnp.bfloat16
  np.testing.assert_array_equal(layers.Style().images(normalize(pixels)), normalize(pixels))
