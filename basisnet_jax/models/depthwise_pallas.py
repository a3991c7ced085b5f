"""Depthwise convolution on GPUs: Pallas kernels for it and for its two gradients.

Such a layer does little with each element that it reads, so it should read each only once. These
kernels find what neighbouring taps share in the cache, mask the border instead of padding images,
and accumulate in registers, in float32. Strided layers skip what a stride skips, in both
directions.

JAX 0.11 warns that Pallas will eventually drop the Triton backend that compiles them; setup.cfg
therefore stops at 0.11.
"""

import functools
from typing import NamedTuple

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from basisnet_jax.models import target

_OLDEST = 8.0  # Compute capability; older GPUs have no Triton in XLA.


class Window(NamedTuple):
  """A window's strides, and the padding above and left of the images; pixels (rows, columns)."""

  strides: tuple[int, int]
  pads: tuple[int, int]


class Tile(NamedTuple):
  """Work of one program: rows, columns and channels (both powers of two), and its warps."""

  rows: int
  columns: int
  channels: int
  warps: int


def suit_the_device() -> bool:
  """Whether these kernels can run here. On several devices they need to know the mesh."""
  if target.platform() != 'gpu' or not (_mesh() or jax.device_count() == 1):
    return False
  # For AMD GPUs this is a name; the kernels have not been measured on them.
  capability = getattr(target.device(), 'compute_capability', str(_OLDEST))
  return capability.replace('.', '').isdigit() and float(capability) >= _OLDEST


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x, kernel, strides, pads):
  """Depthwise convolution.

  In a mesh (`sharding.inside`) each device handles its own images. Without a GPU, Pallas interprets
  the kernels, slowly, for tests.

  Args:
    x: images, `[b, h, w, c]`.
    kernel: `[b, p, q, c]`, or `[1, p, q, c]` to share one.
    strides: steps of the window, pixels (rows, columns).
    pads: `((top, bottom), (left, right))`, pixels.

  Returns:
    `[b, h', w', c]` in the dtype of `x`.
  """
  return _forward(x, kernel, strides, pads)[0]


def _forward(x, kernel, strides, pads):
  size = tuple(
    (n + sum(pad) - k) // s + 1
    for n, pad, k, s in zip(x.shape[1:3], pads, kernel.shape[1:3], strides, strict=True)
  )
  run = functools.partial(_convolution, window=_window(strides, pads), size=size)
  return _by_device(run, kernel)(x, kernel), (x, kernel)


def _backward(strides, pads, residuals, dy):
  x, kernel = residuals
  window = _window(strides, pads)
  run = functools.partial(_image_gradient, window=window, size=x.shape[1:3])
  dx = _by_device(run, kernel)(dy, kernel)
  run = functools.partial(_kernel_gradient, window=window, taps=kernel.shape[1:3])
  dkernel = _by_device(run)(x, dy)
  if kernel.shape[0] == 1:
    dkernel = dkernel.sum(0, keepdims=True)
  return dx, dkernel.astype(kernel.dtype)


depthwise.defvjp(_forward, _backward)


def _window(strides, pads):
  return Window(strides, (pads[0][0], pads[1][0]))


def _mesh():
  """The mesh of the trace; None if there is none or all its axes are already manual."""
  mesh = jax.sharding.get_abstract_mesh()
  return None if mesh.empty or mesh.are_all_axes_manual else mesh


def _by_device(run, kernel=None):
  """`run(images, kernel or images)`, mapped over a batch that is split over the mesh."""
  mesh = _mesh()
  if mesh is None or mesh.size == 1:
    return run
  split = P(mesh.axis_names)
  second = P() if kernel is not None and kernel.shape[0] == 1 else split
  return jax.shard_map(run, mesh=mesh, in_specs=(split, second), out_specs=split, check_vma=False)


