"""From pixels to what the networks read."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.models import convolution


def normalize(images):
  """uint8 images `[b, h, w, 3]` -> float32 in [-1, 1], TensorFlow's convention for MobileNets."""
  return images.astype(jnp.float32) / 127.5 - 1


def resize(images, size: int):
  """Images `[b, h, w, c]`, bilinear, to `size` x `size` pixels; those of that size stay."""
  if images.shape[1:3] == (size, size):
    return images
  if not convolution.blends_by_products():
    return _resize_axis(_resize_axis(images, size, 1), size, 2)
  return jax.image.resize(images, (images.shape[0], size, size, images.shape[-1]), 'bilinear')


def _resize_axis(images, size, axis):
  """What `jax.image.resize` does to one axis, from the few pixels that matter to each.

  That multiplies with a matrix of all pixels to all: on CPU three times slower, a quarter of the
  time of a small network for one image; on an H200 half a millisecond for 128 of them.
  """
  scale = images.shape[axis] / size
  reach = max(scale, 1)  # Shrinking averages over all that a pixel covers.
  centers = (np.arange(size) + 0.5) * scale - 0.5
  taps = np.ceil(centers - reach).astype(int)[:, None] + np.arange(math.floor(2 * reach) + 1)
  weights = np.maximum(0, 1 - np.abs(taps - centers[:, None]) / reach)
  weights[(taps < 0) | (taps >= images.shape[axis])] = 0
  weights = (weights / weights.sum(1, keepdims=True)).astype(images.dtype)
  pixels = np.clip(taps, 0, images.shape[axis] - 1)
  shape = [size if i == axis else 1 for i in range(4)]
  return sum(
    jnp.take(images, pixels[:, i], axis) * weights[:, i].reshape(shape)
    for i in range(pixels.shape[1])
  )
