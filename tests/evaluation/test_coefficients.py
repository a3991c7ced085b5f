"""What is said of the coefficients of many images: the extremes, and the definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax import sharding
from basisnet_jax.evaluation import coefficients as coefficients_lib

CLASSES, LAYERS, BASES = 4, 3, 4


def statistics(coefficients, labels):
  """Of one batch of real images."""
  mask = jnp.ones(len(labels))
  found = coefficients_lib.sums(jnp.asarray(coefficients), jnp.asarray(labels), mask, CLASSES)
  return coefficients_lib.statistics(coefficients_lib.add(None, found))


@pytest.mark.parametrize(
  'basis_of_class, entropy, effective_bases, input_dependence',
  [
    ('all alike', 1, BASES, 0),
    ('one for all images', 0, 1, 0),
    ('one for each class', 0, BASES, 1),
    ('one for every two classes', 0, 2, 0.5),
  ],
)
def test_extremes_are_told_apart(basis_of_class, entropy, effective_bases, input_dependence):
  labels = np.arange(CLASSES).repeat(5)
  chosen = {
    'one for all images': labels * 0 + 2,
    'one for each class': labels,
    'one for every two classes': labels // 2,
  }
  by_image = (
    np.full((len(labels), BASES), 1 / BASES, np.float32)
    if basis_of_class == 'all alike'
    else np.eye(BASES, dtype=np.float32)[chosen[basis_of_class]]
  )
  found = statistics(by_image[:, None].repeat(LAYERS, 1), labels)
  np.testing.assert_allclose(found.entropy, [entropy] * LAYERS, atol=1e-6)
  np.testing.assert_allclose(found.effective_bases, [effective_bases] * LAYERS, rtol=1e-6)
  np.testing.assert_allclose(found.input_dependence, [input_dependence] * LAYERS, atol=1e-6)
  np.testing.assert_allclose(found.deviation, by_image.std(0)[None].repeat(LAYERS, 0), atol=1e-6)
  assert found.summary() == pytest.approx({
    'entropy': entropy,
    'effective_bases': effective_bases,
    'input_dependence': input_dependence,
  }, abs=1e-6)  # fmt: skip


@pytest.mark.parametrize('sums_to_one', [True, False])
def test_sums_over_batches_and_devices_give_the_definitions(sums_to_one):
  random = np.random.default_rng(0)
  batches, size = 3, 16
  coefficients = random.random((batches * size, LAYERS, BASES)).astype(np.float32) ** 4
  if sums_to_one:
    coefficients /= coefficients.sum(-1, keepdims=True)
  labels = random.integers(0, CLASSES - 1, batches * size)  # Of the last class are none.
  mask = (random.random(batches * size) < 0.7).astype(np.float32)
  mesh = sharding.create_mesh()
  split, whole = sharding.over_data(mesh), sharding.replicated(mesh)
  assert mesh.size == 8
  sums = jax.jit(
    coefficients_lib.sums,
    in_shardings=split,
    out_shardings=whole,
    static_argnums=3,
  )
  total = None
  for i in range(batches):
    part = slice(i * size, (i + 1) * size)
    total = coefficients_lib.add(total, sums(coefficients[part], labels[part], mask[part], CLASSES))
  found = coefficients_lib.statistics(total)

  real = mask > 0
  coefficients, labels = coefficients[real].astype(np.float64), labels[real]
  shares = coefficients / coefficients.sum(-1, keepdims=True)
  entropy = -(shares * np.log(shares)).sum(-1)  # Nats, of each image and layer.
  mean_share = shares.mean(0)
  divergence = (shares * np.log(shares / mean_share)).sum(-1)  # Its mean: the information.
  of_class = [coefficients[labels == i].mean(0) for i in range(CLASSES - 1)]
  np.testing.assert_array_equal(found.images, np.bincount(labels, minlength=CLASSES))
  np.testing.assert_allclose(found.class_means[:-1], of_class, rtol=1e-5)
  assert np.isnan(found.class_means[-1]).all()
  np.testing.assert_allclose(found.mean, coefficients.mean(0), rtol=1e-5)
  np.testing.assert_allclose(found.deviation, coefficients.std(0), rtol=1e-4)
  np.testing.assert_allclose(found.entropy, entropy.mean(0) / np.log(BASES), rtol=1e-5)
  np.testing.assert_allclose(
    found.effective_bases, np.exp(-(mean_share * np.log(mean_share)).sum(-1)), rtol=1e-5
  )
  np.testing.assert_allclose(found.input_dependence, divergence.mean(0) / np.log(BASES), rtol=1e-4)


def test_one_basis_alone_is_no_collapse_of_anything():
  found = statistics(np.ones((5, LAYERS, 1), np.float32), np.zeros(5, np.int32))
  assert found.summary() == {'entropy': 0, 'effective_bases': 1, 'input_dependence': 0}


def test_table_has_a_line_for_each_layer():
  labels = np.arange(CLASSES)
  one_basis, own = np.eye(BASES)[[2] * CLASSES], np.eye(BASES)[labels]
  found = statistics(np.stack([one_basis, own], 1).astype(np.float32), labels)
  lines = coefficients_lib.table(found, ['stem', 'block_1/expand']).splitlines()
  assert [line.split() for line in lines[1:]] == [
    ['stem', '0.000', '1.00', '0.0%', '0.0000'],
    ['block_1/expand', '0.000', '4.00', '100.0%', '0.4330'],  # The root of 3 / 16.
  ]
  assert len({len(line) for line in lines}) == 1
