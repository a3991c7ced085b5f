"""From encoded bytes to a square uint8 image: crop (inside the JPEG decoder) and resize.

Everything here runs inside tf.data. Bytes are JPEG (including CMYK), PNG (16 bits become 8, alpha
is dropped), BMP or GIF (its first frame); gray becomes RGB. Other formats, truncated files and
images of more than `MOST_PIXELS` pixels raise `tf.errors.InvalidArgumentError`.
"""

from collections.abc import Callable
import functools

from basisnet_jax import photos
from basisnet_jax.data.quiet_tensorflow import tf

# The exact transform, as in other JPEG decoders. TensorFlow's default differs from them by about
# one gray level in every pixel, and is not faster.
_DCT = 'INTEGER_ACCURATE'
# Per pixel, a decoder takes 3 bytes and a resize up to 12, for several images at a time.
MOST_PIXELS = photos.MOST_PIXELS
# Where formats other than JPEG store their size: (first bytes, dtype, whether little-endian,
# positions of height and width).
_SIZES = (
  (b'\x89PNG\r\n\x1a\n', tf.int32, False, (20, 16)),
  (b'GIF8', tf.uint16, True, (8, 6)),
  (b'BM', tf.int32, True, (22, 18)),  # A negative height means rows from top to bottom.
)
# Resize methods for evaluation and pad-and-shift crops.
RESIZES = tuple(photos.METHODS)


def decode_area_crop(
  encoded: tf.Tensor, resolution: int, min_area: float, seed: tf.Tensor
) -> tf.Tensor:
  """Decodes a random crop: `min_area` to 1 of the image's area, aspect ratio 3/4 to 4/3.

  Args:
    encoded: string scalar, the bytes of one image.
    resolution: height and width of the result, pixels.
    min_area: the smallest share of the image's area, in (0, 1].
    seed: int64 [2], the only source of randomness.

  Returns:
    uint8 [resolution, resolution, 3].
  """

  def window(shape):
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
      shape,
      bounding_boxes=tf.zeros([1, 0, 4]),
      seed=seed,
      min_object_covered=0.0,
      aspect_ratio_range=(3 / 4, 4 / 3),
      area_range=(min_area, 1.0),
      max_attempts=100,  # After these, the whole image.
      use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], axis=0)

  return resize(decode_window(encoded, window), resolution, exact=False)


def decode_pad_crop(
  encoded: tf.Tensor, resolution: int, padding: int, seed: tf.Tensor, method: str = 'bilinear'
) -> tf.Tensor:
  """Decodes and resizes the whole image, pads it with zeros, and crops at a random shift.

  It should resize as evaluation does: if all images shrink by the same factor, a network would
  otherwise learn the sharpness of a different filter.

  Args:
    encoded: string scalar, the bytes of one image.
    resolution: height and width of the result, pixels.
    padding: pixels added on each side, at `resolution`.
    seed: int64 [2], the only source of randomness.
    method: one of `RESIZES`.

  Returns:
    uint8 [resolution, resolution, 3].
  """
  image = resize(_decode(encoded), resolution, exact=True, method=method)
  padded = tf.pad(image, [[padding, padding], [padding, padding], [0, 0]])
  shift = tf.random.stateless_uniform([2], seed, maxval=2 * padding + 1, dtype=tf.int32)
  return tf.slice(padded, tf.pad(shift, [[0, 1]]), [resolution, resolution, 3])


