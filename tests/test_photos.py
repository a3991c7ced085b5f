"""Photos of every kind, against what they were made of and against TensorFlow's decoder."""

import concurrent.futures
import io
import time

import jax.numpy as jnp
from kinds_of_photos import ODD_TAGS, turned_by_an_odd_camera
import numpy as np
from PIL import Image
import pytest

from basisnet_jax import photos
from basisnet_jax.data import decoding
from basisnet_jax.errors import UserError


def picture(width=12, height=8):
  """RGB, smooth, different at every corner."""
  y, x = np.mgrid[0:height, 0:width]
  channels = [255 * x / width, 255 * y / height, 255 * (1 - (x + y) / (width + height))]
  return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(image, kind, **options):
  written = io.BytesIO()
  image.save(written, kind, **options)
  return written.getvalue()


def damaged_avif():
  data = encoded(picture(), 'AVIF')
  kept = data.index(b'mdat') + 4
  return data[:kept] + bytes(len(data) - kept)


def deleted():
  array = jnp.zeros((4, 4, 3), jnp.uint8)
  array.delete()
  return array


def damaged_tiff():
  data = encoded(picture(), 'TIFF')
  strips, integer, decimal = b'\x11\x01', b'\x04\0', b'\x0b\0'
  assert strips + integer in data
  return data.replace(strips + integer, strips + decimal)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_the_exif_tag_turns_the_image(orientation):
  turn = {
    1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4],
  }[orientation]  # fmt: skip
  stored = picture()
  for operation in turn:  # What a camera does that writes this tag.
    stored = stored.transpose(Image.Transpose(operation))
  exif = Image.Exif()
  exif[0x0112] = orientation
  found = photos.read(encoded(stored, 'PNG', exif=exif))
  np.testing.assert_array_equal(found, picture())


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF', 'AVIF'])
def test_an_image_is_turned_once_however_often_it_is_read(kind):
  exif = Image.Exif()
  exif[0x0112] = 6
  found = photos.read(encoded(picture(), kind, exif=exif))
  assert found.size == (8, 12)
  np.testing.assert_array_equal(photos.read(photos.read(found)), found)


@pytest.mark.parametrize('tag', ODD_TAGS)
def test_tags_that_a_camera_wrote_in_another_type_do_not_matter(tag):
  options = turned_by_an_odd_camera(tag)
  found = photos.read(encoded(picture(), 'JPEG', quality=100, subsampling=0, **options))
  upright = np.rot90(np.asarray(picture()), -1).astype(int)
  np.testing.assert_allclose(np.asarray(found).astype(int), upright, atol=4)


@pytest.mark.parametrize(
  'kind, options', [('PNG', {}), ('WEBP', {'lossless': True}), ('BMP', {}), ('TIFF', {})]
)
def test_kinds_that_lose_nothing_are_read_as_they_were(tmp_path, kind, options):
  data = encoded(picture(), kind, **options)
  path = tmp_path / 'photo'
  path.write_bytes(data)
  for source in (data, path, str(path), picture(), np.asarray(picture())):
    np.testing.assert_array_equal(photos.read(source), picture())


@pytest.mark.parametrize('suffix', photos.SUFFIXES)
def test_each_suffix_is_of_a_kind_that_is_read(tmp_path, suffix):
  path = tmp_path / f'photo{suffix}'
  picture().convert({'.pgm': 'L', '.pbm': '1'}.get(suffix, 'RGB')).save(path)
  assert photos.read(path).size == (12, 8)


def test_other_modes_become_rgb():
  gray = picture().convert('L')
  np.testing.assert_array_equal(np.asarray(photos.read(np.asarray(gray)))[..., 1], gray)
  deep = np.asarray(gray).astype(np.uint16) * 257
  np.testing.assert_array_equal(
    np.asarray(photos.read(encoded(Image.fromarray(deep), 'PNG')))[..., 0], gray
  )
  for mode, order in (('I;16', '<u2'), ('I;16B', '>u2'), ('I', '<i4')):
    stored = Image.frombytes(mode, gray.size, deep.astype(order).tobytes())
    for source in (stored, encoded(stored, 'TIFF')):
      np.testing.assert_array_equal(np.asarray(photos.read(source))[..., 0], gray)
  see_through = picture().convert('RGBA')
  see_through.putalpha(0)
  assert np.all(np.asarray(photos.read(see_through)) == 255)