def _convolution(x, kernel, window, size, tile=None):
  """`depthwise`; `size` is the height and width of the result."""
  _, height, width, channels = kernel.shape
  (down, right), (top, left) = window
  tile = tile or _tile(size[1], channels, rows=7)

  def program(x_ref, kernel_ref, y_ref):
    at = _Place(size[1], tile)
    sums = [at.zeros()] * tile.rows
    for q in range(width):
      taps = [at.tap(kernel_ref, p, q) for p in range(height)]
      for i in range((tile.rows - 1) * down + height):
        seen = at.load(x_ref, at.row * down + i - top, at.columns * right + q - left)
        for r in range(tile.rows):
          if 0 <= i - r * down < height:
            sums[r] += seen * taps[i - r * down]
    for r, total in enumerate(sums):
      at.store(y_ref, at.row + r, at.columns, total)

  shape = (x.shape[0], *size, channels)
  return _call(program, 'depthwise', shape, x.dtype, shape, tile)(x, kernel)


def _image_gradient(dy, kernel, window, size, tile=None):
  """Image gradient `[b, *size, c]`; pixels equal modulo the stride see the same taps."""
  b, height, width, channels = dy.shape[0], *kernel.shape[1:]
  (down, right), (top, left) = window
  coarse = [_blocks(n, s) for n, s in zip(size, window.strides, strict=True)]
  tile = tile or _tile(coarse[1], channels, rows=7 if down == 1 else 2)

  def taps_from(count, stride, pad):
    """{offset from a pixel's own row of `dy` to one that it contributed to: {remainder: tap}}."""
    steps = {}
    for remainder in range(stride):
      for tap in range(count):
        step, rest = divmod(remainder + pad - tap, stride)
        if not rest:
          steps.setdefault(step, {})[remainder] = tap
    return steps

  rows_from, columns_from = taps_from(height, down, top), taps_from(width, right, left)

  def program(dy_ref, kernel_ref, dx_ref):
    at = _Place(coarse[1], tile)
    sums = {
      (r, a, e): at.zeros() for r in range(tile.rows) for a in range(down) for e in range(right)
    }
    for across, by_column in columns_from.items():
      taps = {(p, e): at.tap(kernel_ref, p, q) for e, q in by_column.items() for p in range(height)}
      for i in range(min(rows_from), max(rows_from) + tile.rows):
        own = at.load(dy_ref, at.row + i, at.columns + across)
        for r in range(tile.rows):
          for a, p in rows_from.get(i - r, {}).items():
            for e in by_column:
              sums[r, a, e] += own * taps[p, e]
    for (r, a, e), total in sums.items():
      at.store(dx_ref, (at.row + r) * down + a, at.columns * right + e, total)

  grid, shape = (b, *coarse, channels), (b, *size, channels)
  return _call(program, 'depthwise_image_gradient', grid, dy.dtype, shape, tile)(dy, kernel)


