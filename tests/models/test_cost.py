"""Counts against published tables and against counts by hand."""

import json
import math
import os

from flax import linen as nn
from flax import traverse_util
from foreign_networks import ResNet, VisionTransformer
import jax
import jax.numpy as jnp
import pytest

from basisnet_jax import base_config, models
from basisnet_jax.models import convolution, cost, layers, synthesis
from basisnet_jax.training import experiment

# Multiply-adds and parameters, in millions: network, width, resolution, both. From the tables
# of TensorFlow's slim, counted to more digits from their definitions.
PUBLISHED = [
  ('mobilenet_v1', 1.0, 224, 568.7, 4.232),
  ('mobilenet_v1', 1.0, 192, 418, 4.232),
  ('mobilenet_v1', 0.5, 224, 149.5, 1.332),
  ('mobilenet_v1', 0.5, 160, 77, 1.332),
  ('mobilenet_v1', 0.25, 224, 41, 0.470),
  ('mobilenet_v3_large', 1.0, 224, 216.59, 5.483),
  ('mobilenet_v3_large', 0.75, 224, 154.56, 3.994),
  ('mobilenet_v3_small', 1.0, 224, 56.51, 2.543),
  ('mobilenet_v3_small', 1.0, 192, 42.07, 2.543),
  ('mobilenet_v3_small', 1.0, 160, 29.85, 2.543),
  ('mobilenet_v3_small', 1.0, 128, 19.85, 2.543),
  ('mobilenet_v3_small', 1.0, 96, 12.07, 2.543),
  ('mobilenet_v3_small', 0.75, 224, 43.40, 2.042),
  ('mobilenet_v3_small', 0.75, 192, 32.35, 2.042),
  ('mobilenet_v3_small', 0.75, 160, 23.00, 2.042),
  ('mobilenet_v3_small', 0.75, 128, 15.35, 2.042),
  ('mobilenet_v3_small', 0.75, 96, 9.40, 2.042),
  ('mobilenet_v3_small', 0.5, 224, 21.05, None),
  ('mobilenet_v3_small', 0.5, 160, 11.45, None),
  ('mobilenet_v3_small', 0.5, 128, 7.85, None),
  ('mobilenet_v3_small', 0.5, 96, 5.05, None),
  ('mobilenet_v2', 1.0, 224, 300.77, 3.505),
  ('mobilenet_v2', 1.4, 224, 582.2, 6.109),
  ('mobilenet_v2', 0.75, 224, 209.1, 2.636),
  ('mobilenet_v2', 0.5, 224, 97.1, 1.969),
  ('mobilenet_v2', 0.5, 192, 71.7, 1.969),
  ('mobilenet_v2', 0.5, 160, 50.2, 1.969),
  ('mobilenet_v2', 0.5, 128, 32.6, 1.969),
  ('mobilenet_v2', 0.5, 96, 18.9, 1.969),
  ('mobilenet_v2', 0.35, 224, 59.3, 1.677),
  ('mobilenet_v2', 0.35, 192, 43.9, 1.677),
  ('mobilenet_v2', 0.35, 160, 30.9, 1.677),
  ('mobilenet_v2', 0.35, 128, 20.2, 1.677),
  ('mobilenet_v2', 0.35, 96, 11.9, 1.677),
  # TensorFlow's TPU models; of Lite the README has the parameters.
  ('efficientnet_b0', 1.0, 224, 385.8, 5.289),
  ('efficientnet_b1', 1.0, 240, 686.8, 7.794),
  ('efficientnet_b2', 1.0, 260, 993.6, 9.110),
  ('efficientnet_lite0', 1.0, 224, None, 4.7),
  ('efficientnet_lite1', 1.0, 240, None, 5.4),
  ('efficientnet_lite2', 1.0, 260, None, 6.1),
  ('efficientnet_lite3', 1.0, 280, None, 8.2),
  ('efficientnet_lite4', 1.0, 300, None, 13.0),
  # Facebook's mobile-vision.
  ('fbnet_v3_a0', 1.0, 224, 217.9, None),
  ('fbnet_v3_a', 1.0, 224, 355.5, None),
  ('fbnet_v3_b', 1.0, 248, 460.2, None),
  ('fbnet_v3_c', 1.0, 248, 555.6, None),
  ('fbnet_v3_d', 1.0, 248, 642.6, None),
  ('fbnet_v3_e', 1.0, 264, 760.0, None),
  ('fbnet_v3_f', 1.0, 272, 1178.9, None),
  ('fbnet_v3_g', 1.0, 320, 2125.2, None),
  # Once-for-all's model zoo.
  ('once_for_all_389m', 1.0, 224, 389.49, 8.387),
  ('once_for_all_482m', 1.0, 224, 482.41, 9.066),
  ('once_for_all_595m', 1.0, 236, 595.19, 9.136),
  # torchvision's table of weights.
  ('resnet_18', 1.0, 224, 1814.1, 11.690),
  ('resnet_50', 1.0, 224, 4089.2, 25.557),
  # The models of imgclsmob; its 894M also count what is not a product.
  ('resnet_10', 1.0, 224, None, 5.419),
]


