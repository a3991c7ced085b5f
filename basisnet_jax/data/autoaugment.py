"""AutoAugment and RandAugment: random sequences of `augmentation_ops`, by published policies.

Sources. The policies' tables and operations: Cubuk et al. 2018 (arXiv 1805.09501, table 7 for
CIFAR-10) and, for ImageNet, 'v0', the policy of the code that trained EfficientNet (Tan & Le 2019;
github.com/tensorflow/tpu), which is not that of the paper's table 9. RandAugment: Cubuk et al.
2019 (arXiv 1909.13719), with its 14 operations. The meaning of magnitudes: the code published with
each, with two exceptions. Translations are a share of the image's side, since images come in many
sizes: for ImageNet at most 150 of 331 pixels, as in the first paper. What comes into view is gray
(`augmentation_ops.FILL`), as for EfficientNet; on CIFAR-10 the authors used the mean.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from basisnet_jax.data import augmentation_ops
from basisnet_jax.data.quiet_tensorflow import tf
from basisnet_jax.errors import UserError

POLICIES = ('autoaugment_imagenet', 'autoaugment_cifar10', 'randaugment')

# Rows of (operation, probability, magnitude from 0 to 10), applied one after another.
IMAGENET = (
  (('equalize', 0.8, 1), ('shear_y', 0.8, 4)),
  (('color', 0.4, 9), ('equalize', 0.6, 3)),
  (('color', 0.4, 1), ('rotate', 0.6, 8)),
  (('solarize', 0.8, 3), ('equalize', 0.4, 7)),
  (('solarize', 0.4, 2), ('solarize', 0.6, 2)),
  (('color', 0.2, 0), ('equalize', 0.8, 8)),
  (('equalize', 0.4, 8), ('solarize_add', 0.8, 3)),
  (('shear_x', 0.2, 9), ('rotate', 0.6, 8)),
  (('color', 0.6, 1), ('equalize', 1.0, 2)),
  (('invert', 0.4, 9), ('rotate', 0.6, 0)),
  (('equalize', 1.0, 9), ('shear_y', 0.6, 3)),
  (('color', 0.4, 7), ('equalize', 0.6, 0)),
  (('posterize', 0.4, 6), ('autocontrast', 0.4, 7)),
  (('solarize', 0.6, 8), ('color', 0.6, 9)),
  (('solarize', 0.2, 4), ('rotate', 0.8, 9)),
  (('rotate', 1.0, 7), ('translate_y', 0.8, 9)),
  (('shear_x', 0.0, 0), ('solarize', 0.8, 4)),
  (('shear_y', 0.8, 0), ('color', 0.6, 4)),
  (('color', 1.0, 0), ('rotate', 0.6, 2)),
  (('equalize', 0.8, 4), ('equalize', 0.0, 8)),
  (('equalize', 1.0, 4), ('autocontrast', 0.6, 2)),
  (('shear_y', 0.4, 7), ('solarize_add', 0.6, 7)),
  (('posterize', 0.8, 2), ('solarize', 0.6, 10)),
  (('solarize', 0.6, 8), ('equalize', 0.6, 1)),
  (('color', 0.8, 6), ('rotate', 0.4, 5)),
)
CIFAR10 = (
  (('invert', 0.1, 7), ('contrast', 0.2, 6)),
  (('rotate', 0.7, 2), ('translate_x', 0.3, 9)),
  (('sharpness', 0.8, 1), ('sharpness', 0.9, 3)),
  (('shear_y', 0.5, 8), ('translate_y', 0.7, 9)),
  (('autocontrast', 0.5, 8), ('equalize', 0.9, 2)),
  (('shear_y', 0.2, 7), ('posterize', 0.3, 7)),
  (('color', 0.4, 3), ('brightness', 0.6, 7)),
  (('sharpness', 0.3, 9), ('brightness', 0.7, 9)),
  (('equalize', 0.6, 5), ('equalize', 0.5, 1)),
  (('contrast', 0.6, 7), ('sharpness', 0.6, 5)),
  (('color', 0.7, 7), ('translate_x', 0.5, 8)),
  (('equalize', 0.3, 7), ('autocontrast', 0.4, 8)),
  (('translate_y', 0.4, 3), ('sharpness', 0.2, 6)),
  (('brightness', 0.9, 6), ('color', 0.2, 8)),
  (('solarize', 0.5, 2), ('invert', 0.0, 3)),
  (('equalize', 0.2, 0), ('autocontrast', 0.6, 0)),
  (('equalize', 0.2, 8), ('equalize', 0.6, 4)),
  (('color', 0.9, 9), ('equalize', 0.6, 6)),
  (('autocontrast', 0.8, 4), ('solarize', 0.2, 8)),
  (('brightness', 0.1, 3), ('color', 0.7, 0)),
  (('solarize', 0.4, 5), ('autocontrast', 0.9, 3)),
  (('translate_y', 0.9, 9), ('translate_y', 0.7, 9)),
  (('autocontrast', 0.9, 2), ('solarize', 0.8, 3)),
  (('equalize', 0.8, 8), ('invert', 0.1, 3)),
  (('translate_y', 0.7, 9), ('autocontrast', 0.9, 1)),
)
RANDAUGMENT = (
  'identity autocontrast equalize rotate solarize color posterize contrast brightness sharpness '
  'shear_x shear_y translate_x translate_y'
).split()

Scales = Mapping[str, Callable[[float], float]]


def _factor(magnitude):
  return 0.1 + 0.18 * magnitude  # A factor of 0 would leave nothing of the image.


# From a magnitude to the operation's number; operations that are not listed take none.
_COMMON: Scales = {
  'shear_x': lambda magnitude: 0.03 * magnitude,
  'shear_y': lambda magnitude: 0.03 * magnitude,
  'rotate': lambda magnitude: 3.0 * magnitude,
  'solarize_add': lambda magnitude: int(11 * magnitude),
  **dict.fromkeys(('color', 'contrast', 'brightness', 'sharpness'), _factor),
}
# Here posterize and solarize grow weaker with the magnitude. TensorFlow shifts by at most 7 bits,
# so one bit stays where the table means none.
_IMAGENET_SCALES: Scales = _COMMON | {
  'translate_x': lambda magnitude: 15 / 331 * magnitude,
  'translate_y': lambda magnitude: 15 / 331 * magnitude,
  'posterize': lambda magnitude: min(max(int(0.4 * magnitude), 1), 8),
  'solarize': lambda magnitude: int(25.6 * magnitude),
}
_CIFAR10_SCALES: Scales = _COMMON | {
  'translate_x': lambda magnitude: magnitude / 32,
  'translate_y': lambda magnitude: magnitude / 32,
  'posterize': lambda magnitude: 4 - int(0.4 * magnitude),
  'solarize': lambda magnitude: 256 - int(25.6 * magnitude),
}
# These go in either direction with probability one half.
_SIGNED = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')


class Policy(NamedTuple):
  """An augmentation policy: `times` times, draw a row uniformly and apply each entry by chance.

  Attributes:
    operations: int [rows, entries], indices into `augmentation_ops.OPERATIONS`.
    probabilities: float [rows, entries], of applying each entry.
    numbers: float [rows, entries], the operations' arguments.
    signed: bool [rows, entries], whether the number is negated half of the time.
    times: rows drawn for each image.
  """

  operations: np.ndarray
  probabilities: np.ndarray
  numbers: np.ndarray
  signed: np.ndarray
  times: int = 1


def create_policy(name: str, *, layers: int, magnitude: float) -> Policy | None:
  """Returns a policy, or None for ''.

  Args:
    name: one of `POLICIES`, or ''.
    layers: for 'randaugment', the number of operations per image (the paper's N).
    magnitude: for 'randaugment', their strength, from 0 to 30 (the paper's M); AutoAugment's
      maximum is 10.

  Raises:
    UserError: there is no such policy.
  """
  if name == '':
    return None
  if name == 'autoaugment_imagenet':
    return _policy(IMAGENET, _IMAGENET_SCALES)
  if name == 'autoaugment_cifar10':
    return _policy(CIFAR10, _CIFAR10_SCALES)
  if name == 'randaugment':
    rows = tuple(((operation, 1.0, magnitude),) for operation in RANDAUGMENT)
    return _policy(rows, _IMAGENET_SCALES, times=layers)
  raise UserError(f"data.augment is {name!r}: use '', {' or '.join(map(repr, POLICIES))}.")


def augment(image: tf.Tensor, policy: Policy, seed: tf.Tensor) -> tf.Tensor:
  """Augments an image by a policy.

  Args:
    image: uint8 [height, width, 3].
    policy: from `create_policy`.
    seed: int64 [2], the only source of randomness.

  Returns:
    uint8 [height, width, 3].
  """
  operations, numbers = draw(policy, seed)
  for operation, number in zip(tf.unstack(operations), tf.unstack(numbers), strict=True):
    image = augmentation_ops.apply(image, operation, number)
  return image


def draw(policy: Policy, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Draws the operations to apply in turn, int32 [n], and their numbers, float32 [n].

  Entries that are not applied become operation 0, 'identity'; n is always the same.
  """
  num_rows, entries = policy.operations.shape
  uniform = tf.random.stateless_uniform([policy.times, 1 + 2 * entries], seed)
  row = tf.cast(uniform[:, 0] * num_rows, tf.int32)
  chance, side = uniform[:, 1 : 1 + entries], uniform[:, 1 + entries :]

  def of_row(table, dtype):
    return tf.gather(tf.constant(table, dtype), row)

  carried_out = chance < of_row(policy.probabilities, tf.float32)
  operations = tf.where(carried_out, of_row(policy.operations, tf.int32), 0)
  negative = of_row(policy.signed, tf.bool) & (side < 0.5)
  numbers = of_row(policy.numbers, tf.float32) * tf.where(negative, -1.0, 1.0)
  return tf.reshape(operations, [-1]), tf.reshape(numbers, [-1])


def _policy(rows, scales, times=1):
  places = {name: place for place, name in enumerate(augmentation_ops.OPERATIONS)}

  def table(entry):
    return np.array([[entry(*values) for values in row] for row in rows])

  return Policy(
    operations=table(lambda name, probability, magnitude: places[name]),
    probabilities=table(lambda name, probability, magnitude: probability),
    numbers=table(lambda name, probability, magnitude: scales.get(name, lambda _: 0)(magnitude)),
    signed=table(lambda name, probability, magnitude: name in _SIGNED),
    times=times,
  )
