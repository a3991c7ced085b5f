"""The two stages, on networks that are not ours."""

import functools
import re

from flax import linen as nn
from flax import traverse_util
from foreign_networks import ResNet, VisionTransformer
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit, normal, random_variables

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import basisnet, preprocessing, synthesis

BATCH = 4
PAIRS = {
  'resnet_then_vit': (ResNet(), VisionTransformer()),
  'vit_then_resnet': (VisionTransformer(), ResNet()),
}
IMAGES = normal(0, (BATCH, 16, 16, 3))


def two_stage(lightweight, specialist, **options):
  return models.create(
    'basisnet',
    lightweight=lightweight,
    specialist=specialist,
    **{'resolution': 16, 'num_bases': 3, **options},
  )


@pytest.mark.parametrize('refine', [0.0, 0.5])
def test_preview_then_specialize_is_the_whole_call(refine):
  model = two_stage(ResNet(), VisionTransformer(), refine=refine)
  variables = random_variables(model, IMAGES)
  both = jit(model.apply)(variables, IMAGES)
  logits, coefficients = jit(functools.partial(model.apply, method='preview'))(variables, IMAGES)
  specialist = jit(functools.partial(model.apply, method='specialize'))(
    variables, IMAGES, coefficients, logits
  )
  assert both.coefficients.shape == (BATCH, len(model.layers), 3)
  assert both.lightweight.shape == both.specialist.shape == (BATCH, 5)
  for actual, expected in zip((logits, specialist, coefficients), both, strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['basisnet', 'cascade'])
def test_refined_logits_sum_both_stages_and_train_the_second_alone(name):
  options = {'resolution': 16, 'feature_gradient': 0.0}
  plain = models.create(name, lightweight=ResNet(), specialist=VisionTransformer(), **options)
  refining = plain.clone(refine=0.5)
  variables = random_variables(plain, IMAGES)
  outputs = jit(plain.apply)(variables, IMAGES)

  def refined(variables):
    logits = refining.apply(variables, IMAGES).specialist
    return (logits**2).sum(), logits

  gradient, logits = jit(jax.grad(refined, has_aux=True))(variables)
  expected = 0.5 * outputs.lightweight + outputs.specialist
  np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
  assert not any(leaf.any() for leaf in jax.tree.leaves(gradient['params']['lightweight']))
  assert all(leaf.any() for leaf in jax.tree.leaves(gradient['params']['specialist']))
  with pytest.raises(ValueError, match='needs the logits of preview'):
    refining.apply(variables, IMAGES, outputs.coefficients, method='specialize')


@pytest.mark.parametrize('refine', [0.0, 0.5])
@pytest.mark.parametrize('pair', PAIRS)
def test_blended_specialist_is_a_plain_network_that_says_the_same(pair, refine):
  model = two_stage(*PAIRS[pair], refine=refine)
  variables = random_variables(model, IMAGES)
  first, coefficients = jit(functools.partial(model.apply, method='preview'))(variables, IMAGES)
  for i in (0, 2):
    own = jit(functools.partial(basisnet.blended, model))(variables, coefficients[i : i + 1])
    plain = random_variables(model.specialist, IMAGES)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, plain)
    said = jit(functools.partial(basisnet.call_blended, model))(own, IMAGES, first)
    # The one specialist for all images.
    alike = jnp.repeat(coefficients[i : i + 1], BATCH, axis=0)
    specialize = functools.partial(model.apply, method='specialize')
    wanted = jit(specialize)(variables, IMAGES, alike, first)
    np.testing.assert_allclose(said, wanted, rtol=1e-4, atol=1e-4)


def test_lightweight_stage_is_the_plain_network_on_resized_images():
  model = two_stage(ResNet(), ResNet(), lightweight_resolution=8, based_layers='stem')
  variables = random_variables(model, IMAGES)
  logits, _ = model.apply(variables, IMAGES, method='preview')
  small = jax.image.resize(IMAGES, (BATCH, 8, 8, 3), 'bilinear')
  plain = {kind: tree['lightweight'] for kind, tree in variables.items()}
  np.testing.assert_allclose(logits, ResNet().apply(plain, small), rtol=1e-5, atol=1e-5)
  again, _ = model.apply(variables, preprocessing.resize(IMAGES, 8), method='preview')
  np.testing.assert_array_equal(again, logits)


def test_coefficients_are_made_of_what_the_classifier_reads():
  model = two_stage(VisionTransformer(), ResNet())
  variables = random_variables(model, IMAGES)
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


