"""The operations of augmentation policies: PIL's, compiled.

Each operation takes an image, uint8 [height, width, 3], and a number, float32 scalar, which several
ignore, and returns an image of the same shape. They run inside tf.data. XLA fuses each operation's
arithmetic into one pass over the image: TensorFlow's own kernels, run one after another, take 2 to
10 times as long, most of it for intermediate images.
"""

from collections.abc import Callable
import functools
import math

from basisnet_jax.data.quiet_tensorflow import start_compiler, tf

# Fills what comes into view where an image is moved: about the mean of most datasets.
FILL = 128
_VALUES = 256  # The number of values of a uint8.

_IMAGE = tf.TensorSpec([None, None, 3], tf.uint8)
_NUMBER = tf.TensorSpec([], tf.float32)
_TABLES = tf.TensorSpec([3, _VALUES], tf.int32)  # XLA gathers 32 bits faster than 8.


def _compiled(*signature):
  """Compiles a function with XLA: traced once, compiled at the first image of each size."""

  def decorate(function):
    compiled = tf.function(function, jit_compile=True, autograph=False, input_signature=signature)

    @functools.wraps(function)
    def call(*args):
      start_compiler()
      return compiled(*args)

    return call

  return decorate


_operation = _compiled(_IMAGE, _NUMBER)


