"""Convolution with one kernel for all images or one per image, in its fast forms.

Every function but `product` takes images `x [b, h, w, i]` and a kernel that is either shared,
`[p, q, i / groups, o]`, or per image, `[b, p, q, i / groups, o]`, and returns
`[b, h', w', o]` in the dtype of `x`.

Which form runs (measured on 2 CPU cores, against the plain XLA convolution):
  1x1            a matrix product; with per-image kernels it costs the same as with a shared one,
                 whereas `vmap` of a convolution is 4-7x slower.
  depthwise      shift, multiply, add over the p * q taps, with its own gradient: 8-20x
                 faster on CPU. On GPUs Pallas kernels run instead (`depthwise_pallas`);
                 on TPUs only per-image kernels take this form.
  3x3 on 3 channels, on CPU: likewise shift, multiply, add, over taps and channels (a network's
                 first layer): 2-3x faster.
  other, shared  `lax.conv_general_dilated`.
  other, per image  patches by slicing and one batched matrix product. Neither this nor the
                 other per-image forms communicate when the batch is sharded.
"""

import contextlib
import contextvars
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.models import depthwise_pallas, memory, target

# A dense convolution of at most this many products per output element runs by shifts on CPU:
# 3x3 taps of the three channels of an image.
_FEW_PRODUCTS = 27
FORMS = ('auto', 'plain', 'shift', 'pallas', 'native', 'onnx')
_form = contextvars.ContextVar('form', default='auto')


@contextlib.contextmanager
def form(name: str):
  """Chooses the form of shared-kernel convolutions that are traced in this context.

  'auto' is the fastest on this backend; 'plain' is always `lax.conv_general_dilated` (to count
  operations); 'shift' is what is fast on CPU, for all backends (programs that are loaded
  elsewhere); 'pallas' is the GPU form of depthwise ones, interpreted where there is no GPU (tests);
  'native' multiplies by 1x1 kernels and leaves the others to `lax.conv_general_dilated`, as suits
  phone runtimes; 'onnx' is the plain form with bases and pixels blended by matrix products.
  """
  if name not in FORMS:
    raise ValueError(f'form is one of {FORMS}, not {name!r}')
  token = _form.set(name)
  try:
    yield
  finally:
    _form.reset(token)


def runs_on_cpu() -> bool:
  """Whether the traced program is for a CPU: of this machine, or of one that loads an export."""
  kind = _form.get()
  return kind == 'shift' or target.platform() == 'cpu' and kind not in ('native', 'onnx')


def blends_by_products() -> bool:
  """Whether the traced program is for a platform on which gathering pixels is slow."""
  kind = _form.get()
  return kind == 'onnx' or kind == 'auto' and target.platform() == 'tpu'


def convolve(x, kernel, *, strides=(1, 1), padding='SAME', dilation=(1, 1), groups=1):
  """2-D convolution of `x` with a shared or a per-image `kernel` (see the module).

  Args:
    x: images, `[b, h, w, i]`.
    kernel: `[p, q, i / groups, o]` or `[b, p, q, i / groups, o]`.
    strides: steps of the window, pixels (rows, columns).
    padding: 'SAME', 'VALID' or `((top, bottom), (left, right))` in pixels.
    dilation: distance between taps, pixels (rows, columns).
    groups: number of channel groups.

  Returns:
    `[b, h', w', o]`.
  """
  if kernel.ndim == 5 and x.shape[0] == 1:
    kernel = kernel[0]  # With a single image, its kernel is a shared one.
  per_image = kernel.ndim == 5
  taps = kernel.shape[-4:-2]
  if isinstance(padding, str):
    window = [(k - 1) * d + 1 for k, d in zip(taps, dilation, strict=True)]
    padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
  pads = [(int(low), int(high)) for low, high in padding]

  kind = _form.get()
  if not per_image and kind in ('plain', 'onnx'):
    return _plain(x, kernel, strides, pads, dilation, groups)
  if taps == (1, 1) and groups == 1:
    x = _pad(x, pads)[:, :: strides[0], :: strides[1]]
    if kind == 'native' and not per_image:
      if x.shape[1] * x.shape[2] == 1:  # LiteRT's converter fails at matrix products here.
        return _plain(x, kernel, (1, 1), [(0, 0)] * 2, (1, 1), 1)
      return x @ kernel[0, 0]  # Its converter would repeat the product for each reshape.
    lead = x.shape[:1] if per_image else ()
    y = product(x.reshape(*lead, -1, x.shape[-1]), kernel[..., 0, 0, :, :])
    return y.reshape(*x.shape[:-1], -1)
  depthwise = groups == x.shape[-1] == kernel.shape[-1] and tuple(dilation) == (1, 1)
  if depthwise:
    kernels = kernel[..., 0, :] if per_image else kernel[None, ..., 0, :]
    if kind == 'pallas' or kind == 'auto' and depthwise_pallas.suit_the_device():
      return depthwise_pallas.depthwise(x, kernels, tuple(strides), tuple(pads))
    if per_image or runs_on_cpu():
      return depthwise_by_shifts(_pad(x, pads), kernels, tuple(strides))
  few = groups == 1 and math.prod(kernel.shape[-4:-1]) <= _FEW_PRODUCTS
  if few and runs_on_cpu():
    kernels = kernel if per_image else kernel[None]
    return few_channels_by_shifts(x, kernels, tuple(strides), tuple(dilation), tuple(pads))
  if per_image:
    return _by_patches(_pad(x, pads), kernel, strides, dilation, groups)
  return _plain(x, kernel, strides, pads, dilation, groups)


