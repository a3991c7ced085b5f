import io

import numpy as np
import PIL.Image
import pytest
from tiny_datasets import encode, photo

from basisnet_jax.data import decoding
from basisnet_jax.data.quiet_tensorflow import tf


def pil_decode(encoded: bytes) -> np.ndarray:
  return np.asarray(PIL.Image.open(io.BytesIO(encoded)).convert('RGB'))


def decode_whole(encoded: bytes) -> np.ndarray:
  window = lambda shape: tf.stack([0, 0, shape[0], shape[1]])  # noqa: E731
  return decoding.decode_window(encoded, window).numpy()


@pytest.mark.parametrize(
  'window', [(0, 0, 61, 83), (7, 13, 30, 41), (60, 82, 1, 1), (16, 16, 8, 8)]
)
@pytest.mark.parametrize(
  ('format', 'options'),
  [('PNG', {}), ('JPEG', {'subsampling': '4:4:4'}), ('JPEG', {'subsampling': '4:2:0'})],
)
def test_crop_inside_the_decoder_equals_crop_of_the_decoded_image(format, options, window):
  encoded = encode(photo(61, 83), format, **options)
  top, left, height, width = window
  crop = decoding.decode_window(encoded, lambda shape: tf.constant(window)).numpy()
  expected = decode_whole(encoded)[top : top + height, left : left + width]
  assert crop.shape == expected.shape
  if options == {'subsampling': '4:2:0'}:
    # Colour at half the resolution is interpolated, at the border without its neighbours.
    np.testing.assert_allclose(crop.astype(int), expected, atol=20)
    crop, expected = crop[1:-1, 1:-1], expected[1:-1, 1:-1]
  np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize('format', ['JPEG', 'PNG'])
def test_decoded_image_equals_that_of_pil(format):
  encoded = encode(photo(61, 83), format)
  assert np.abs(decode_whole(encoded).astype(int) - pil_decode(encoded)).max() <= 1


@pytest.mark.parametrize('format', ['JPEG', 'PNG'])
def test_gray_becomes_three_equal_channels(format):
  gray = photo(12, 12)[..., 0]
  encoded = encode(gray, format)
  expected = pil_decode(encoded)
  for image in (
    decoding.decode_central_crop(encoded, 12, 1.0),
    decoding.decode_pad_crop(encoded, 12, 0, tf.constant([0, 0], tf.int64)),
  ):
    np.testing.assert_allclose(image.numpy().astype(int), expected, atol=1)


@pytest.mark.parametrize('share', [0.875, 1.0])
@pytest.mark.parametrize('resolution', [32, 96, 160])  # Shrinks, and grows.
@pytest.mark.parametrize('shape', [(120, 90), (77, 131), (100, 100)])
def test_central_crop_equals_that_of_pil(shape, resolution, share):
  encoded = encode(photo(*shape), 'PNG')
  side = round(share * min(shape))
  top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
  image = PIL.Image.open(io.BytesIO(encoded)).crop((left, top, left + side, top + side))
  expected = np.asarray(image.resize((resolution, resolution), PIL.Image.Resampling.BILINEAR))
  actual = decoding.decode_central_crop(encoded, resolution, share).numpy()
  assert actual.dtype == np.uint8
  assert np.abs(actual.astype(int) - expected).max() <= 1


def test_square_image_of_the_right_size_is_kept_as_it_is():
  pixels = photo(32, 32)
  image = decoding.decode_central_crop(encode(pixels, 'PNG'), 32, 1.0)
  np.testing.assert_array_equal(image.numpy(), pixels)


@pytest.mark.parametrize('resolution', [24, 61, 128])
def test_fast_resize_looks_like_the_exact_one(resolution):
  pixels = tf.constant(photo(61, 83))
  fast, exact = (
    decoding.resize(pixels, resolution, exact=exact).numpy().astype(np.float32)
    for exact in (False, True)
  )
  assert np.abs(fast - exact).mean() < 4


def test_area_crop_keeps_the_promised_share_and_aspect_ratio():
  # Red and green count pixels from the left and the top, so a crop tells where it was.
  y, x = np.mgrid[0:200, 0:200]
  encoded = encode(np.stack([x, y, 0 * x], -1).astype(np.uint8), 'PNG')
  areas, corners = [], set()
  for index in range(100):
    crop = decoding.decode_area_crop(encoded, 64, 0.25, tf.constant([3, index], tf.int64)).numpy()
    red, green = crop[..., 0].astype(int), crop[..., 1].astype(int)
    # The outermost pixels show the middle of a step, so the extent is 64 / 63 of it.
    width, height = ((v.max() - v.min()) * 64 / 63 for v in (red, green))
    areas.append(width * height / 200**2)
    corners.add((red.min(), green.min()))
    assert 3 / 4 - 0.05 < width / height < 4 / 3 + 0.05
  assert 0.25 - 0.02 < min(areas) < 0.4
  assert 0.8 < max(areas) < 1.02
  assert len(corners) > 80


def test_pad_crop_is_one_of_all_shifts_of_the_padded_image():
  pixels = photo(10, 10)
  encoded, padded = encode(pixels, 'PNG'), np.pad(pixels, ((2, 2), (2, 2), (0, 0)))
  shifts = {padded[y : y + 10, x : x + 10].tobytes(): (y, x) for y in range(5) for x in range(5)}
  seen = {
    shifts[
      decoding.decode_pad_crop(encoded, 10, 2, tf.constant([5, i], tf.int64)).numpy().tobytes()
    ]
    for i in range(250)
  }
  assert len(seen) == 25
