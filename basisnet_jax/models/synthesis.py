"""The specialist: a plain Flax network whose layers blend K bases into one kernel per image.

The network is not aware of this. While it runs inside `lifted`, each chosen `nn.Conv`,
`nn.Dense` or `nn.DenseGeneral` holds a stack `bases [K, *kernel]` in place of its
kernel, in its own scope (`specialist/block_3/expand/conv/bases`), and runs with
`kernel[b] = einsum('bk,k...->b...', coefficients, bases)`. Biases, normalisation and
every layer that is not chosen stay shared by all images. A layer's own `precision`,
`dot_general` and `conv_general_dilated` do not apply while it is lifted.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import inspect
import math
import re

from flax import linen as nn
import jax
import jax.numpy as jnp

from basisnet_jax.models import convolution, memory

SCOPE = 'synthesize'  # In the names of operations, so that exports find them.
# Bases times positions up to which mixing outputs is faster than making kernels (2 CPU cores).
_MIX_AT_MOST = 32
# A batch size that no other axis is likely to have: it shows which layers see whole images.
_PROBE_BATCH = 13


def synthesize(coefficients, bases, dtype=None):
  """Blends bases into one kernel per image (Zhang et al. 2021): one matrix product.

  For one image on CPU it is a weighted sum, which reads bases of any dtype as they are stored.

  Args:
    coefficients: `[b, K]`.
    bases: `[K, *kernel]`.
    dtype: of the result; None is that of `bases`.

  Returns:
    `[b, *kernel]`.
  """
  dtype = dtype or bases.dtype
  num_bases, *shape = bases.shape
  # Depthwise kernels are small, and XLA would recompute their sum for every pixel.
  if coefficients.shape[0] == 1 and convolution.runs_on_cpu() and not are_depthwise(bases):
    c = coefficients[0].astype(jnp.float32)
    # Unknown to XLA, which would otherwise convert stored constants to float32 at compile time.
    first = 0 if bases.dtype == jnp.float32 else jnp.isnan(c[0]).astype(jnp.int32)
    bases = jnp.asarray(bases)  # NumPy arrays take no traced index.
    total = sum(c[k] * bases[first + k].astype(jnp.float32) for k in range(num_bases))
    return total.astype(dtype)[None]
  bases = bases.astype(dtype).reshape(num_bases, -1)
  with jax.named_scope(SCOPE):
    return convolution.product(coefficients.astype(dtype), bases).reshape(-1, *shape)


def mix_outputs(x, coefficients, bases):
  """Runs a matrix layer with blended bases, without making kernels: sum_k c[b, k] x[b] W[k].

  The result is that of a product with `synthesize`'s kernel. It takes K products per position
  instead of one, but in a single large matrix product and without memory for batch times the
  weights, which is faster for few positions (after global pooling: one).

  Args:
    x: `[b, ..., i]`.
    coefficients: `[b, K]`.
    bases: `[K, ..., i, o]`, extra axes of size one (a 1x1 convolution).

  Returns:
    `[b, ..., o]`.
  """
  num_bases, (inputs, outputs) = bases.shape[0], bases.shape[-2:]
  c = coefficients.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 2), num_bases, 1)
  weighted = (c * x[..., None, :]).reshape(-1, num_bases * inputs)
  y = convolution.product(weighted, bases.reshape(num_bases * inputs, outputs))
  return y.reshape(*x.shape[:-1], outputs)


def call(network: nn.Module, images, train: bool):
  """Calls `network(images, train=train)`, without `train` if it takes none."""
  if 'train' in inspect.signature(network.__call__).parameters:
    return network(images, train=train)
  return network(images)


def based_layers(network: nn.Module, image_shape, pattern: str = '') -> dict[str, tuple[int, ...]]:
  """Lists the layers of a plain network that can hold bases.

  They are the 2-D `nn.Conv`, `nn.Dense` and `nn.DenseGeneral` over the last axes (as in stock
  Flax's attention) whose input's first axis is the batch. Not listed, and so shared by all images:
  subclasses (they may compute something else), what `nn.WeightNorm` or `nn.SpectralNorm` wraps,
  masked, periodic, reflected or transposed convolutions, and layers on images cut into parts.

  Args:
    network: any Flax module that maps images to logits.
    image_shape: `(height, width, channels)`.
    pattern: regular expression; only layers whose path (`block_3/expand/conv`) it
      matches from the start are listed.

  Returns:
    {path: shape of the plain kernel}, in the order in which the layers run.
  """
  layers = {}

  def record(next_fun, args, kwargs, context):
    module = context.module
    if context.method_name == '__call__' and _can_hold_bases(module):
      shape = layer_input(args, kwargs).shape
      sees_images = shape[0] == _PROBE_BATCH and (len(shape) == 4 or type(module) is not nn.Conv)
      path = '/'.join(module.path)
      if sees_images and re.match(pattern, path):
        layers[path] = _kernel_shape(module, shape)
    known, outputs = set(layers), next_fun(*args, **kwargs)
    if isinstance(module, nn.WeightNorm | nn.SpectralNorm):  # What they normalise is a kernel.
      for path in layers.keys() - known:
        del layers[path]
    return outputs

  def init(images):
    rngs = {name: jax.random.key(0) for name in ('params', 'dropout')}
    with nn.intercept_methods(record):
      return network.init_with_output(rngs, images, method=lambda m, x: call(m, x, False))

  jax.eval_shape(init, jax.ShapeDtypeStruct((_PROBE_BATCH, *image_shape), jnp.float32))
  return layers


@contextlib.contextmanager
def lifted(root: tuple[str, ...], coefficients: Mapping[str, jax.Array]) -> Iterator[None]:
  """Context in which the named layers below `root` run with one blended kernel per image.

  Args:
    root: the path of the specialist in its parent module.
    coefficients: {path of the layer below root: `[b, K]`}.
  """
  wait = memory.in_turn()

  def intercept(next_fun, args, kwargs, context):
    blend = coefficients.get(_called_below(root, context))
    if blend is None or not _can_hold_bases(context.module):
      return next_fun(*args, **kwargs)
    x = layer_input(args, kwargs)
    if x.shape[0] == 1 and convolution.runs_on_cpu():
      blend = wait(blend, x)
    return _run_lifted(context.module, x, blend)

  with nn.intercept_methods(intercept):
    yield


@contextlib.contextmanager
def routed(root: tuple[str, ...], groups: Mapping[str, Sequence[str]], route) -> Iterator[None]:
  """Context in which layers below `root` run lifted, by coefficients made on the way.

  Args:
    root: the path of the network in its parent module.
    groups: {path of a module below root: paths of the layers, in it or itself, whose
      coefficients its input sets}.
    route: maps such a module and its input to the coefficients, `[b, K]`. It is called in
      the module's scope and may add parameters there.
  """

  def intercept(next_fun, args, kwargs, context):
    module, path = context.module, _called_below(root, context)
    if path not in groups:
      return next_fun(*args, **kwargs)
    x = layer_input(args, kwargs)
    coefficients = route(module, x)
    if groups[path] == [path]:
      return _run_lifted(module, x, coefficients)
    with lifted(root, dict.fromkeys(groups[path], coefficients)):
      return next_fun(*args, **kwargs)

  with nn.intercept_methods(intercept):
    yield


def correlated(params, correlation: float):
  """Makes fresh bases alike, each still distributed as its layer draws a kernel.

  Independent bases cancel each other in a blend: its weights start sqrt(K) times smaller than a
  plain kernel's, and what distinguishes two images' kernels is noise. Equal bases would stay equal.

  Args:
    params: of any network, with bases `[K, *kernel]` drawn independently.
    correlation: between the same weight of two bases, in [0, 1]; 0 changes nothing.

  Returns:
    The same tree, with bases times the symmetric square root of their correlation matrix, which
    keeps the variance of each weight.
  """

  def correlate(path, leaf):
    if getattr(path[-1], 'key', None) != 'bases':
      return leaf
    own, num_bases = math.sqrt(1 - correlation), leaf.shape[0]
    # (own I + common 11')^2 has ones on its diagonal and the correlation everywhere else.
    common = (math.sqrt(1 - correlation + num_bases * correlation) - own) / num_bases
    return own * leaf + common * leaf.sum(0)

  return jax.tree_util.tree_map_with_path(correlate, params) if correlation else params


def are_depthwise(bases) -> bool:
  """Whether bases `[K, *kernel]` belong to a layer with one filter per channel."""
  return bases.ndim == 5 and bases.shape[-2] == 1


def _called_below(root, context) -> str | None:
  """The path below `root` of a module in `__call__`; None elsewhere or in other methods."""
  path = context.module.path
  if context.method_name != '__call__' or path[: len(root)] != root:
    return None
  return '/'.join(path[len(root) :])


def layer_input(args, kwargs):
  """The input of an intercepted call of a layer, passed by position or by name."""
  return args[0] if args else kwargs['inputs']


def _run_lifted(module, x, coefficients):
  """Runs `module(x)` with bases in place of its kernel."""
  shape = _kernel_shape(module, x.shape)
  num_bases = coefficients.shape[-1]
  bases = module.param('bases', _init_bases(module), (num_bases, *shape), module.param_dtype)
  if module.has_variable('params', 'scales'):  # From `inference.storage`.
    coefficients = coefficients * module.get_variable('params', 'scales')
  bias = None
  if module.use_bias:
    bias = module.param('bias', module.bias_init, shape[_num_inputs(module) :], module.param_dtype)
  x, promoted, bias = module.promote_dtype(x, bases, bias, dtype=module.dtype)

  positions = math.prod(x.shape[1:-1])
  if _is_matrix(module) and x.shape[0] != 1 and num_bases * positions <= _MIX_AT_MOST:
    y = mix_outputs(x, coefficients, promoted)
  else:
    operation, blend = _operation(module), functools.partial(synthesize, dtype=x.dtype)
    if convolution.runs_on_cpu() and x.shape[0] != 1:
      y = memory.made_again(blend, operation)(x, coefficients, bases)
    else:  # A kernel per image is batch times the weights: cheaper to blend again than to keep.
      y = jax.checkpoint(lambda c, b, x: operation(x, blend(c, b)))(coefficients, bases, x)
  return y if bias is None else y + bias


def _is_matrix(module) -> bool:
  """Whether the layer multiplies the last axis by a matrix at every position."""
  if isinstance(module, nn.Conv):
    return (
      set(module.kernel_size) == set(_pair(module.strides)) == {1}
      and module.feature_group_count == 1
      and _padding(module.padding) in ('SAME', 'VALID', ((0, 0), (0, 0)))
    )
  return isinstance(module, nn.Dense)


def _operation(module):
  if isinstance(module, nn.Conv):
    return functools.partial(
      convolution.convolve,
      strides=_pair(module.strides),
      padding=_padding(module.padding),
      dilation=_pair(module.kernel_dilation),
      groups=module.feature_group_count,
    )
  return functools.partial(_dense, axes=_axes(module) if isinstance(module, nn.DenseGeneral) else 1)


def _dense(x, kernel, axes):
  """`x [b, ..., *inputs]` times `kernel [b, *inputs, *features]` over the last `axes` axes."""
  inputs, features = kernel.shape[1 : 1 + axes], kernel.shape[1 + axes :]
  kernel = kernel.reshape(kernel.shape[0], math.prod(inputs), math.prod(features))
  lead = x.shape[: x.ndim - axes]
  y = convolution.product(x.reshape(lead[0], -1, math.prod(inputs)), kernel)
  return y.reshape(*lead, *features)


def _can_hold_bases(module) -> bool:
  if type(module) is nn.Conv:
    return (
      not isinstance(module.kernel_size, int)
      and len(module.kernel_size) == 2
      and module.mask is None
      and set(_pair(module.input_dilation)) == {1}
      and module.padding not in ('CIRCULAR', 'CAUSAL', 'REFLECT')
    )
  if type(module) is nn.DenseGeneral:
    return _axes(module) is not None and not module.batch_dims
  return type(module) is nn.Dense


def _axes(module: nn.DenseGeneral):
  """How many of the last axes the layer contracts; None if it contracts others."""
  axis = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
  return len(axis) if axis == tuple(range(-len(axis), 0)) else None


def _num_inputs(module) -> int:
  """How many leading axes of the kernel are not output features."""
  if isinstance(module, nn.Conv):
    return 3
  return _axes(module) if isinstance(module, nn.DenseGeneral) else 1


def _kernel_shape(module, input_shape) -> tuple[int, ...]:
  if isinstance(module, nn.Conv):
    return (
      *module.kernel_size,
      input_shape[-1] // module.feature_group_count,
      module.features,
    )
  if isinstance(module, nn.DenseGeneral):
    features = (module.features,) if isinstance(module.features, int) else tuple(module.features)
    return (*input_shape[-_axes(module) :], *features)
  return (input_shape[-1], module.features)


def _init_bases(module):
  """An initializer of `[K, *kernel]`: an independent draw per basis, with a kernel's fan-in."""

  def init(key, shape, dtype):
    num_bases, *shape = shape
    if isinstance(module, nn.DenseGeneral):  # It initialises a matrix, then reshapes it.
      inputs = _num_inputs(module)
      matrix = (math.prod(shape[:inputs]), math.prod(shape[inputs:]))
    else:
      matrix = tuple(shape)
    # vmap, because K separate draws in every layer make XLA compile `init` for minutes.
    # Unboxed, because a network's partitioning of its kernels does not apply to bases.
    draw = jax.vmap(lambda k: nn.meta.unbox(module.kernel_init(k, matrix, dtype)))
    return draw(jax.random.split(key, num_bases)).reshape(num_bases, *shape)

  return init


def _pair(value) -> tuple[int, int]:
  if value is None:
    return (1, 1)
  return (value, value) if isinstance(value, int) else tuple(value)


def _padding(padding):
  """`nn.Conv`'s padding (a name, a number, a number or a pair per axis) as `convolve`'s."""
  if isinstance(padding, str):
    return padding
  if isinstance(padding, int):
    return ((padding, padding),) * 2
  return tuple((p, p) if isinstance(p, int) else tuple(p) for p in padding)