def identity(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
  """Returns the image unchanged."""
  return image


@_operation
def invert(image: tf.Tensor, unused: tf.Tensor) -> tf.Tensor:
  """Inverts all values."""
  return 255 - image


@_operation
def posterize(image: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
  """Keeps the highest `bits`, 0 to 8, of every value."""
  mask = tf.cast(_VALUES - 2 ** (8 - bits), tf.uint8)
  return tf.bitwise.bitwise_and(image, mask)


@_operation
def solarize(image: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
  """Inverts the values at or above the threshold."""
  return tf.where(tf.cast(image, tf.float32) < threshold, image, 255 - image)


@_operation
def solarize_add(image: tf.Tensor, addition: tf.Tensor) -> tf.Tensor:
  """Adds a number to the values below 128, clipping the sums to 255."""
  return tf.where(image < 128, _to_uint8(tf.cast(image, tf.float32) + addition), image)


@_operation
def brightness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the brightness: 0 is black, 1 the image itself, above 1 brighter."""
  return _to_uint8(factor * tf.cast(image, tf.float32))


@_operation
def color(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the colour: 0 is the gray image, 1 the image itself, above 1 more colourful."""
  return _blend(_gray(image)[..., None], image, factor)


@_operation
def contrast(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the contrast: 0 is the image's mean gray, 1 the image itself, above 1 more contrast."""
  gray = tf.cast(_gray(image), tf.int64)
  count = tf.size(gray, tf.int64)
  mean = (2 * tf.reduce_sum(gray) + count) // (2 * count)  # Rounded.
  return _blend(mean, image, factor)


@_operation
def sharpness(image: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
  """Scales the sharpness: 0 is smoothed, 1 the image itself, above 1 sharper; keeps the border."""
  pixels = tf.cast(image, tf.int32)
  column = pixels[:-2] + pixels[1:-1] + pixels[2:]
  total = column[:, :-2] + column[:, 1:-1] + column[:, 2:] + 4 * pixels[1:-1, 1:-1]
  smooth = (2 * total + 13) // 26  # Weights 1, and 5 in the middle, divided by 13; rounded.
  inner = _blend(smooth, image[1:-1, 1:-1], factor)
  padding = [[1, 1], [1, 1], [0, 0]]
  is_inner = tf.pad(tf.ones_like(inner, tf.bool), padding)
  return tf.where(is_inner, tf.pad(inner, padding), image)


@_operation
def shear_x(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
  """Moves each row to the left by `shift` times its distance from the top."""
  return _affine(image, (1, shift, 0), (0, 1, 0))


@_operation
def shear_y(image: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
  """Moves each column up by `shift` times its distance from the left."""
  return _affine(image, (1, 0, 0), (shift, 1, 0))


@_operation
def translate_x(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
  """Moves the image to the left by this share of its width, in whole pixels."""
  return _affine(
    image, (1, 0, tf.round(share * tf.cast(tf.shape(image)[1], tf.float32))), (0, 1, 0)
  )


@_operation
def translate_y(image: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
  """Moves the image up by this share of its height, in whole pixels."""
  return _affine(
    image, (1, 0, 0), (0, 1, tf.round(share * tf.cast(tf.shape(image)[0], tf.float32)))
  )


@_operation
def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
  """Rotates counterclockwise about the centre."""
  radians = tf.cast(degrees, tf.float64) * (math.pi / 180)
  cos, sin = tf.cos(radians), tf.sin(radians)
  height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float64) / 2)
  to_x = (cos, -sin, width - cos * width + sin * height)
  to_y = (sin, cos, height - sin * width - cos * height)
  return _affine(image, to_x, to_y)


def autocontrast(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
  """Stretches each channel to the range 0 to 255."""
  return _look_up(_stretching_tables(image), image)


def equalize(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
  """Equalizes each channel's histogram: all values become about equally frequent."""
  return _look_up(_equalizing_tables(image), image)


# `apply` indexes them in this order.
OPERATIONS: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
  operation.__name__: operation
  for operation in (
    identity,
    autocontrast,
    equalize,
    invert,
    posterize,
    solarize,
    solarize_add,
    brightness,
    color,
    contrast,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
  )
}


def apply(image: tf.Tensor, index: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
  """Runs one of `OPERATIONS`, without computing the others.

  Args:
    image: uint8 [height, width, 3].
    index: int32 scalar, the operation's index in `OPERATIONS`.
    number: float32 scalar, the operation's argument.

  Returns:
    uint8 [height, width, 3].
  """
  branches = [functools.partial(f, image, number) for f in OPERATIONS.values()]
  return tf.ensure_shape(tf.switch_case(index, branches), image.shape)


@_compiled(_IMAGE, tf.TensorSpec([4], tf.int32), _IMAGE)
def paint(image: tf.Tensor, rectangle: tf.Tensor, filling: tf.Tensor) -> tf.Tensor:
  """Fills a rectangle.

  Args:
    image: uint8 [height, width, 3].
    rectangle: int32 [4], top, left, height and width; it may extend beyond the image.
    filling: uint8, the image's size or [1, 1, 3], shown inside the rectangle.

  Returns:
    uint8 [height, width, 3].
  """
  top, left, rows, columns = tf.unstack(rectangle)
  height, width = tf.unstack(tf.shape(image)[:2])
  y, x = tf.range(height)[:, None, None], tf.range(width)[:, None]
  inside = (y >= top) & (y < top + rows) & (x >= left) & (x < left + columns)
  return tf.where(inside, filling, image)


def _histograms(image):
  channels = tf.unstack(tf.reshape(tf.cast(image, tf.int32), [-1, 3]), axis=1)
  ones = tf.ones_like(channels[0])
  return tf.stack([tf.math.unsorted_segment_sum(ones, values, _VALUES) for values in channels])


# Separate: fused with the making of the tables, it would recompute an entry for every pixel.
@_compiled(_TABLES, _IMAGE)
def _look_up(tables, image):
  entries = tf.cast(image, tf.int32) + [0, _VALUES, 2 * _VALUES]
  return tf.cast(tf.gather(tf.reshape(tables, [-1]), entries), tf.uint8)


@_compiled(_IMAGE)
def _stretching_tables(image):
  counts = _histograms(image)
  values = tf.range(_VALUES)
  lowest = tf.reduce_min(tf.where(counts > 0, values, _VALUES), axis=1, keepdims=True)
  extent = _highest(counts) - lowest
  stretched = (values - lowest) * 255 // tf.maximum(extent, 1)
  return tf.where(extent > 0, tf.clip_by_value(stretched, 0, 255), values)


@_compiled(_IMAGE)
def _equalizing_tables(image):
  counts = _histograms(image)
  values = tf.range(_VALUES)
  of_highest = tf.reduce_sum(tf.where(values == _highest(counts), counts, 0), 1, keepdims=True)
  step = (tf.reduce_sum(counts, axis=1, keepdims=True) - of_highest) // 255
  below = tf.cumsum(counts, axis=1, exclusive=True)
  equalized = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
  return tf.where(step > 0, equalized, values)


def _highest(counts):
  return tf.reduce_max(tf.where(counts > 0, tf.range(_VALUES), 0), axis=1, keepdims=True)


def _gray(image):
  """The luma of ITU-R 601-2, from 16-bit fixed-point arithmetic; int32 [height, width]."""
  red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
  return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 32768, 16)


def _blend(degenerate, image, factor):
  degenerate = tf.cast(degenerate, tf.float32)
  return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


def _to_uint8(values):
  return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _affine(image, to_x, to_y):
  """Fills each pixel (x, y) from the nearest pixel to (`to_x`, `to_y`); `FILL` is outside.

  `to_x` and `to_y` are (a, b, c), which stand for a x + b y + c, computed with 16-bit fractions as
  in PIL.
  """
  height, width = tf.unstack(tf.shape(image)[:2])
  x, y = tf.range(width), tf.range(height)[:, None]

  def source(coefficients):
    a, b, c = (tf.cast(value, tf.float64) for value in coefficients)
    fixed = lambda value: tf.cast(tf.floor(65536 * value + 0.5), tf.int32)  # noqa: E731
    return tf.bitwise.right_shift(fixed(a) * x + fixed(b) * y + fixed(c + (a + b) / 2), 16)

  from_x, from_y = source(to_x), source(to_y)
  inside = (from_x >= 0) & (from_x < width) & (from_y >= 0) & (from_y < height)
  pixels = tf.gather(tf.reshape(image, [-1, 3]), tf.where(inside, from_y * width + from_x, 0))
  return tf.where(inside[..., None], pixels, tf.constant(FILL, tf.uint8))
