"""Photos as people have them (except HEIC), made upright RGB with Pillow."""

from collections.abc import Iterator
import io
import os
import struct
import threading
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError

SUFFIXES = (
  '.jpg', '.jpeg', '.jfif', '.png', '.apng', '.webp', '.avif', '.bmp', '.gif', '.tif', '.tiff',
  '.jp2', '.j2k', '.ppm', '.pgm', '.pbm', '.pnm',
)  # fmt: skip
# What phones also write: listed among other files, so that reading tells what is wrong.
UNREAD = ('.heic', '.heif')
MOST_PIXELS = 64_000_000
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright.
# How each turns upright. (Pillow's `exif_transpose` rewrites all other tags, too, and fails if one
# has an unusual type.)
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
# Not all kinds that Pillow reads: the sender of a file picks its kind, and EPS starts Ghostscript.
KINDS = ('JPEG', 'PNG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'AVIF', 'JPEG2000', 'PPM')
# What Pillow raises for files that are not images, or broken (RuntimeError: AVIF's decoder;
# TypeError: TIFF's, if offsets in the file are not integers; struct.error: GIF's, where it ends).
ERRORS = (
  OSError, ValueError, SyntaxError, RuntimeError, TypeError, struct.error,
  Image.DecompressionBombError,
)  # fmt: skip
# Pillow reads a file when its pixels are first needed, which may be in two threads for one image.
# Chosen by the images' ids, which are multiples of 16. Images read from files here need no lock:
# nobody else has them.
_READING = [threading.Lock() for _ in range(61)]
METHODS = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}


def as_text(path: str | os.PathLike) -> str:
  """A path as text: bytes that are not UTF-8 appear as \\udc.. in it."""
  return os.fspath(path).encode(errors='backslashreplace').decode()


def upright(image: Image.Image) -> Image.Image:
  """Converts to RGB, rotated as EXIF says; transparency becomes white, 16 bits become 8.

  Returns the same image if nothing has to change: a copy of a large one is 250 MB.

  Raises:
    ValueError: its pixels are floating-point numbers.
  """
  turn = _TURNS.get(image.getexif().get(ORIENTATION))
  if turn is not None:
    image = image.transpose(turn)
    # Without the tag, which several entries may hold: it must not be turned again.
    image.info = {key: value for key, value in image.info.items() if key == 'transparency'}
  if image.mode == 'F':
    raise ValueError('its pixels are decimal numbers, of which nobody knows what is white')
  if image.mode.startswith('I'):  # Pillow's own conversion would cut them off at 255.
    # By way of 32 bits, since Pillow cannot do this on 16 bits in the other byte order.
    image = image.convert('I').point(lambda value: value / 256).convert('L')
  elif image.has_transparency_data:
    rgba = image.convert('RGBA')
    image = Image.new('RGB', rgba.size, 'white')
    image.paste(rgba, mask=rgba.getchannel('A'))
  return image if image.mode == 'RGB' else image.convert('RGB')


def read(source: Any, most_pixels: int = MOST_PIXELS) -> Image.Image:
  """Reads an upright RGB image.

  Args:
    source: a path, the bytes of a file, a Pillow image, or an array, uint8 `[h, w, 3]` or `[h, w]`.
    most_pixels: limit, unless it is an array. A pixel takes up to 20 bytes while it is decoded.

  Raises:
    UserError: it is none of these, broken, or larger.
  """
  if isinstance(source, str | os.PathLike | bytes | Image.Image):
    try:
      if isinstance(source, Image.Image):
        name = 'the image'
        with _READING[id(source) % len(_READING)]:
          return _checked(source, name, most_pixels)
      if isinstance(source, bytes):
        name, data = counted(len(source), 'byte'), source
      else:
        name = str(source) or "''"
        with open(source, 'rb') as file:  # pathlib would read '' as the current folder.
          data = file.read()
      with Image.open(io.BytesIO(data), formats=KINDS) as image:
        return _checked(image, name, most_pixels)
    except IsADirectoryError as error:
      raise UserError(
        f'{name}: a folder; give the images in it, or yourself the right to look into it.'
      ) from error
    except UnidentifiedImageError as error:
      raise UserError(f'{name}: {unknown(data)}.') from error
    except ERRORS as error:
      raise UserError(f'{name}: not readable ({" ".join(str(error).split())}).') from error
  try:
    array = np.asarray(source)
  except ValueError:  # Lists of unequal length.
    array = np.empty((), object)
  except Exception as error:  # Other libraries' arrays have their own.
    raise UserError(
      f'The image, {type(source).__name__}, cannot become a NumPy array '
      f'({" ".join(str(error).split())}).'
    ) from error
  gray = array.ndim == 2
  if array.dtype != np.uint8 or not (gray or (array.ndim == 3 and array.shape[2] == 3)):
    raise UserError(
      f'An image is a path, bytes, a Pillow image or an array, uint8 [height, width, 3]; this is '
      f'{type(source).__name__}, {array.dtype} {list(array.shape)}.'
    )
  if not array.size:
    raise UserError(f'The image has no pixels: {list(array.shape)}.')
  return Image.fromarray(array).convert('RGB')


def unknown(data: bytes) -> str:
  """What to say about a file of a kind that Pillow does not know."""
  # Its first box names kinds, HEIC's among them.
  if data[4:8] == b'ftyp' and any(kind in data[8:64] for kind in (b'heic', b'heix', b'hevc')):
    return 'HEIC is not read; convert it to JPEG'
  return 'not an image of a kind that is known'


def several(images: Any) -> Iterator[Any]:
  """An iterator over images for `read`.

  Raises:
    UserError: it is a single image, or cannot be iterated over.
  """
  shape = getattr(images, 'shape', None)
  # The array of one image would be taken for a list of its rows, each a gray image.
  rows = shape is not None and (len(shape) == 2 or shape[2:] in ((1,), (3,), (4,)))
  if rows or isinstance(images, str | bytes | bytearray | os.PathLike | Image.Image):
    raise UserError('images is a list of images, and this is one: write [image].')
  try:
    return iter(images)
  except TypeError as error:
    raise UserError(
      f'images is a list of images, and this is {type(images).__name__}: write [image, ...].'
    ) from error


def central_square(
  image: Image.Image, resolution: int, share: float, method: str = 'bilinear'
) -> np.ndarray:
  """Does what `data.decoding.decode_central_crop` does, within two gray levels: uint8 `[r, r, 3]`.

  (Except in the last columns of JPEGs: TensorFlow decodes only the square, and the subsampled
  colours there lie half outside of it.)

  Args:
    image: RGB.
    resolution: height and width of the result, pixels.
    share: the square's side over the image's shorter side, in (0, 1].
    method: 'bilinear' or 'bicubic', both with antialiasing.
  """
  width, height = image.size
  side = max(round(share * min(width, height)), 1)
  left, top = (width - side) // 2, (height - side) // 2
  square = image.crop((left, top, left + side, top + side))
  return np.asarray(square.resize((resolution, resolution), METHODS[method]))


def _checked(image, name, most_pixels):
  width, height = image.size
  if width * height > most_pixels:
    raise UserError(f'{name}: {width} x {height} pixels are more than {most_pixels:,}; shrink it.')
  if not width * height:
    raise UserError(f'{name} has no pixels: {width} x {height}.')
  image.load()
  return upright(image)
