"""Tiny datasets, written by TFDS itself. The label of an image is its number."""

import io

import numpy as np
import PIL.Image

from basisnet_jax.data.quiet_tensorflow import tfds

TRAIN, TEST = 23, 7  # Odd sizes: neither batches nor hosts divide them.
CORRUPT = 11  # The number of the broken image in 'corrupt_images'.


def encode(pixels: np.ndarray, format: str = 'JPEG', **options) -> bytes:
  """The bytes of an image file, written by PIL."""
  buffer = io.BytesIO()
  PIL.Image.fromarray(pixels).save(buffer, format, **options)
  return buffer.getvalue()


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
  """A smooth colourful picture with some noise, uint8 [height, width, 3]."""
  random = np.random.default_rng(seed)
  y, x = np.mgrid[0:height, 0:width] / max(height, width)
  waves = [np.sin(2 * np.pi * (a * x + b * y + c)) for a, b, c in random.uniform(0, 3, (3, 3))]
  noise = random.normal(0, 4, (height, width, 3))
  return np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def picture(number: int) -> np.ndarray:
  """The picture with this number, before it is encoded; their sizes differ."""
  return photo(24 + number % 5, 20 + number % 7, seed=number)


class JpegImages(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version('1.0.0')
  FORMAT = 'JPEG'

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'label': tfds.features.ClassLabel(num_classes=TRAIN + TEST),
        }
      ),
    )

  def _split_generators(self, dl_manager):
    return {
      'train': self._generate_examples(0, TRAIN),
      'test': self._generate_examples(TRAIN, TRAIN + TEST),
    }

  def _generate_examples(self, begin, end):
    for number in range(begin, end):
      yield number, {'image': io.BytesIO(self._encoded(number)), 'label': number}

  def _encoded(self, number):
    return encode(picture(number), self.FORMAT)


class PngImages(JpegImages):
  FORMAT = 'PNG'


class CorruptImages(JpegImages):
  def _encoded(self, number):
    encoded = super()._encoded(number)
    return encoded[:200] if number == CORRUPT else encoded
