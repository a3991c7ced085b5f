import io
import struct
import zlib

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
import numpy as np
import PIL.Image
import pytest
from tiny_datasets import encode, photo

from basisnet_jax.data import decoding, recovery
from basisnet_jax.data.quiet_tensorflow import tf

SEED = tf.constant([3, 4], tf.int64)


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


def test_fast_resize_keeps_an_image_of_the_right_size():
  pixels = photo(32, 32)
  np.testing.assert_array_equal(decoding.resize(tf.constant(pixels), 32, exact=False), pixels)


@pytest.mark.parametrize(('side', 'averages'), [(40, False), (44, False), (46, True), (64, True)])
def test_fast_resize_averages_where_two_pixels_or_more_become_one(side, averages):
  pixels = tf.constant(photo(side, side))
  method = 'area' if averages else 'bilinear'
  expected = tf.cast(tf.image.resize(pixels, [32, 32], method=method) + 0.5, tf.uint8)
  np.testing.assert_array_equal(decoding.resize(pixels, 32, exact=False), expected)


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


@pytest.mark.parametrize('method', decoding.RESIZES)
@pytest.mark.parametrize('resolution', [16, 32, 48])
def test_pad_crop_without_padding_is_what_evaluation_sees(resolution, method):
  encoded = encode(photo(32, 32), 'PNG')
  trained = decoding.decode_pad_crop(encoded, resolution, 0, SEED, method)
  evaluated = decoding.decode_central_crop(encoded, resolution, 1.0, method)
  np.testing.assert_array_equal(trained, evaluated)


def odd(mode: str, format: str, **options) -> bytes:
  """A photo in an unusual colour mode or file format."""
  if mode == 'I;16':  # 16 bits; PIL cannot convert to them.
    gray = photo(40, 50)[..., 0].astype(np.uint16) * 257
    return encode(gray, format)
  buffer = io.BytesIO()
  PIL.Image.fromarray(photo(40, 50)).convert(mode).save(buffer, format, **options)
  return buffer.getvalue()


DECODERS = {
  'evaluation': lambda encoded: decoding.decode_central_crop(encoded, 24, 1.0),
  'pad': lambda encoded: decoding.decode_pad_crop(encoded, 24, 0, SEED),
  'area': lambda encoded: decoding.decode_area_crop(encoded, 24, 0.9, SEED),
}
every_decoder = pytest.mark.parametrize('decode', DECODERS.values(), ids=DECODERS)


@pytest.mark.parametrize(
  'mode, format, options',
  [
    ('CMYK', 'JPEG', {}),
    ('L', 'JPEG', {}),
    ('RGB', 'JPEG', {'progressive': True}),
    ('RGBA', 'PNG', {}),
    ('LA', 'PNG', {}),
    ('P', 'PNG', {}),
    ('1', 'PNG', {}),
    ('I;16', 'PNG', {}),
    ('RGB', 'GIF', {'save_all': True, 'append_images': [PIL.Image.new('RGB', (50, 40))]}),
    ('RGB', 'BMP', {}),
  ],
)
@every_decoder
def test_odd_images_look_as_in_pil(decode, mode, format, options):
  encoded = odd(mode, format, **options)
  image = PIL.Image.open(io.BytesIO(encoded))
  if mode == 'I;16':
    image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  found = decode(encoded).numpy()
  assert found.shape == (24, 24, 3)
  if decode is DECODERS['evaluation']:
    square = image.convert('RGB').crop((5, 0, 45, 40))
    expected = np.asarray(square.resize((24, 24), PIL.Image.Resampling.BILINEAR))
    assert np.abs(found.astype(int) - expected).max() <= 2
  else:
    expected = np.asarray(image.convert('RGB'))
    assert np.abs(found.mean() - expected.mean()) < 12


