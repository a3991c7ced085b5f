"""What is drawn for an image, and how often; the operations have tests of their own."""

import numpy as np
import pytest
from tiny_datasets import photo

from basisnet_jax.data import augmentation, augmentation_ops, autoaugment, create_policy
from basisnet_jax.data.quiet_tensorflow import tf
from basisnet_jax.errors import UserError

NAMES = list(augmentation_ops.OPERATIONS)
DRAWS = 4_000


def policy(name, layers=2, magnitude=9.0):
  return create_policy(name, layers=layers, magnitude=magnitude)


def for_many_seeds(function, count):
  """The results of `function(seed)`, in one program."""
  seeds = tf.stack([tf.fill([count], tf.constant(7, tf.int64)), tf.range(count, dtype=tf.int64)], 1)
  results = tf.data.Dataset.from_tensor_slices(seeds).map(function, 2).batch(count)
  return results.get_single_element()


@pytest.mark.parametrize('rows', [autoaugment.IMAGENET, autoaugment.CIFAR10])
def test_published_policies_are_25_pairs_of_operations_in_range(rows):
  assert len(rows) == len(set(rows)) == 25 and all(len(row) == 2 for row in rows)
  for name, probability, magnitude in sum(rows, ()):
    assert name in NAMES and name != 'identity'
    assert probability in np.round(np.arange(11) / 10, 1)
    assert magnitude in range(11)


def test_randaugment_has_the_operations_of_its_paper():
  assert len(set(autoaugment.RANDAUGMENT)) == 14 and set(autoaugment.RANDAUGMENT) <= {*NAMES}


@pytest.mark.parametrize(
  'name, magnitude, operation, numbers',
  [
    ('autoaugment_imagenet', 0, 'rotate', {0, 6, 15, 21, 24, 27}),
    ('autoaugment_imagenet', 0, 'posterize', {1, 2}),
    ('autoaugment_imagenet', 0, 'solarize', {51, 76, 102, 204, 256}),
    ('autoaugment_imagenet', 0, 'solarize_add', {33, 77}),
    ('autoaugment_imagenet', 0, 'color', {0.1, 0.28, 0.82, 1.18, 1.36, 1.72}),
    ('autoaugment_imagenet', 0, 'translate_y', {0.9 * 150 / 331}),
    ('autoaugment_cifar10', 0, 'posterize', {2}),
    ('autoaugment_cifar10', 0, 'solarize', {205, 180, 128, 52}),
    ('autoaugment_cifar10', 0, 'translate_x', {8 / 32, 9 / 32}),
    ('randaugment', 10, 'sharpness', {1.9}),
    ('randaugment', 30, 'shear_x', {0.9}),
    ('randaugment', 30, 'posterize', {8}),
  ],
)
def test_magnitudes_stand_for_the_published_numbers(name, magnitude, operation, numbers):
  found = policy(name, magnitude=magnitude)
  of_it = found.numbers[found.operations == NAMES.index(operation)]
  if name == 'autoaugment_cifar10' and operation == 'solarize':
    numbers = {256 - int(25.6 * m) for m in (2, 5, 8, 3)}
  assert {round(float(number), 6) for number in of_it} == {round(number, 6) for number in numbers}


@pytest.mark.parametrize('name', autoaugment.POLICIES)
def test_operations_come_as_often_as_the_policy_says(name):
  chosen = policy(name, layers=3)
  operations, numbers = for_many_seeds(lambda seed: autoaugment.draw(chosen, seed), DRAWS)
  entries = chosen.operations.shape[1]
  assert operations.shape == (DRAWS, chosen.times * entries)
  operations, numbers = operations.numpy(), numbers.numpy()

  # Each row with the entries of it that are carried out, or not, is a cell of a chi-square test.
  expected = {}
  for row in range(len(chosen.operations)):
    for carried_out in np.ndindex(*(2,) * entries):
      chance = np.where(carried_out, chosen.probabilities[row], 1 - chosen.probabilities[row])
      key = tuple(np.where(carried_out, chosen.operations[row], 0))
      expected[key] = expected.get(key, 0) + chance.prod() / len(chosen.operations)
  expected = {key: chance for key, chance in expected.items() if chance > 0}
  drawn = operations.reshape(-1, entries)
  counts = {key: (drawn == key).all(1).sum() for key in expected}
  assert sum(counts.values()) == len(drawn)  # Nothing else.
  squares = [(counts[k] - p * len(drawn)) ** 2 / (p * len(drawn)) for k, p in expected.items()]
  cells = len(expected)
  assert sum(squares) < cells + 4 * np.sqrt(2 * cells)

  # Half of the shears, translations and rotations go either way, and nothing else does.
  signed = chosen.signed[chosen.operations.nonzero()]
  moving = {*chosen.operations[chosen.operations.nonzero()][signed]}
  moves = np.isin(operations, [*moving]) & (numbers != 0)
  assert abs((numbers[moves] < 0).mean() - 0.5) < 2 / np.sqrt(moves.sum())  # 4 deviations.
  assert (numbers[~moves & (operations > 0)] >= 0).all()