def conv_general_dilated(
  lhs,
  rhs,
  window_strides,
  padding,
  lhs_dilation=None,
  rhs_dilation=None,
  dimension_numbers=None,
  feature_group_count=1,
  precision=None,
):
  """`convolve` with the signature that `nn.Conv(conv_general_dilated=...)` calls."""
  if lhs.ndim != 4 or any(d != 1 for d in lhs_dilation or ()):
    return lax.conv_general_dilated(
      lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, dimension_numbers,
      feature_group_count, precision=precision,
    )  # fmt: skip
  return convolve(
    lhs,
    rhs,
    strides=window_strides,
    padding=padding,
    dilation=rhs_dilation or (1, 1),
    groups=feature_group_count,
  )


@jax.custom_vjp
def product(x, weights):
  """`x [..., n, i] @ weights [..., i, o]`, both with the same leading axes.

  The gradient is written out because autodiff would materialise the transposed weights, which on
  CPU costs up to ten times the product.
  """
  return x @ weights


def _product_forward(x, weights):
  return x @ weights, (x, weights)


def _product_backward(residuals, dy):
  x, weights = residuals
  return dy @ weights.mT, jnp.einsum('...ni,...no->...io', x, dy)


product.defvjp(_product_forward, _product_backward)


def _pad(x, pads):
  return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)])