def png_that_claims(height: int, width: int) -> bytes:
  """A valid PNG of black pixels, a thousandth of its size in bytes."""

  def chunk(kind, content):
    checksum = struct.pack('>I', zlib.crc32(kind + content))
    return struct.pack('>I', len(content)) + kind + content + checksum

  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  pixels = zlib.compress(bytes((width + 1) * height), 9)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    chunk(*part) for part in ((b'IHDR', header), (b'IDAT', pixels), (b'IEND', b''))
  )


def jpeg_that_claims(height: int, width: int) -> bytes:
  encoded = encode(photo(16, 16))
  at = encoded.index(b'\xff\xc0') + 5
  return encoded[:at] + struct.pack('>HH', height, width) + encoded[at + 4 :]


WHOLE = encode(photo(40, 50))
UNREADABLE = {
  'nothing': b'',
  'one byte': b'\xff',
  'text': b'<html>404 Not Found</html>',
  'header alone': WHOLE[:300],
  'cut off': WHOLE[: len(WHOLE) // 3],
  'cut off PNG': encode(photo(40, 50), 'PNG')[:-500],
  'TIFF': odd('RGB', 'TIFF'),
  'giant JPEG': jpeg_that_claims(65_000, 65_000),
  'giant PNG': png_that_claims(9_000, 8_000),
  'giant GIF': b'GIF89a' + struct.pack('<HH', 65_000, 65_000) + odd('P', 'GIF')[10:],
  'giant BMP': odd('RGB', 'BMP')[:18] + struct.pack('<ii', 30_000, -30_000) + bytes(999),
  'JPEG without pixels': jpeg_that_claims(0, 16),
}


@pytest.mark.parametrize('name', UNREADABLE)
@every_decoder
def test_unreadable_and_giant_images_are_one_kind_of_error(decode, name):
  with pytest.raises(tf.errors.InvalidArgumentError):
    decode(UNREADABLE[name])


def test_largest_image_is_read():
  encoded = png_that_claims(8_000, 8_000)
  assert decoding.decode_central_crop(encoded, 24, 1.0).numpy().max() == 0


FILES = [
  WHOLE,
  odd('RGB', 'JPEG', progressive=True),
  *(encode(photo(9, 7), format) for format in ('PNG', 'GIF', 'BMP')),
]


@st.composite
def harmed(draw):
  """A valid file with bytes changed, cut out, repeated; or anything at all."""
  if draw(st.integers(0, 9)) == 0:
    return draw(st.binary(max_size=200))
  data = bytearray(draw(st.sampled_from(FILES)))
  for _ in range(draw(st.integers(1, 4))):
    # Half of the harm is done to the header, where the sizes are.
    last = min(len(data), draw(st.sampled_from([60, len(data)])))
    at = draw(st.integers(0, last))
    kind = draw(st.sampled_from(['change', 'cut', 'end', 'insert']))
    if kind == 'change':
      data[at : at + 4] = draw(st.binary(min_size=1, max_size=4))
    elif kind == 'cut':
      del data[at : at + draw(st.integers(1, 40))]
    elif kind == 'end':
      del data[at:]
    else:
      data[at:at] = draw(st.binary(min_size=1, max_size=40))
  return bytes(data)


@pytest.fixture(scope='module', params=DECODERS)
def tolerant(request):
  """The pipeline's function of one image, (image, whether it is one), compiled once."""
  decode = DECODERS[request.param]
  example = lambda encoded: (decode(encoded), True)  # noqa: E731
  black = lambda encoded: (tf.zeros([24, 24, 3], tf.uint8), False)  # noqa: E731
  function = recovery.or_replacement(example, black)
  return tf.function(function, input_signature=[tf.TensorSpec([], tf.string)])


@settings(
  max_examples=300,
  deadline=None,
  derandomize=True,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(encoded=harmed())
def test_whatever_the_bytes_there_is_an_image_or_a_replacement(tolerant, encoded):
  image, readable = tolerant(encoded)
  assert (image.shape, image.dtype) == ((24, 24, 3), tf.uint8)
  if not readable:
    assert not image.numpy().any()