@pytest.mark.parametrize('mode', ['1', 'L', 'RGB', 'P'])
def test_a_colour_that_stands_for_nothing_is_white(mode):
  values = np.repeat(np.array([0, 255], np.uint8), 4)
  image = Image.fromarray(np.broadcast_to(values[:, None, None], (8, 8, 3)).copy()).convert(mode)
  for gray, key in ((0, image.getpixel((0, 0))), (255, image.getpixel((0, 7)))):
    found = np.asarray(photos.read(encoded(image, 'PNG', transparency=key)))
    np.testing.assert_array_equal(found[values == gray], 255)
    np.testing.assert_array_equal(found[values != gray], 255 - gray)


def test_a_pillow_image_stays_as_it_is():
  exif = Image.Exif()
  exif[0x0112] = 6
  image = Image.open(io.BytesIO(encoded(picture(), 'PNG', exif=exif)))
  assert photos.read(image).size == (8, 12)
  np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize(
  'source, sentence',
  [
    (b'no image', r'^8 bytes: not an image of a kind that is known\.$'),
    (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic', r'^24 bytes: HEIC is not read; convert it to JPEG\.$'),
    (b'\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf', 'HEIC is not read'),
    (b'\0\0\0\x18ftypmp42\0\0\0\0mp42isom', 'not an image of a kind'),
    (encoded(picture(), 'EPS'), 'not an image of a kind'),  # A program.
    (encoded(picture(), 'PNG')[:80], r'^80 bytes: not readable \('),
    (damaged_avif(), r'^\d+ bytes: not readable \(Failed to decode'),
    (damaged_tiff(), r'^\d+ bytes: not readable \(.* as an integer\)\.$'),
    (Image.open(io.BytesIO(encoded(picture(), 'PNG')[:80])), r'^the image: not readable \('),
    (Image.fromarray(np.ones((4, 4), np.float32)), 'its pixels are decimal numbers'),
    (Image.new('RGB', (0, 4)), r'^the image has no pixels: 0 x 4\.$'),
    ([[1, 2], [3]], 'this is list, object'),
    ('', r"^'': not readable \(.*No such file"),
    ('nowhere.jpg', r'^nowhere\.jpg: not readable \(.*No such file'),
    (np.zeros((4, 4, 3), np.float32), r'uint8 \[height, width, 3\]; this is ndarray, float32 \[4,'),
    (np.zeros((4, 4, 4), np.uint8), r'uint8 \[4, 4, 4\]'),
    (np.zeros((0, 4, 3), np.uint8), 'no pixels'),
    (None, 'this is NoneType'),
    (deleted(), r'^The image, ArrayImpl, cannot become a NumPy array \(.* been deleted'),
  ],
)  # fmt: skip
def test_what_is_no_image_gets_a_sentence(source, sentence):
  with pytest.raises(UserError, match=sentence):
    photos.read(source)


def test_an_image_that_several_threads_have_is_read_by_one_at_a_time(tmp_path, monkeypatch):
  tag = Image.Exif()
  tag[photos.ORIENTATION] = 6
  Image.new('RGB', (8, 4), 'red').save(tmp_path / 'lying.jpg', exif=tag)
  lazy, reading, at_once = Image.open(tmp_path / 'lying.jpg'), [], []
  load = lazy.load

  def slow():
    reading.append(None)
    at_once.append(len(reading))
    time.sleep(0.02)
    load()
    reading.pop()

  monkeypatch.setattr(lazy, 'load', slow)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(photos.read, [lazy] * 4))
  assert set(at_once) == {1}
  assert [image.size for image in found] == [(4, 8)] * 4


def test_giants_are_refused_before_they_are_decoded():
  cut = encoded(picture(), 'PNG')[:80]  # It cannot be decoded.
  with pytest.raises(UserError, match='12 x 8 pixels are more than 95; shrink it'):
    photos.read(cut, 95)
  with pytest.raises(UserError, match='truncated'):
    photos.read(cut, 96)


@pytest.mark.parametrize('method', decoding.RESIZES)
@pytest.mark.parametrize('size', [(64, 48), (333, 500), (41, 97), (224, 224)], ids=str)
@pytest.mark.parametrize('share', [1.0, 0.875])
def test_the_square_is_the_evaluations(method, size, share):
  random = np.random.default_rng(0)
  blocks = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8))
  image = blocks.resize(size, Image.Resampling.BICUBIC)

  def difference(data):
    expected = decoding.decode_central_crop(data, 96, share, method).numpy().astype(int)
    return np.abs(photos.central_square(photos.read(data), 96, share, method) - expected)

  for data in (encoded(image, 'PNG'), encoded(image, 'JPEG', subsampling=0)):
    found = difference(data)
    assert found.max() <= (1 if method == 'bilinear' else 2) and found.mean() < 0.25
  # TensorFlow decodes the square alone, without the colours that lie half outside.
  assert difference(encoded(image, 'JPEG'))[:, :-6].max() <= 2