def test_layers_of_randaugment_are_drawn_independently():
  operations, _ = for_many_seeds(
    lambda seed: autoaugment.draw(policy('randaugment', layers=2), seed), DRAWS
  )
  same = (operations[:, 0] == operations[:, 1]).numpy().mean()
  assert abs(same - 1 / 14) < 4 * np.sqrt(1 / 14 / DRAWS)


def test_image_undergoes_what_is_drawn_for_it():
  image, chosen = tf.constant(photo(24, 20)), policy('randaugment', layers=3)
  apply = tf.function(augmentation_ops.apply, autograph=False)
  augment = tf.function(lambda seed: autoaugment.augment(image, chosen, seed), autograph=False)
  for number in range(5):
    seed = tf.constant([3, number], tf.int64)
    expected = image
    for operation, value in zip(*autoaugment.draw(chosen, seed), strict=True):
      expected = apply(expected, operation, value)
    np.testing.assert_array_equal(augment(seed), expected)


def test_unknown_policy_names_those_there_are():
  assert policy('') is None
  with pytest.raises(UserError, match="data.augment is 'auto': use '', 'autoaugment_imagenet' or"):
    policy('auto')


def test_cutout_paints_one_square_whose_centre_is_anywhere():
  image = tf.zeros([20, 16, 3], tf.uint8)
  painted = for_many_seeds(lambda seed: augmentation.cutout(image, 0.5, seed), 2000).numpy()
  assert set(np.unique(painted)) == {0, augmentation_ops.FILL}
  inside = (painted > 0).all(-1)
  height, width = inside.any(2).sum(1), inside.any(1).sum(1)
  np.testing.assert_array_equal(inside.sum((1, 2)), height * width)  # Rectangles.
  assert height.max() == width.max() == 8 and height.min() == width.min() == 4
  # In each direction one of n centres; those near a border lose 1 to 4 there, 0 to 3 here.
  for sizes, n in ((height, 20), (width, 16)):
    assert abs(sizes.mean() - (8 - (1 + 2 + 3 + 4 + 1 + 2 + 3) / n)) < 0.15


def test_random_erasing_has_the_areas_and_places_of_the_paper():
  side, count = 64, 3000
  image = tf.zeros([side, side, 3], tf.uint8)
  erased = for_many_seeds(lambda seed: augmentation.random_erasing(image, 0.5, seed), count).numpy()
  inside = (erased > 0).any(-1)
  happens = inside.any((1, 2))
  assert abs(happens.mean() - 0.5) < 4 * np.sqrt(0.25 / count)
  inside = inside[happens]
  height, width = inside.any(2).sum(1), inside.any(1).sum(1)
  # A pixel of noise is black once in 2^24: the rectangles are full.
  np.testing.assert_array_equal(inside.sum((1, 2)), height * width)

  # Area and ratio are uniform, then weighted by how many places such a rectangle has.
  area, ratio = np.meshgrid(np.linspace(0.02, 0.4, 400), np.linspace(0.3, 1 / 0.3, 400))
  h, w = np.sqrt(area * ratio), np.sqrt(area / ratio)
  weight = (1 - h).clip(0) * (1 - w).clip(0)
  average = lambda values: (values * weight).sum() / weight.sum()  # noqa: E731
  found = height * width / side**2
  spread = np.sqrt(average(area**2) - average(area) ** 2)
  assert abs(found.mean() - average(area)) < 4 * spread / np.sqrt(len(found))
  assert abs(found.std() - spread) < 0.005
  assert abs((height / side).mean() - average(h)) < 0.02
  assert abs((width / side).mean() - average(w)) < 0.02
  assert 0.02 - 2 / side < found.min() and found.max() < 0.4 + 2 / side
  # Its place is uniform among those there are.
  top = inside.any(2).argmax(1)
  assert abs((top / (side - height + 1e-9)).mean() - 0.5) < 0.03

  noise = erased[happens][inside]
  assert abs(noise.mean() - 127.5) < 1 and abs(noise.std() - 73.9) < 1
  assert len(np.unique(noise)) == 256