def _kernel_gradient(x, dy, window, taps, tile=None):
  """Kernel gradient of each image separately, float32 `[b, p, q, c]`."""
  b, rows, columns, channels = dy.shape
  height, width = taps
  (down, right), (top, left) = window
  # A row of `dy` meets rows of `x` below it, so it is kept while the program moves down by strides.
  kept = _blocks(height, down)
  steps = rows + kept - 1
  # Elements per thread of each sum: the registers hold many only if there are few sums.
  numbers = 8 if height * width <= 9 else 1
  tile = tile or _tile(columns, channels, rows=8, numbers=32 * numbers, warps=1)

  def program(x_ref, dy_ref, sums_ref):
    at = _Place(tile.columns, tile)

    def over_columns(n, sums):
      own_columns = n * tile.columns + at.columns

      def over_rows(step, carried):
        recent, sums = carried
        recent, sums = (at.load(dy_ref, step, own_columns), *recent[:-1]), list(sums)
        for a in range(down):
          for q in range(width):
            seen = at.load(x_ref, step * down + a - top, own_columns * right + q - left)
            for p in range(a, height, down):
              sums[p * width + q] += seen * recent[p // down]
        return recent, tuple(sums)

      before = [at.load(dy_ref, at.row - back, own_columns) for back in range(1, kept)]
      start = ((*before, at.zeros()), sums)
      return jax.lax.fori_loop(at.row, at.row + tile.rows, over_rows, start)[1]

    zeros = (at.zeros(),) * (height * width)
    sums = jax.lax.fori_loop(0, _blocks(columns, tile.columns), over_columns, zeros)
    for n, total in enumerate(sums):
      own = sums_ref.at[at.image, pl.program_id(1), n // width, n % width, at.channels[0]]
      triton.store(own, total.sum(0), mask=at.channels[0] < channels)

  grid = (b, steps, tile.columns, channels)
  shape = (b, _blocks(steps, tile.rows), *taps, channels)
  name = 'depthwise_kernel_gradient'
  return _call(program, name, grid, jnp.float32, shape, tile)(x, dy).sum(1)


def _blocks(size, block):
  return -(-size // block)


def _tile(width, channels, rows, numbers=1024, warps=4):
  """The tile of `numbers` elements per row with the fewest outside the image or its channels."""

  def covered(tile):
    across = _blocks(width, tile.columns) * tile.columns
    return across * _blocks(channels, tile.channels) * tile.channels

  shapes = [(numbers // n, n) for n in (128, 64, 32, 16) if n <= numbers]
  return min((Tile(rows, *shape, warps) for shape in shapes), key=covered)


def _call(program, name, grid, dtype, shape, tile):
  """Runs `program` for all tiles of `grid`, `[b, h, w, c]`."""
  b, height, width, channels = grid
  return pl.pallas_call(
    program,
    out_shape=jax.ShapeDtypeStruct(shape, dtype),
    grid=(
      _blocks(channels, tile.channels),
      _blocks(height, tile.rows) * _blocks(width, tile.columns),
      b,
    ),
    compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=1),
    interpret=target.platform() != 'gpu',
    name=name,
  )


class _Place:
  """The tile that a program works on, in images `width` wide.

  Attributes:
    image: its index.
    row: the tile's first row.
    columns: their indices, `[columns, 1]`.
    channels: their indices, `[1, channels]`.
  """

  def __init__(self, width, tile):
    across = _blocks(width, tile.columns)
    self.shape = (tile.columns, tile.channels)
    self.image = pl.program_id(2)
    self.row = pl.program_id(1) // across * tile.rows
    self.columns = (pl.program_id(1) % across * tile.columns + jnp.arange(tile.columns))[:, None]
    self.channels = (pl.program_id(0) * tile.channels + jnp.arange(tile.channels))[None]

  def zeros(self):
    return jnp.zeros(self.shape, jnp.float32)

  def load(self, ref, row, columns):
    """A row's `[columns, channels]`, float32, zero outside the image."""
    own, inside = self._of(ref, row, columns)
    return triton.load(own, mask=inside, other=0.0).astype(jnp.float32)

  def store(self, ref, row, columns, values):
    own, inside = self._of(ref, row, columns)
    triton.store(own, values.astype(ref.dtype), mask=inside)

  def tap(self, ref, p, q):
    """A tap, repeated for all columns: each thread loads its own, and none waits for another."""
    image = 0 if ref.shape[0] == 1 else self.image
    channels = jnp.broadcast_to(self.channels, self.shape)
    inside = channels < ref.shape[3]
    return triton.load(ref.at[image, p, q, channels], mask=inside, other=0.0).astype(jnp.float32)

  def _of(self, ref, row, columns):
    _, height, width, depth = ref.shape
    inside = (row >= 0) & (row < height) & (columns >= 0) & (columns < width)
    columns, channels = (jnp.broadcast_to(n, self.shape) for n in (columns, self.channels))
    return ref.at[self.image, row, columns, channels], inside & (channels < depth)