def _plain(x, kernel, strides, pads, dilation, groups):
  return lax.conv_general_dilated(
    x,
    kernel,
    strides,
    pads,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def _taps(x, taps, strides, dilation=(1, 1)):
  """Yields `(p, q, slice of x)`: what each tap of the window sees, `[b, h', w', i]`."""
  b, h, w, c = x.shape
  size = [
    (n - (k - 1) * d - 1) // s + 1
    for n, k, d, s in zip((h, w), taps, dilation, strides, strict=True)
  ]
  for p in range(taps[0]):
    for q in range(taps[1]):
      top, left = p * dilation[0], q * dilation[1]
      bottom, right = top + (size[0] - 1) * strides[0] + 1, left + (size[1] - 1) * strides[1] + 1
      yield p, q, lax.slice(x, (0, top, left, 0), (b, bottom, right, c), (1, *strides, 1))


def _by_patches(x, kernel, strides, dilation, groups):
  """Per-image dense or grouped kernels: `x` is padded, kernel `[b, p, q, i / groups, o]`."""
  b, *taps, inputs, outputs = kernel.shape
  patches = jnp.stack([s for _, _, s in _taps(x, taps, strides, dilation)], axis=3)
  height, width, num_taps = patches.shape[1:4]
  patches = patches.reshape(b, height * width, num_taps, groups, inputs)
  patches = jnp.moveaxis(patches, 3, 1).reshape(b, groups, height * width, num_taps * inputs)
  kernel = kernel.reshape(b, num_taps * inputs, groups, outputs // groups)
  y = product(patches, jnp.moveaxis(kernel, 2, 1))
  return jnp.moveaxis(y, 1, 2).reshape(b, height, width, outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_by_shifts(x, kernel, strides):
  """Depthwise convolution as shift, multiply, add over the taps, summed in float32.

  The gradient is written out because autodiff would keep p * q copies of `x`.

  Args:
    x: padded images, `[b, h, w, c]`.
    kernel: `[b, p, q, c]`, or `[1, p, q, c]` to share one.
    strides: steps of the window, pixels (rows, columns).

  Returns:
    `[b, h', w', c]`.
  """
  y = 0.0
  for p, q, window in _taps(x, kernel.shape[1:3], strides):
    y += window.astype(jnp.float32) * kernel[:, None, None, p, q].astype(jnp.float32)
  return y.astype(x.dtype)


def _depthwise_forward(x, kernel, strides):
  return depthwise_by_shifts(x, kernel, strides), (x, kernel)


def _depthwise_backward(strides, residuals, dy):
  x, kernel = residuals
  dx = _image_gradient(dy, kernel, x.shape[1:3], strides)
  by = _kernel_gradient_by_rows if target.platform() == 'cpu' else _kernel_gradient_by_taps
  dkernel = by(x, dy, kernel.shape[1:3], strides)  # [b, p, q, c]
  if kernel.shape[0] == 1:
    dkernel = dkernel.sum(0, keepdims=True)
  return dx, dkernel.astype(kernel.dtype)


def _image_gradient(dy, kernel, size, strides):
  """Image gradient by phases: rows (and columns) equal modulo the stride see the same taps.

  Those are 1 / stride of the taps in each direction; a zero-dilated `dy` would be multiplied by
  all taps, 2 to 4 times slower.
  """
  counts = [-(-n // s) for n, s in zip(size, strides, strict=True)]
  reach = [(k - 1) // s for k, s in zip(kernel.shape[1:3], strides, strict=True)]
  behind = [count - n for count, n in zip(counts, dy.shape[1:3], strict=True)]
  dy = _pad(dy, list(zip(reach, behind, strict=True)))

  def phase(a, e):
    own = kernel[:, a :: strides[0], e :: strides[1]][:, ::-1, ::-1]
    if not own.size:  # Pixels that a kernel smaller than its stride skips.
      return jnp.zeros((dy.shape[0], *counts, dy.shape[-1]), dy.dtype)
    top, left = reach[0] + 1 - own.shape[1], reach[1] + 1 - own.shape[2]
    return depthwise_by_shifts(dy[:, top:, left:], own, (1, 1))

  rows = [jnp.stack([phase(a, e) for e in range(strides[1])], axis=3) for a in range(strides[0])]
  dx = jnp.stack(rows, axis=2).reshape(dy.shape[0], *np.multiply(counts, strides), -1)
  return dx[:, : size[0], : size[1]]


def _kernel_gradient_by_taps(x, dy, taps, strides):
  """Sums over all positions, one per tap; float32 `[b, p, q, c]`."""
  dy = dy.astype(jnp.float32)
  sums = [(s.astype(jnp.float32) * dy).sum((1, 2)) for _, _, s in _taps(x, taps, strides)]
  return jnp.stack(sums, axis=1).reshape(x.shape[0], *taps, -1)


def _kernel_gradient_by_rows(x, dy, taps, strides):
  """The same sums, over rows first: each row is read once for all taps, while it is in the cache.

  On CPU this is 5 to 10 times faster than one sum per tap, which reads all images p * q times.
  """
  b, height, width, c = dy.shape

  def row(i, sums):
    window = lax.dynamic_slice_in_dim(x, i * strides[0], taps[0], axis=1).astype(jnp.float32)
    own = lax.dynamic_slice_in_dim(dy, i, 1, axis=1).astype(jnp.float32)
    end = (width - 1) * strides[1] + 1
    return tuple(
      total + lax.slice_in_dim(window, q, q + end, strides[1], axis=2) * own
      for q, total in enumerate(sums)
    )

  # Unrolling several rows saves writing the sums each time; unrolling all fuses into slow code.
  unroll = next(n for n in (7, 4, 2, 1) if height % n == 0 and (height > n or n == 1))
  zeros = memory.when_there(jnp.zeros((b, taps[0], width, c), jnp.float32), dy)
  sums = lax.fori_loop(0, height, row, (zeros,) * taps[1], unroll=unroll)
  return jnp.stack([total.sum(2) for total in sums], axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def few_channels_by_shifts(x, kernel, strides, dilation, pads):
  """Convolution as shift, multiply, add over taps and input channels, summed in float32.

  For the first layer, whose images have three channels: on CPU 2-3 times faster than XLA's. The
  gradient pads again instead of keeping padded images; the unpadded ones are kept anyway.

  Args:
    x: images, `[b, h, w, i]`.
    kernel: `[b, p, q, i, o]`, or `[1, p, q, i, o]` to share one.
    strides: steps of the window, pixels (rows, columns).
    dilation: distance between taps, pixels (rows, columns).
    pads: `((top, bottom), (left, right))` in pixels.

  Returns:
    `[b, h', w', o]`.
  """
  x = _pad(x, pads)
  y, own = 0.0, kernel.astype(jnp.float32)[:, None, None]
  for p, q, window in _taps(x, kernel.shape[1:3], strides, dilation):
    for i in range(x.shape[-1]):
      y += window[..., i : i + 1].astype(jnp.float32) * own[..., p, q, i, :]
  return y.astype(x.dtype)


def _few_channels_forward(x, kernel, *window):
  return few_channels_by_shifts(x, kernel, *window), (x, kernel)


def _few_channels_backward(strides, dilation, pads, residuals, dy):
  x, kernel = residuals
  dy = dy.reshape(x.shape[0], -1, dy.shape[-1])
  x = memory.when_there(x, dy)

  def patches(x):
    # What each kernel element sees, [b, p q i, h' w']: faster than with positions first.
    taps = _taps(_pad(x, pads), kernel.shape[1:3], strides, dilation)
    windows = (window for _, _, window in taps)
    seen = [window[..., i] for window in windows for i in range(x.shape[-1])]
    return jnp.stack(seen, axis=1).reshape(x.shape[0], len(seen), -1)

  seen, spread = jax.vjp(patches, x)
  dkernel = (seen @ dy).reshape(x.shape[0], *kernel.shape[1:])
  if kernel.shape[0] == 1:
    dkernel = dkernel.sum(0, keepdims=True)
  (dx,) = spread(kernel.reshape(kernel.shape[0], seen.shape[1], -1) @ dy.mT)
  return dx, dkernel


few_channels_by_shifts.defvjp(_few_channels_forward, _few_channels_backward)
depthwise_by_shifts.defvjp(_depthwise_forward, _depthwise_backward)
