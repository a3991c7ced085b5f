"""Counts against counts by hand."""

import json
import math
import re

from flax import linen as nn
from foreign_networks import ResNet, VisionTransformer
import jax
import jax.numpy as jnp
import pytest

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import convolution, cost, layers, synthesis


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


@pytest.mark.parametrize('kernel', [(2, 2), (3, 3)])
def test_transposed_convolution_has_a_product_for_each_input_and_weight(kernel):
  network = nn.Sequential([nn.ConvTranspose(4, kernel, strides=(2, 2)), lambda x: x.mean((1, 2))])
  assert cost.count(network, 16).total_madds == (16 * 16 * 3) * (math.prod(kernel) * 4)


def test_convolution_over_a_sequence_is_counted_as_by_hand():
  rows = lambda x: x.reshape(len(x), 16, 48)  # noqa: E731
  network = nn.Sequential([rows, nn.Conv(8, (3,)), lambda x: x.mean(1)])
  assert cost.count(network, 16).total_madds == 16 * 8 * (3 * 48)


@pytest.mark.parametrize('wrong', [None, 'mobilenet_v2', nn.Dense])
def test_what_is_no_network_is_told(wrong):
  with pytest.raises(UserError, match='^A Flax network is counted, and this is .*; make one: My'):
    cost.count(wrong, 8)


@pytest.mark.parametrize('wrong', [None, '16', 16.0, 0, -1, (16, 16)])
def test_what_is_no_resolution_is_told(wrong):
  sentence = f'resolution={wrong!r} is no number of pixels; give a whole one, from 1.'
  with pytest.raises(UserError, match=f'^{re.escape(sentence)}$'):
    cost.count(Tiny(), wrong)


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
  counted = cost.count(basisnet(), 16)
  by_path = {layer.path: layer for layer in counted.layers}
  assert by_path['synthesis/stem'].madds == 3 * (7 * 7 * 3 * 8)
  assert by_path['specialist/stem'].madds == 8 * 8 * 8 * (7 * 7 * 3)
  assert by_path['specialist/stem'].params == 3 * (7 * 7 * 3 * 8)
  assert by_path['specialist/logits'].params == 16 * 5 + 5
  assert 'synthesis/logits' not in by_path
  blends = [row.madds for path, row in by_path.items() if 'synthesis' in path.split('/')]
  assert counted.synthesis_madds == sum(blends) > by_path['synthesis/stem'].madds
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


def test_annotated_kernels_count_as_plain_ones():
  class Network(nn.Module):
    annotated: bool = False

    @nn.compact
    def __call__(self, x):
      init = nn.initializers.lecun_normal()
      init = nn.with_partitioning(init, (None, 'model')) if self.annotated else init
      return nn.Dense(4, kernel_init=init)(x.mean((1, 2)))

  assert cost.count(Network(annotated=True), 8) == cost.count(Network(), 8)
  plain, annotated = (
    models.create('basisnet', lightweight=network, specialist=network, resolution=8)
    for network in (Network(), Network(annotated=True))
  )
  assert cost.count(annotated, 8) == cost.count(plain, 8)


def test_a_network_without_parameters_has_none():
  counted = cost.count(nn.Sequential([lambda x: x.mean((1, 2))]), 8)
  assert (counted.total_madds, counted.total_params) == (0, 0)
