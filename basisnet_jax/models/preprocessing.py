"""From pixels to what the networks read."""

import jax
import jax.numpy as jnp


def normalize(images):
  """uint8 images `[b, h, w, 3]` -> float32 in [-1, 1], TensorFlow's convention for MobileNets."""
  return images.astype(jnp.float32) / 127.5 - 1


def resize(images, size: int):
  """Images `[b, h, w, c]`, bilinear, to `size` x `size` pixels; those of that size stay."""
  if images.shape[1:3] == (size, size):
    return images
  return jax.image.resize(images, (images.shape[0], size, size, images.shape[-1]), 'bilinear')