# Tracing all of them takes a minute: `make test-extras` does; else one of each kind.
COUNTED = PUBLISHED
if 'EVERY_NETWORK' not in os.environ:
  COUNTED = {row[0].rpartition('_')[0]: row for row in reversed(PUBLISHED)}.values()


@pytest.mark.parametrize(('name', 'width', 'resolution', 'madds', 'params'), COUNTED)
def test_counts_are_the_published_ones(name, width, resolution, madds, params):
  counted = cost.count(models.create(name, num_classes=1000, width=width), resolution)
  for found, published in ((counted.total_madds, madds), (counted.total_params, params)):
    if published is not None:  # To the last digit.
      digits = len(str(published).partition('.')[2])
      assert abs(found / 1e6 - published) <= 0.51 * 10**-digits
  assert counted.lightweight_madds is None


# Released parameters, millions, of the FBNetV3 networks; they are of kernels alone.
@pytest.mark.parametrize(
  ('name', 'params'),
  [('a', 8.54), ('c', 9.91), ('d', 10.24), ('e', 10.70), ('f', 13.80), ('g', 16.51)][
    :: 1 if 'EVERY_NETWORK' in os.environ else 3
  ],
)
def test_kernels_of_fbnet_v3_are_as_large_as_released(name, params):
  network = models.create(f'fbnet_v3_{name}', num_classes=1000)
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']
  leaves = traverse_util.flatten_dict(shapes).items()
  assert abs(sum(leaf.size for path, leaf in leaves if path[-1] == 'kernel') / 1e6 - params) < 0.005


# CondConv's README: EfficientNet-B0 by experts, and what they add to the 391M of the plain one,
# which are its multiply-adds with pooling, gates and shortcuts.
@pytest.mark.parametrize(
  ('experts', 'params', 'added', 'total'), [(4, 13.31, 10.7, 401.7), (8, 24.01, 21.4, 412.4)]
)
def test_condconv_costs_what_was_published(experts, params, added, total):
  plain = cost.count(models.create('efficientnet_b0', num_classes=1000), 224)
  network = models.create('condconv_efficientnet_b0', num_classes=1000, num_bases=experts)
  counted = cost.count(network, 224)
  assert abs(counted.total_params / 1e6 - params) < 0.006
  assert abs((counted.total_madds - plain.total_madds) / 1e6 - added) < 0.06
  everything = (counted.total_madds + counted.elementwise_madds) / 1e6
  assert everything == pytest.approx(total, rel=0.001)


def test_pooling_gates_and_shortcuts_are_counted_apart():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
      x = layers.ConvNorm(8, name='stem')(x, train)
      block = layers.InvertedResidual(8, 16, 3, 1, squeeze=4, activation=layers.hard_swish)
      return nn.Dense(5)(block(x, train).mean((1, 2)))

  counted = cost.count(Block(), 10)
  # Pooled and gated at 16 channels, added and pooled at 8.
  assert counted.elementwise_madds == 10 * 10 * (16 + 16 + 8 + 8)
  products = 10 * 10 * (3 * 8 + 8 * 16 + 9 * 16 + 16 * 8) + 2 * 16 * 4 + 8 * 5
  assert counted.total_madds == products


def test_condconv_mobilenet_v2_costs_what_was_published():
  counted = cost.count(models.create('condconv_mobilenet_v2', num_classes=1000), 224)
  assert abs(counted.total_madds / 1e6 - 329) < 0.5


