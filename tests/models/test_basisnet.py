"""The two stages and the coefficient head, on networks that are not ours."""

import functools

from flax import linen as nn
from flax import traverse_util
from foreign_networks import ResNet, VisionTransformer
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import synthesis
from basisnet_jax.models.coefficients import (
  Annealed,
  CoefficientHead,
  entropy,
  survival_rate,
  surviving,
)

BATCH = 4
# Compiles in half the time.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
PAIRS = {
  'resnet_then_vit': (ResNet(), VisionTransformer()),
  'vit_then_resnet': (VisionTransformer(), ResNet()),
}


def normal(seed, shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


IMAGES = normal(0, (BATCH, 16, 16, 3))


def two_stage(lightweight, specialist, **options):
  return models.create(
    'basisnet',
    lightweight=lightweight,
    specialist=specialist,
    **{'resolution': 16, 'num_bases': 3, **options},
  )


def random_variables(model, images=IMAGES):
  shapes = jax.eval_shape(model.init, jax.random.key(0), images)
  variables = jax.tree.map(lambda leaf: 0.3 * normal(leaf.size, leaf.shape), shapes)
  if 'batch_stats' in variables:  # Variances are positive.
    variables['batch_stats'] = jax.tree.map(np.abs, variables['batch_stats'])
  return variables


# The coefficient head.


def coefficients_of(annealed=Annealed(), train=False, batch=BATCH, **options):  # noqa: B008
  head = CoefficientHead(num_layers=5, num_bases=4, **options)
  features = normal(1, (batch, 7))
  variables, rngs = random_variables(head, features), {'dropout': jax.random.key(0)}
  run = jit(lambda variables: head.apply(variables, features, annealed, train, rngs=rngs))
  return np.asarray(run(variables))


def test_softmax_coefficients_of_a_layer_sum_to_one():
  coefficients = coefficients_of()
  assert coefficients.shape == (BATCH, 5, 4) and coefficients.dtype == np.float32
  np.testing.assert_allclose(coefficients.sum(-1), 1, rtol=1e-6)
  assert np.ptp(coefficients, axis=1).max() > 0.01  # Each layer has its own.


def test_sigmoid_coefficients_are_free_of_each_other():
  coefficients = coefficients_of(activation='sigmoid')
  assert coefficients.min() > 0 and coefficients.max() < 1
  assert np.abs(coefficients.sum(-1) - 1).max() > 0.1


def test_shared_coefficients_are_the_same_for_all_layers():
  coefficients = coefficients_of(shared=True)
  assert coefficients.shape == (BATCH, 5, 4)
  np.testing.assert_array_equal(coefficients, coefficients[:, :1].repeat(5, 1))


def test_temperature_divides_the_logarithms_of_the_coefficients():
  cold, warm = (np.log(coefficients_of(temperature=t)) for t in (1.0, 4.0))
  np.testing.assert_allclose(cold - cold[..., :1], 4 * (warm - warm[..., :1]), atol=1e-4)


@pytest.mark.parametrize('activation', ['softmax', 'sigmoid'])
def test_uniform_mix_goes_from_the_heads_coefficients_to_exactly_uniform(activation):
  none, half, full = (
    coefficients_of(Annealed(mix), activation=activation) for mix in (0.0, 0.5, 1.0)
  )
  np.testing.assert_array_equal(full, 1 / 4)
  np.testing.assert_allclose(half, (none + 1 / 4) / 2, rtol=1e-6)


def test_annealed_temperature_is_in_place_of_the_heads():
  annealed = coefficients_of(Annealed(temperature=np.float32(4.0)), temperature=0.1)
  np.testing.assert_allclose(annealed, coefficients_of(temperature=4.0), rtol=1e-5)


@pytest.mark.parametrize('mix', [0.0, 0.4])
def test_softmax_of_the_surviving_bases_sums_to_one(mix):
  options = {'annealed': Annealed(mix), 'batch': 400}
  without, found = (
    coefficients_of(**options, train=True, basis_dropout=rate) for rate in (0.0, 0.6)
  )
  alive = found > 0
  assert alive.any(-1).all() and not alive.all()
  np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
  # Softmax over the survivors alone, mixed with the uniform ones over the survivors alone.
  own = (without - mix / 4) / (1 - mix) * alive
  expected = (1 - mix) * own / own.sum(-1, keepdims=True)
  expected += mix * alive / alive.sum(-1, keepdims=True)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  np.testing.assert_array_equal(
    coefficients_of(**options, basis_dropout=0.6), without
  )  # Not train.


def test_bases_fall_for_each_image_and_layer_by_itself_at_the_rate():
  alive = coefficients_of(batch=4000, train=True, basis_dropout=0.5) > 0
  for one, other in [((0, 0), (1, 0)), ((0, 0), (0, 1))]:  # Of two layers; of two bases.
    a, b = alive[:, *one], alive[:, *other]
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.1
  # 1 - 1/2, and a fourth of the cases in which all four would have been shut off.
  assert survival_rate(0.5, 4) == 0.5 + 0.5**4 / 4
  np.testing.assert_allclose(alive.mean(0), survival_rate(0.5, 4), atol=0.04)  # 5 deviations.
  shared = coefficients_of(batch=50, train=True, basis_dropout=0.5, shared=True)
  np.testing.assert_array_equal(shared, shared[:, :1].repeat(5, 1))


def test_last_basis_always_survives():
  alive = surviving(jax.random.key(0), 0.999, (300, 3))
  np.testing.assert_array_equal(alive.sum(-1), 1)
  assert (alive.sum(0) > 60).all()  # And it is any of them.


def test_sigmoid_keeps_its_mean_under_basis_dropout():
  options = {'activation': 'sigmoid', 'annealed': Annealed(0.3)}
  without = coefficients_of(**options)
  head = CoefficientHead(5, 4, 'sigmoid', basis_dropout=0.4)
  features = normal(1, (BATCH, 7))
  variables = random_variables(head, features)

  def draw(key):
    return head.apply(variables, features, options['annealed'], True, rngs={'dropout': key})

  mean = jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 4000)).mean(0)
  np.testing.assert_allclose(mean, without, rtol=0.08)  # 6 standard deviations.


