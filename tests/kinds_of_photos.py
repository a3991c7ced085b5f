"""Photos of all kinds that people have, small, as the bytes of their files."""

import io
import struct

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # EXIF's tag.
ODD_TAGS = (
  struct.pack('<HHI4s', 296, 2, 2, b'2'),  # The unit of the resolution, as text.
  struct.pack('<HHI4s', 282, 2, 4, b'abc'),  # The resolution.
)


def picture(mode='RGB', size=(50, 37)):
  """Smooth blotches that no turn leaves as they are."""
  small = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
  return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def deep():
  return Image.fromarray(np.asarray(picture('L')).astype(np.uint16) * 257)


def deep_big_endian():
  image = deep()
  return Image.frombytes('I;16B', image.size, np.asarray(image).astype('>u2').tobytes())


def faded(mode):
  image = picture(mode)
  image.putalpha(Image.linear_gradient('L').resize(image.size))
  return image


def turned(orientation):
  exif = Image.Exif()
  exif[ORIENTATION] = orientation
  return {'exif': exif}


def turned_by_an_odd_camera(tag):
  """Orientation 6, and another tag as it is in a file."""
  orientation = struct.pack('<HHII', ORIENTATION, 3, 1, 6)
  return {'exif': b'Exif\0\0II*\0' + struct.pack('<IH', 8, 2) + orientation + tag + bytes(4)}


def by_palette():
  image = picture('P')
  image.info['transparency'] = bytes(range(256))  # Of each colour, as PNG has it.
  return image


KINDS = {
  'RGB': (picture(), 'PNG', {}),
  'RGB, tRNS': (picture(), 'PNG', {'transparency': picture().getpixel((3, 3))}),
  'gray': (picture('L'), 'PNG', {}),
  'gray, tRNS': (picture('L'), 'PNG', {'transparency': picture('L').getpixel((3, 3))}),
  '16 bits of gray': (deep(), 'PNG', {}),
  '16 bits of gray, TIFF': (deep(), 'TIFF', {}),
  '16 bits of gray, big-endian TIFF': (deep_big_endian(), 'TIFF', {}),
  '16 bits of gray, PGM': (deep(), 'PPM', {}),
  '32 bits of gray': (deep().convert('I'), 'TIFF', {}),
  'LA': (faded('L'), 'PNG', {}),
  'RGBA': (faded('RGB'), 'PNG', {}),
  'palette': (picture('P'), 'PNG', {}),
  'palette, a clear colour': (picture('P'), 'PNG', {'transparency': 3}),
  'palette, tRNS': (by_palette(), 'PNG', {}),
  'palette, GIF': (picture('P'), 'GIF', {'transparency': 3}),
  '1 bit': (picture('1'), 'PNG', {}),
  '1 bit, tRNS': (picture('1'), 'PNG', {'transparency': 255}),
  'CMYK': (picture('CMYK'), 'JPEG', {}),
  'CMYK, TIFF': (picture('CMYK'), 'TIFF', {}),
  'YCbCr, TIFF': (picture('YCbCr'), 'TIFF', {}),
  'Lab, TIFF': (picture('RGB').convert('LAB'), 'TIFF', {}),
  'gray JPEG': (picture('L'), 'JPEG', {}),
  'tiny': (picture(size=(1, 1)), 'PNG', {}),
  'tiny, two pixels': (picture(size=(2, 1)), 'PNG', {}),
  'very wide': (picture(size=(999, 2)), 'PNG', {}),
  'very high': (picture(size=(3, 1000)), 'PNG', {}),
  'WebP': (faded('RGB'), 'WEBP', {}),
  'AVIF': (picture(), 'AVIF', {}),
  'AVIF, half clear': (faded('RGB'), 'AVIF', {}),
  'JPEG 2000': (picture(), 'JPEG2000', {}),
  **{f'turned {i}': (picture(), 'JPEG', turned(i)) for i in range(1, 10)},
  'turned gray': (deep(), 'TIFF', turned(6)),
  'turned, an odd tag': (picture(), 'JPEG', turned_by_an_odd_camera(ODD_TAGS[0])),
}


def encoded(kind):
  image, file_format, options = KINDS[kind]
  written = io.BytesIO()
  image.save(written, file_format, **options)
  return written.getvalue()