def decode_central_crop(
  encoded: tf.Tensor, resolution: int, share: float, method: str = 'bilinear'
) -> tf.Tensor:
  """Decodes the central square whose side is `share` of the image's shorter side.

  Args:
    encoded: string scalar, the bytes of one image.
    resolution: height and width of the result, pixels.
    share: in (0, 1]; at 1.0 a square image is kept whole.
    method: one of `RESIZES`.

  Returns:
    uint8 [resolution, resolution, 3].
  """

  def window(shape):
    shorter = tf.cast(tf.minimum(shape[0], shape[1]), tf.float32)
    side = tf.maximum(tf.cast(tf.round(share * shorter), tf.int32), 1)
    return tf.stack([(shape[0] - side) // 2, (shape[1] - side) // 2, side, side])

  return resize(decode_window(encoded, window), resolution, exact=True, method=method)


def decode_window(encoded: tf.Tensor, window: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
  """Decodes one window of an image; of a JPEG, only the blocks that it touches.

  Args:
    encoded: string scalar, the bytes of one image.
    window: from the image's shape, int32 [3], to the window's top, left, height and width,
      int32 [4].

  Returns:
    uint8 [height, width, 3].
  """

  def from_jpeg():
    shape = _checked(tf.io.extract_jpeg_shape(encoded))  # Reads only the header.
    return tf.image.decode_and_crop_jpeg(encoded, window(shape), channels=3, dct_method=_DCT)

  def from_other():
    image = _decode_other(encoded)
    top, left, height, width = tf.unstack(window(tf.shape(image)))
    return image[top : top + height, left : left + width]

  return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)


def resize(
  image: tf.Tensor, resolution: int, *, exact: bool, method: str = 'bilinear'
) -> tf.Tensor:
  """Resizes an image; one that already has the size is returned unchanged.

  Args:
    image: uint8 [height, width, 3].
    resolution: height and width of the result, pixels.
    exact: True is `method` with antialiasing, as in PIL and torchvision. False averages over areas
      if two or more pixels become one, and is otherwise bilinear (whose four pixels then miss few).
      The result is nearly the same, 0.7 gray levels from the exact one in crops of ImageNet, but
      five times faster, which doubles the speed of a training pipeline.
    method: one of `RESIZES`.

  Returns:
    uint8 [resolution, resolution, 3].
  """
  size = [resolution, resolution]
  plain = functools.partial(tf.image.resize, image, size, method)
  height_and_width = tf.shape(image)[:2]

  def exactly():
    # Antialiasing changes nothing where the image grows.
    antialiased = functools.partial(plain, antialias=True)
    result = tf.cond(tf.reduce_all(height_and_width <= resolution), plain, antialiased)
    return to_bytes(tf.clip_by_value(result, 0.0, 255.0))  # Cubic interpolation overshoots.

  def to_bytes(result):
    return tf.cast(result + 0.5, tf.uint8)

  if exact:
    fits = tf.reduce_all(height_and_width == resolution)
    result = tf.cond(fits, lambda: image, exactly)
  else:
    area = functools.partial(tf.image.resize, image, size, 'area')
    shrinks = tf.reduce_all(height_and_width >= resolution)
    halves = tf.reduce_prod(height_and_width) >= 2 * resolution**2
    result = to_bytes(tf.cond(shrinks & halves, area, plain))
  return tf.ensure_shape(result, [*size, 3])


def _decode(encoded: tf.Tensor) -> tf.Tensor:
  def from_jpeg():
    with tf.control_dependencies([_checked(tf.io.extract_jpeg_shape(encoded))]):
      return tf.io.decode_jpeg(encoded, channels=3, dct_method=_DCT)

  return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, lambda: _decode_other(encoded))


# Not inlined: in the caller, a JPEG would have to skip its operations one by one.
@tf.function(
  autograph=False,
  input_signature=[tf.TensorSpec([], tf.string)],
  experimental_attributes={'_noinline': True},
)
def _decode_other(encoded: tf.Tensor) -> tf.Tensor:
  def number(position, dtype, little_endian):
    encoded_number = tf.strings.substr(encoded, position, dtype.size)
    (value,) = tf.unstack(tf.io.decode_raw(encoded_number, dtype, little_endian), 1)
    return tf.abs(tf.cast(value, tf.int64))

  def size(dtype, little_endian, positions):
    return lambda: tf.stack([number(p, dtype, little_endian) for p in positions])

  def unknown():
    # Not -1: it would count as small.
    return tf.constant([MOST_PIXELS, MOST_PIXELS], tf.int64)

  cases = [
    (tf.strings.substr(encoded, 0, len(first)) == first, size(*how)) for first, *how in _SIZES
  ]
  with tf.control_dependencies([_checked(tf.case(cases, default=unknown))]):
    image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
  image.set_shape([None, None, 3])
  return image


def _checked(shape: tf.Tensor) -> tf.Tensor:
  """Returns the shape, [height, width, ...]; an error if the image is empty or too large."""
  pixels = tf.reduce_prod(tf.cast(shape[:2], tf.int64))
  fits = (pixels > 0) & (pixels <= MOST_PIXELS)
  # The raw op: TensorFlow's wrapper around it takes long to trace.
  with tf.control_dependencies([tf.raw_ops.Assert(condition=fits, data=[shape])]):
    return tf.identity(shape)