def test_gradient_is_finite_where_only_hopeless_bases_survive():
  # Their softmax among all is 0: divided by their sum it would be no number.
  head = CoefficientHead(num_layers=1, num_bases=3, basis_dropout=0.7)
  features = np.ones((64, 1), np.float32)
  params = {'dense': {'kernel': np.float32([[0.0, 0.0, 900.0]]), 'bias': np.zeros(3, np.float32)}}

  def loss(params):
    rngs = {'dropout': jax.random.key(0)}
    found = head.apply({'params': params}, features, train=True, rngs=rngs)
    return (found * np.float32([1, 2, 3])).sum(), found

  gradients, found = jit(jax.grad(loss, has_aux=True))(params)
  assert (found[:, 0, 2] == 0).any() and np.isfinite(found).all()
  assert np.isfinite(gradients['dense']['kernel']).all()
  assert np.abs(gradients['dense']['kernel']).max() > 0


@pytest.mark.parametrize(
  ('coefficients', 'expected'),
  [
    ([0.25, 0.25, 0.25, 0.25], 1.0),
    ([0.0, 1.0, 0.0, 0.0], 0.0),
    ([0.5, 0.5, 0.0, 0.0], 0.5),
    ([0.2, 0.0, 0.2, 0.0], 0.5),  # Of shares: a sigmoid's sum to anything.
    ([0.7], 0.0),
  ],
)
def test_entropy_is_of_shares_by_its_largest_value(coefficients, expected):
  found, gradient = jax.value_and_grad(entropy)(jnp.array(coefficients))
  np.testing.assert_allclose(found, expected, atol=1e-6)
  assert np.isfinite(gradient).all()


# The stages.