def test_dynamic_convolution_costs_its_bases_and_its_attention():
  plain = cost.count(models.create('mobilenet_v2', num_classes=1000), 224)
  counted = cost.count(models.create('dynamic_convolution_mobilenet_v2', num_classes=1000), 224)
  added = based = 0
  for layer in plain.layers:
    if layer.path.endswith('/conv') and not layer.path.startswith('stem'):
      # A quarter of the layer's input channels, then K = 4.
      norm = next(r for r in plain.layers if r.path == layer.path.removesuffix('conv') + 'norm')
      depthwise = 'depthwise' in layer.path
      channels = norm.params // 2 if depthwise else layer.params // (norm.params // 2)
      added += channels * (channels // 4) + (channels // 4) * 4
      based += layer.params
  assert counted.total_madds == plain.total_madds + 4 * based + added


def test_default_basisnet_costs_what_the_paper_says():
  counted = cost.count(experiment.build_model(base_config.get_config()), 224)
  assert 289e6 < counted.total_madds < 293e6  # 290M (Zhang et al. 2021).


def test_basisnet_costs_both_stages_the_head_and_one_product_per_basis_and_weight():
  light, special = (
    models.create(name, num_classes=10, width=0.25)
    for name in ('mobilenet_v3_small', 'mobilenet_v2')
  )
  pattern = r'.*(expand|project)'
  model = models.create(
    'basisnet',
    lightweight=light,
    specialist=special,
    resolution=64,
    lightweight_resolution=32,
    num_bases=5,
    based_layers=pattern,
  )
  kernels = synthesis.based_layers(special, (64, 64, 3), pattern)
  weights = sum(math.prod(shape) for shape in kernels.values())
  head = 1024 * 5 * len(kernels)
  counted, light_cost = cost.count(model, 64), cost.count(light, 32)
  special_cost = cost.count(special, 64)
  assert counted.lightweight_madds == light_cost.total_madds + head
  assert counted.total_madds == (
    light_cost.total_madds + head + 5 * weights + special_cost.total_madds
  )
  assert counted.total_params == (
    light_cost.total_params
    + (head + 5 * len(kernels))
    + special_cost.total_params
    + (5 - 1) * weights
  )


class Tiny(nn.Module):
  """Strides, groups, a filter per channel, no padding, a matrix."""

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(8, (3, 3), strides=2, name='strided')(x)
    x = nn.BatchNorm(use_running_average=True, name='norm')(x)
    x = nn.Conv(12, (3, 3), feature_group_count=4, use_bias=False, name='grouped')(x)
    x = nn.Conv(12, (5, 3), padding='VALID', feature_group_count=12, name='depthwise')(x)
    x = nn.Conv(6, (1, 1), name='pointwise')(x)
    return nn.Dense(5, name='classifier')(x.mean((1, 2)))


def test_every_layer_is_counted_as_by_hand():
  assert cost.count(Tiny(), 13).layers == [
    ('strided', (7, 7, 8), 7 * 7 * 8 * (3 * 3 * 3), 3 * 3 * 3 * 8 + 8),
    ('grouped', (7, 7, 12), 7 * 7 * 12 * (3 * 3 * 2), 3 * 3 * 2 * 12),
    ('depthwise', (3, 5, 12), 3 * 5 * 12 * (5 * 3), 5 * 3 * 12 + 12),
    ('pointwise', (3, 5, 6), 3 * 5 * 6 * 12, 12 * 6 + 6),
    ('classifier', (5,), 6 * 5, 6 * 5 + 5),
    ('norm', (), 0, 2 * 8),
  ]


def test_attention_is_counted_as_by_hand():
  counted = cost.count(VisionTransformer(blocks=2), 16)
  tokens, width, heads = 17, 12, 3
  patches = 16 * (4 * 4 * 3) * width
  projections = 4 * tokens * width * width  # Query, key, value and out.
  products = 2 * heads * tokens * tokens * (width // heads)  # By the keys, by the values.
  mlp = 2 * tokens * width * 24
  assert counted.total_madds == patches + 2 * (projections + products + mlp) + width * 5
  rows = {layer.path: layer for layer in counted.layers}
  assert rows['attention_1/query'].madds == tokens * width * width
  # The products without parameters have rows of their own, named by their subscripts.
  einsums = [layer for path, layer in rows.items() if path.startswith('attention_0/...')]
  assert [(layer.madds, layer.params) for layer in einsums] == [(products // 2, 0)] * 2
  assert rows[''].params == (1 + tokens) * width  # The network's own: token and positions.


def test_layer_that_runs_several_times_counts_as_often():
  class Repeated(nn.Module):
    @nn.compact
    def __call__(self, x):
      x, layer = x.mean((1, 2)), nn.Dense(3, name='twice')
      x = layer(layer(x))

      def body(module, carry, _):
        return module(carry), None

      scan = nn.scan(body, variable_axes={'params': 0}, split_rngs={'params': True}, length=5)
      return scan(nn.Dense(3, name='five'), x, None)[0]

  counted = cost.count(Repeated(), 8)
  assert counted.total_madds == 2 * 9 + 5 * 9
  assert counted.total_params == (9 + 3) + 5 * (9 + 3)


def test_every_layer_of_a_scanned_specialist_has_its_own_synthesis():
  class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
      return x + nn.Dense(x.shape[-1], name='dense')(x), None

  class Scanned(nn.Module):
    @nn.compact
    def __call__(self, x):
      x = nn.Conv(8, (4, 4), (4, 4), name='patches')(x)
      scan = nn.scan(
        nn.remat(Block), variable_axes={'params': 0}, split_rngs={'params': True}, length=3
      )
      return nn.Dense(5, name='logits')(scan(name='blocks')(x, None)[0].mean((1, 2)))

  model = models.create(
    'basisnet', lightweight=ResNet(), specialist=Scanned(), resolution=16, num_bases=2
  )
  rows = {layer.path: layer for layer in cost.count(model, 16).layers}
  assert rows['synthesis/blocks/dense'].madds == 3 * 2 * (8 * 8)
  assert rows['specialist/blocks/dense'].madds == 3 * (4 * 4) * (8 * 8)
  assert rows['specialist/blocks/dense'].params == 3 * (2 * 8 * 8 + 8)


def test_counts_do_not_depend_on_the_form_that_runs():
  network = models.create('mobilenet_v3_small', num_classes=10, width=0.25)
  counts = []
  for form in convolution.FORMS:
    with convolution.form(form):
      counts.append(cost.count(network, 32))
  assert counts[0] == counts[1] == counts[2]


def basisnet():
  return models.create(
    'basisnet',
    lightweight=VisionTransformer(),
    specialist=ResNet(),
    resolution=16,
    num_bases=3,
    based_layers='(?!logits)',
  )


@pytest.mark.parametrize('model', [ResNet(), VisionTransformer(), basisnet()], ids=type)
def test_parameters_are_those_that_initialisation_makes(model):
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 16, 16, 3)))['params']
  counted = cost.count(model, 16)
  assert counted.total_params == sum(leaf.size for leaf in jax.tree.leaves(params))
  # Rows are unique, and each module's parameters are in one.
  paths = [layer.path for layer in counted.layers]
  assert len(paths) == len(set(paths))


def test_rows_of_a_basisnet_name_their_stage():
  by_path = {layer.path: layer for layer in cost.count(basisnet(), 16).layers}
  assert by_path['synthesis/stem'].madds == 3 * (7 * 7 * 3 * 8)
  assert by_path['specialist/stem'].madds == 8 * 8 * 8 * (7 * 7 * 3)
  assert by_path['specialist/stem'].params == 3 * (7 * 7 * 3 * 8)
  assert by_path['specialist/logits'].params == 16 * 5 + 5
  assert 'synthesis/logits' not in by_path
  assert by_path['lightweight/logits'].madds == 12 * 5
  assert by_path['coefficient_head/dense'].madds == 12 * (3 * 8)


def test_cost_as_text_and_json_carries_the_totals():
  counted = cost.count(basisnet(), 16)
  loaded = json.loads(json.dumps(counted.as_dict()))
  assert loaded['total_madds'] == sum(layer['madds'] for layer in loaded['layers'])
  assert loaded['lightweight_madds'] == counted.lightweight_madds
  lines = cost.table(counted).splitlines()
  everything = (counted.total_madds + counted.elementwise_madds) / 1e6
  assert lines[-1].startswith(f'{everything:.2f}M with pooling, gates and shortcuts')
  assert loaded['elementwise_madds'] == counted.elementwise_madds > 0
  assert lines[-2].split() == [
    'total',
    f'{counted.total_madds / 1e6:.2f}M',
    f'{counted.total_params / 1e6:.3f}M',
  ]
  assert lines[1].startswith('lightweight') and any(line.startswith('synthesis') for line in lines)


def test_work_of_an_initializer_counts_nothing():
  def by_product(key, shape, dtype):
    return jax.random.normal(key, (shape[0], 50)) @ jnp.ones((50, shape[1]), dtype)

  class Network(nn.Module):
    @nn.compact
    def __call__(self, x, train):  # `train` has no default.
      x = nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2)))
      return nn.Dense(4, kernel_init=by_product)(x)

  assert cost.count(Network(), 8).total_madds == 3 * 4
