"""Random changes of decoded training images; each is a pure function of its seed."""

from basisnet_jax.data import augmentation_ops
from basisnet_jax.data.quiet_tensorflow import tf

# An erased rectangle's share of the image's area, and its height over its width.
_AREAS = (0.02, 0.4)
_RATIOS = (0.3, 1 / 0.3)
# All tries fail for one image in half a billion; then the first one is clipped at the border.
_TRIES = 64


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Mirrors an image left-right with probability one half.

  Args:
    image: [height, width, channels], any dtype.
    seed: int64 [2], the only source of randomness.

  Returns:
    The image or its mirror image, same shape and dtype.
  """
  mirrored = tf.random.stateless_uniform([], seed) < 0.5
  return tf.cond(mirrored, lambda: tf.reverse(image, axis=[1]), lambda: image)


def cutout(image: tf.Tensor, share: float, seed: tf.Tensor) -> tf.Tensor:
  """Paints a gray square (DeVries & Taylor 2017, arXiv 1708.04552).

  Its centre may be any pixel, so part of the square may be outside the image.

  Args:
    image: uint8 [height, width, 3].
    share: the square's side as a share of the image's shorter side.
    seed: int64 [2], the only source of randomness.

  Returns:
    uint8 [height, width, 3].
  """
  height, width = image.shape[:2]
  side = round(share * min(height, width))
  centre = tf.cast(tf.random.stateless_uniform([2], seed) * [float(height), float(width)], tf.int32)
  rectangle = tf.concat([centre - side // 2, [side, side]], axis=0)
  gray = tf.fill([1, 1, 3], tf.constant(augmentation_ops.FILL, tf.uint8))
  return tf.ensure_shape(augmentation_ops.paint(image, rectangle, gray), image.shape)


def random_erasing(image: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
  """Replaces a rectangle with noise (Zhong et al. 2017, arXiv 1708.04896).

  Its area is 0.02 to 0.4 of the image's, its aspect ratio 0.3 to 1 / 0.3 and its corner anywhere,
  all uniform; they are redrawn until the rectangle is inside the image. Every value in it is drawn
  independently, the filling that worked best in the paper.

  Args:
    image: uint8 [height, width, 3].
    probability: of erasing a rectangle.
    seed: int64 [2], the only source of randomness.

  Returns:
    uint8 [height, width, 3].
  """
  height, width = map(float, image.shape[:2])
  placing, filling = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
  draws = tf.random.stateless_uniform([4 * _TRIES + 1], placing)

  def erased():
    area, ratio, down, right = tf.unstack(tf.reshape(draws[1:], [4, _TRIES]))
    area = height * width * (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * area)
    ratio = _RATIOS[0] + (_RATIOS[1] - _RATIOS[0]) * ratio
    begins = tf.stack([height * down, width * right])
    ends = begins + tf.stack([tf.sqrt(area * ratio), tf.sqrt(area / ratio)])
    first = tf.argmax(tf.reduce_all(ends <= [[height], [width]], axis=0))
    begin, end = (tf.cast(tf.round(x[:, first]), tf.int32) for x in (begins, ends))
    rectangle = tf.concat([begin, end - begin], axis=0)
    painted = augmentation_ops.paint(image, rectangle, _noise(image.shape, filling))
    return tf.ensure_shape(painted, image.shape)

  return tf.cond(draws[0] < probability, erased, lambda: image)


def _noise(shape, seed):
  count = shape.num_elements()  # Each int32 holds four values.
  bits = tf.random.stateless_uniform([-(-count // 4)], seed, None, None, tf.int32)
  return tf.reshape(tf.reshape(tf.bitcast(bits, tf.uint8), [-1])[:count], shape)