def test_preview_then_specialize_is_the_whole_call():
  model = two_stage(ResNet(), VisionTransformer())
  variables = random_variables(model)
  both = jit(model.apply)(variables, IMAGES)
  logits, coefficients = jit(functools.partial(model.apply, method='preview'))(variables, IMAGES)
  specialist = jit(functools.partial(model.apply, method='specialize'))(
    variables, IMAGES, coefficients
  )
  assert both.coefficients.shape == (BATCH, len(model.layers), 3)
  assert both.lightweight.shape == both.specialist.shape == (BATCH, 5)
  for actual, expected in zip((logits, specialist, coefficients), both, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_lightweight_stage_is_the_plain_network_on_resized_images():
  model = two_stage(ResNet(), ResNet(), lightweight_resolution=8, based_layers='stem')
  variables = random_variables(model)
  logits, _ = model.apply(variables, IMAGES, method='preview')
  small = jax.image.resize(IMAGES, (BATCH, 8, 8, 3), 'bilinear')
  plain = {kind: tree['lightweight'] for kind, tree in variables.items()}
  np.testing.assert_allclose(logits, ResNet().apply(plain, small), rtol=1e-5, atol=1e-5)
  again, _ = model.apply(variables, small, method='preview')
  np.testing.assert_array_equal(again, logits)


def test_coefficients_are_made_of_what_the_classifier_reads():
  model = two_stage(VisionTransformer(), ResNet())
  variables = random_variables(model)
  (_, coefficients), state = model.apply(
    variables,
    IMAGES,
    method='preview',
    capture_intermediates=lambda module, _: isinstance(module, nn.LayerNorm),
  )
  features = state['intermediates']['lightweight']['LayerNorm_4']['__call__'][0]  # The last.
  head = variables['params']['coefficient_head']['dense']
  outputs = (features @ head['kernel'] + head['bias']).reshape(coefficients.shape)
  np.testing.assert_allclose(coefficients, jax.nn.softmax(outputs), rtol=1e-4, atol=1e-5)


def test_features_of_a_network_without_a_dense_classifier_are_its_logits():
  class Gated(nn.Module):
    """Has a dense layer on vectors, but not in the end."""

    @nn.compact
    def __call__(self, x):
      gates = nn.Dense(9)(x.mean((1, 2)))
      return nn.Conv(5, (1, 1))(nn.Conv(9, (1, 1))(x) * gates[:, None, None]).mean((1, 2))

  model = two_stage(Gated(), ResNet())
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  assert shapes['params']['coefficient_head']['dense']['kernel'].shape[0] == 5


@pytest.mark.parametrize('pair', PAIRS)
def test_training_the_specialist_reaches_every_basis_and_the_lightweight_model(pair):
  model = two_stage(*PAIRS[pair])
  variables = random_variables(model)
  cotangent = normal(2, (BATCH, 5))

  def loss(params):
    outputs, after = model.apply(
      {**variables, 'params': params}, IMAGES, train=True, mutable=['batch_stats']
    )
    return (outputs.specialist * cotangent).sum(), after['batch_stats']

  gradients, after = jit(jax.grad(loss, has_aux=True))(variables['params'])
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, after, variables['batch_stats'])
  assert all(jax.tree.leaves(moved))
  gradients = traverse_util.flatten_dict(gradients, sep='/')
  based = [path for path in gradients if path.endswith('/bases')]
  assert len(based) == len(model.layers)
  assert all(np.isfinite(leaf).all() for leaf in gradients.values())
  for path in based:
    for k, basis in enumerate(gradients[path]):
      assert np.abs(basis).max() > 0, f'{path}, basis {k}'
  assert np.abs(gradients['coefficient_head/dense/kernel']).max() > 0
  # What the lightweight model's classifier reads; the classifier itself has no part in it.
  last = {'resnet_then_vit': 'Conv_5/kernel', 'vit_then_resnet': 'mlp_1_out/kernel'}[pair]
  assert np.abs(gradients[f'lightweight/{last}']).max() > 0


def test_same_object_as_both_stages_makes_two_networks():
  network = ResNet()
  model = two_stage(network, network)
  params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
  assert params['specialist']['stem']['bases'].shape == (3, 7, 7, 3, 8)
  assert params['lightweight']['stem']['kernel'].shape == (7, 7, 3, 8)


