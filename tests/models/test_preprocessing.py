import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from basisnet_jax.models import preprocessing

SIZES = [(224, 224, 160), (224, 200, 208), (9, 33, 16), (32, 32, 31), (12, 12, 24), (7, 50, 5)]


@pytest.mark.parametrize('height, width, size', SIZES)
def test_resizing_is_that_of_pillow(height, width, size):
  images = np.random.default_rng(0).uniform(-1, 1, (2, height, width, 3)).astype(np.float32)
  found = jax.jit(preprocessing.resize, static_argnums=1)(images, size)
  for image, small in zip(images, found, strict=True):
    for c in range(3):
      channel = Image.fromarray(image[..., c]).resize((size, size), Image.Resampling.BILINEAR)
      np.testing.assert_allclose(small[..., c], channel, atol=1e-6)
  # What accelerators run; it works out its weights in float32.
  usual = jax.image.resize(images, found.shape, 'bilinear')
  np.testing.assert_allclose(found, usual, atol=1e-4)


def test_images_of_the_size_stay_and_dtypes_too():
  images = jnp.ones((1, 8, 8, 3), jnp.bfloat16)
  assert preprocessing.resize(images, 8) is images
  smaller = preprocessing.resize(images, 5)
  assert smaller.dtype == jnp.bfloat16
  np.testing.assert_allclose(smaller.astype(jnp.float32), 1, rtol=0.01)
