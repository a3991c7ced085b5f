"""What the network sees of a photo, against run.py, which asks Pillow."""

import base64
import io
import runpy
import subprocess

from kinds_of_photos import KINDS, encoded
import numpy as np
from pages import WEB, photo
from PIL import Image
import pytest

# What they read of what people have; Chromium 156 takes alpha in AVIF, 0 to 255, for 16 to 235.
BROWSERS = ('PNG', 'JPEG', 'GIF', 'WEBP', 'AVIF')
KINDS_OF_BROWSERS = [
  kind for kind, (_, form, _) in KINDS.items() if form in BROWSERS and kind != 'AVIF, half clear'
]


def bundled(made, name):
  """A file of web/src as a script, whose exports are in a global of its name."""
  bundle = made['folder'] / f'{name}.js'
  subprocess.run(
    [
      WEB / 'node_modules' / '.bin' / 'esbuild', WEB / 'src' / f'{name}.ts', '--bundle',
      '--format=iife', f'--global-name={name}', f'--outfile={bundle}', '--log-level=warning',
    ],
    check=True,
  )  # fmt: skip
  return bundle


@pytest.fixture(scope='module')
def visit_pixels(made, chromium):
  """A photo and an `about` to what web/src/pixels.ts makes of it, and run.py: RGB bytes."""
  runner = runpy.run_path(str(made['export'] / 'run.py'))
  page = chromium.new_page()
  page.add_script_tag(path=bundled(made, 'pixels'))
  call = """async ([data, about]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const seen = await pixels.seenOf(new Blob([bytes]), about);
    return [Array.from(seen), Array.from(pixels.normalized(seen))];
  }"""

  def compare(path, about):
    seen, numbers = page.evaluate(call, [base64.b64encode(path.read_bytes()).decode(), about])
    runner['pixels'].__globals__['about'] = lambda: about
    wanted = runner['pixels'](path)
    exact = np.float32(seen) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(np.float32(numbers), exact)
    return np.int32(seen), np.int32(np.rint((wanted + 1) * 127.5)).ravel()

  yield compare
  page.close()


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
  'size,crop,resolution',
  [
    ((1, 1), 1.0, 8),
    ((5, 7), 1.0, 16),
    ((92, 100), 0.875, 32),  # A side of 80.5 pixels, which Python rounds to 80.
    ((333, 217), 1.0, 96),
    ((96, 96), 1.0, 96),
    ((1300, 911), 0.875, 224),
  ],
)
def test_pixels_are_those_of_pillow(made, visit_pixels, size, crop, resolution, method):
  random = np.random.default_rng(size[0])
  noise = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
  path = made['folder'] / 'noise.png'
  Image.fromarray(noise).save(path)
  found, wanted = visit_pixels(path, {'crop': crop, 'resolution': resolution, 'resize': method})
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_are_turned_as_their_exif_tag_says(made, visit_pixels, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = photo(made['folder'] / 'turned.jpg', 3, size=(200, 120), exif=exif, quality=90)
  found, wanted = visit_pixels(path, {'crop': 0.9, 'resolution': 48, 'resize': 'bilinear'})
  # Decoders differ in how they enlarge the colours, of which a JPEG has fewer than pixels.
  assert np.abs(found - wanted).max() <= 2


def test_transparent_images_lie_on_white(made, visit_pixels):
  path = made['folder'] / 'clear.png'
  Image.new('RGBA', (20, 20), (255, 0, 0, 0)).save(path)
  found, _ = visit_pixels(path, {'crop': 1.0, 'resolution': 8, 'resize': 'bicubic'})
  assert (found == 255).all()


@pytest.mark.parametrize('kind', KINDS_OF_BROWSERS)
def test_photos_of_each_kind(made, visit_pixels, kind):
  path = made['folder'] / 'kind'
  path.write_bytes(encoded(kind))
  found, wanted = visit_pixels(path, {'crop': 0.875, 'resolution': 24, 'resize': 'bilinear'})
  # Decoders round colours, and what is half clear, in ways of their own.
  assert np.abs(found - wanted).max() <= (0 if KINDS[kind][1] in ('PNG', 'GIF') else 2)


def test_images_that_are_too_large_are_refused(made, visit_pixels):
  path = made['folder'] / 'large.png'
  Image.new('1', (8001, 8000)).save(path)
  with pytest.raises(Exception, match='8001 x 8000 pixels, more than 64 million: shrink it'):
    visit_pixels(path, {'crop': 1.0, 'resolution': 8, 'resize': 'bicubic'})


@pytest.mark.parametrize('kind', ['png', 'jpeg', 'progressive jpeg', 'gif', 'webp'])
def test_a_part_of_a_file_is_not_whole(made, chromium, kind):
  thumbnail = io.BytesIO()
  Image.new('RGB', (8, 8)).save(thumbnail, 'jpeg')  # Its end is not that of the photo.
  options = {'progressive': kind.startswith('progressive')} if 'jpeg' in kind else {}
  if 'jpeg' in kind:
    options['exif'] = b'Exif\0\0' + thumbnail.getvalue()
  photo = io.BytesIO()
  Image.open(made['unsure']).convert('RGB').save(photo, kind.split()[-1], **options)
  photo = photo.getvalue()
  page = chromium.new_page()
  page.add_script_tag(path=bundled(made, 'whole'))

  def whole(content):
    call = '(data) => whole.isWhole(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)))'
    return page.evaluate(call, base64.b64encode(content).decode())

  assert whole(photo) and whole(photo + b'more of another kind')
  for share in (0.05, 0.2, 0.5, 0.9):
    assert not whole(photo[: max(int(share * len(photo)), 20)])
  assert not whole(photo[:-12])
  page.close()


def test_png_with_another_bit_is_not_whole(made, visit_pixels):
  photo = bytearray(made['unsure'].read_bytes())
  photo[len(photo) // 2] ^= 1
  path = made['folder'] / 'another bit.png'
  path.write_bytes(photo)
  with pytest.raises(Exception, match='not an image that this browser can read'):
    visit_pixels(path, {'crop': 1.0, 'resolution': 8, 'resize': 'bicubic'})