@pytest.mark.parametrize(
  ('lightweight', 'specialist'),
  [('mobilenet_v3_small', 'mobilenet_v3_large'), ('mobilenet_v2', 'mobilenet_v2')],
)
def test_our_networks_are_stages_too(lightweight, specialist):
  light, special = (models.create(n, num_classes=5, width=0.25) for n in (lightweight, specialist))
  pattern = r'(?!.*(squeeze_excite|classifier))'
  model = two_stage(light, special, resolution=32, num_bases=2, based_layers=pattern)
  images = jnp.zeros((2, 32, 32, 3))
  outputs, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
  assert outputs.coefficients.shape == (2, len(model.layers), 2)
  flat = traverse_util.flatten_dict(variables['params']['specialist'], sep='/')
  based = {path.removesuffix('/bases') for path in flat if path.endswith('/bases')}
  assert based == set(model.layers)
  plain = {path.removesuffix('/kernel') for path in flat if path.endswith('/kernel')}
  assert plain and all('squeeze_excite' in p or 'classifier' in p for p in plain)


def test_sharding_the_batch_needs_no_communication():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  by_image = jax.NamedSharding(mesh, jax.P('data'))
  everywhere = jax.NamedSharding(mesh, jax.P())
  model = two_stage(VisionTransformer(), ResNet())
  variables = random_variables(model)
  run = jax.jit(model.apply, in_shardings=(everywhere, by_image), out_shardings=by_image)
  text = run.lower(variables, np.zeros((16, 16, 16, 3), np.float32)).compile().as_text()
  assert 'fusion' in text or 'dot' in text
  for collective in ('all-gather', 'all-to-all', 'all-reduce', 'collective-permute'):
    assert collective not in text


@pytest.mark.parametrize('pair', PAIRS)
def test_both_stages_can_be_exported_for_any_batch_size(pair):
  model = two_stage(*PAIRS[pair], lightweight_resolution=16)
  variables = random_variables(model)
  (batch,) = jax.export.symbolic_shape('b')
  images = jax.ShapeDtypeStruct((batch, 16, 16, 3), jnp.float32)
  exported = jax.export.export(jax.jit(functools.partial(model.apply, variables)))(images)
  assert exported.out_avals[0].shape == (batch, 5)


# Mistakes.


@pytest.mark.parametrize(
  ('options', 'sentence'),
  [
    ({'activation': 'relu'}, r"activation='relu'.*\['softmax', 'sigmoid'\]"),
    ({'num_bases': 0}, 'num_bases=0 is too small; it must be at least 1'),
    ({'temperature': 0.0}, 'temperature=0.0 is too small; it must be above 0'),
    ({'basis_dropout': 1.0}, 'basis_dropout=1.0 is too large; it must be below 1'),
    ({'resolution': 0}, 'resolution=0 is too small'),
    ({'lightweight_resolution': 0}, r'lightweight.resolution=0 is too small'),
    ({'based_layers': '(stem'}, r"based_layers='\(stem' is no regular expression: missing"),
    ({'based_layers': 'nothing'}, "No layer matches based_layers='nothing'.*'stem', 'Conv_0'"),
  ],
  ids=str,
)
def test_mistake_in_the_options_is_one_clear_sentence(options, sentence):
  with pytest.raises(UserError, match=sentence):
    two_stage(VisionTransformer(), ResNet(), **options)


def test_pattern_is_checked_for_a_cascade_too():
  stages = {'lightweight': VisionTransformer(), 'specialist': ResNet(), 'resolution': 16}
  with pytest.raises(UserError, match=r"based_layers='\(stem' is no regular expression"):
    models.create('cascade', **stages, based_layers='(stem')


def test_basisnet_cannot_be_a_stage_of_itself():
  with pytest.raises(UserError, match='cannot be a stage'):
    models.create('basisnet', num_classes=10, width=1.0)


def test_layers_follow_the_order_of_the_specialist():
  model = two_stage(ResNet(), VisionTransformer(), based_layers='.*(mlp|patches)')
  assert model.layers == tuple(
    path for path in synthesis.based_layers(VisionTransformer(), (16, 16, 3)) if path[0] in 'mp'
  )
  assert model.layers[0] == 'patches'
