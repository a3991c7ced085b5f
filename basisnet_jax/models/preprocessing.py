"""From pixels to what the networks read."""

import jax.numpy as jnp


def normalize(images):
  """uint8 images `[b, h, w, 3]` -> float32 in [-1, 1], TensorFlow's convention for MobileNets."""
  return images.astype(jnp.float32) / 127.5 - 1
