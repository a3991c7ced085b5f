"""Random changes of decoded training images; each is a pure function of its seed."""

from basisnet_jax.data.quiet_tensorflow import tf


def random_flip(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
  """Mirrors an image left-right with probability one half.

  Args:
    image: [height, width, channels], any dtype.
    seed: int64 [2], the whole source of randomness.

  Returns:
    The image or its mirror image, same shape and dtype.
  """
  mirrored = tf.random.stateless_uniform([], seed) < 0.5
  return tf.cond(mirrored, lambda: tf.reverse(image, axis=[1]), lambda: image)