@pytest.mark.parametrize('transform', [nn.remat, nn.jit])
def test_features_of_a_network_whose_classifier_is_in_a_transformation_are_its_logits(transform):
  class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.Dense(5)(nn.relu(nn.Dense(7)(x)))

  class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Dense(5)(x.mean((1, 2)))  # As many outputs as the classifier, which it is not.
      return transform(Head)()(x)

  model = two_stage(Network(), ResNet(), based_layers='stem')
  variables = random_variables(model, IMAGES)
  logits, coefficients = jit(functools.partial(model.apply, method='preview'))(variables, IMAGES)
  head = variables['params']['coefficient_head']['dense']
  outputs = (logits @ head['kernel'] + head['bias']).reshape(coefficients.shape)
  np.testing.assert_allclose(coefficients, jax.nn.softmax(outputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('pair', PAIRS)
def test_training_the_specialist_reaches_every_basis_and_the_lightweight_model(pair):
  model = two_stage(*PAIRS[pair])
  variables = random_variables(model, IMAGES)
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


def test_basisnet_made_within_another_modules_call_has_its_stages_within():
  class Whole(nn.Module):
    @nn.compact
    def __call__(self, x):
      return two_stage(ResNet(), ResNet(), based_layers='stem')(x)

  outer, own = (
    jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    for model in (Whole(), two_stage(ResNet(), ResNet(), based_layers='stem'))
  )
  assert {kind: tree['BasisNet_0'] for kind, tree in outer.items()} == own
  assert all(list(tree) == ['BasisNet_0'] for tree in outer.values())


def test_same_object_as_both_stages_makes_two_networks():
  network = ResNet()
  model = two_stage(network, network)
  params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
  assert params['specialist']['stem']['bases'].shape == (3, 7, 7, 3, 8)
  assert params['lightweight']['stem']['kernel'].shape == (7, 7, 3, 8)


@pytest.mark.parametrize('options', [{}, {'cascade': True}], ids=str)
def test_modules_within_the_same_object_make_two_networks_too(options):
  network = nn.Sequential([nn.Conv(8, (3, 3), 2), lambda x: x.mean((1, 2)), nn.Dense(5)])
  model = models.two_stage(network, network, resolution=16, num_bases=3, **options)
  params = jax.eval_shape(model.init, jax.random.key(0), IMAGES)['params']
  assert params['specialist'].keys() == params['lightweight'].keys() == {'layers_0', 'layers_2'}
  assert ('bases' in params['specialist']['layers_0']) == (not options)


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
  variables = random_variables(model, IMAGES)
  run = jax.jit(model.apply, in_shardings=(everywhere, by_image), out_shardings=by_image)
  text = run.lower(variables, np.zeros((16, 16, 16, 3), np.float32)).compile().as_text()
  assert 'fusion' in text or 'dot' in text
  for collective in ('all-gather', 'all-to-all', 'all-reduce', 'collective-permute'):
    assert collective not in text


@pytest.mark.parametrize('pair', PAIRS)
def test_both_stages_can_be_exported_for_any_batch_size(pair):
  model = two_stage(*PAIRS[pair], lightweight_resolution=16)
  variables = random_variables(model, IMAGES)
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
    ({'num_bases': 2.5}, 'num_bases=2.5 is no whole number'),
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


@pytest.mark.parametrize('stage', ['lightweight', 'specialist'])
@pytest.mark.parametrize('given', ['resnet_10', ResNet, 'a BasisNet'])
def test_what_is_no_network_of_one_stage_is_one_clear_sentence(stage, given):
  network = two_stage(ResNet(), ResNet()) if given == 'a BasisNet' else given
  stages = {'lightweight': ResNet(), 'specialist': ResNet()} | {stage: network}
  shown = given if given == 'a BasisNet' else re.escape(repr(given))
  with pytest.raises(UserError, match=f'^{shown} cannot be a stage, as {stage}; give a Flax'):
    models.create('basisnet', **stages, resolution=16)


def test_missing_stage_is_named():
  with pytest.raises(TypeError, match="'specialist'"):
    models.create('basisnet', lightweight=ResNet(), resolution=16)


def test_stages_with_different_classes_are_one_clear_sentence():
  model = two_stage(ResNet(classes=4), ResNet(), based_layers='stem')
  with pytest.raises(UserError, match=r'logits of shapes \(\d+, 4\) and \(\d+, 5\)'):
    jax.eval_shape(model.init, jax.random.key(0), IMAGES)


def test_layers_follow_the_order_of_the_specialist():
  model = two_stage(ResNet(), VisionTransformer(), based_layers='.*(mlp|patches)')
  assert model.layers == tuple(
    path for path in synthesis.based_layers(VisionTransformer(), (16, 16, 3)) if path[0] in 'mp'
  )
  assert model.layers[0] == 'patches'


@pytest.mark.parametrize('kind', ['basisnet', 'cascade'])
def test_coefficients_of_other_layers_are_refused(kind):
  stages = {'lightweight': ResNet(), 'specialist': ResNet(), 'resolution': 16, 'num_bases': 3}
  model = models.create(kind, **stages)
  run = functools.partial(model.init, jax.random.key(0), IMAGES, method='specialize')
  with pytest.raises(ValueError, match=rf'do not fit the {len(model.layers)} layers'):
    jax.eval_shape(run, jnp.ones((BATCH, 1, 3)))
