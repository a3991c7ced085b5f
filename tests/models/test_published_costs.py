"""Counts against published tables."""

import os

from flax import traverse_util
import jax
import jax.numpy as jnp
import pytest

from basisnet_jax import base_config, models
from basisnet_jax.models import cost
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


def test_condconv_mobilenet_v2_costs_what_was_published():
  counted = cost.count(models.create('condconv_mobilenet_v2', num_classes=1000), 224)
  assert abs(counted.total_madds / 1e6 - 329) < 0.5


def test_default_basisnet_costs_what_the_paper_says():
  counted = cost.count(experiment.build_model(base_config.get_config()), 224)
  assert 289e6 < counted.total_madds < 293e6  # 290M (Zhang et al. 2021).
