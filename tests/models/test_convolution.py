"""Every form of the convolution against XLA's own, image by image."""

import functools

import jax
from jax import lax
from jax.extend import core
import jax.numpy as jnp
import numpy as np
from programs import collectives
import pytest

from basisnet_jax import sharding
from basisnet_jax.models import convolution, target

ASYMMETRIC = ((2, 1), (0, 3))
# kernel, strides, (height, width), padding, dilation, groups, channels in, channels out
POINTWISE = [
  ((1, 1), (1, 1), (7, 9), 'SAME', (1, 1), 1, 3, 5),
  ((1, 1), (2, 2), (7, 9), 'SAME', (1, 1), 1, 3, 5),
  ((1, 1), (2, 2), (8, 8), 'VALID', (1, 1), 1, 3, 5),
  ((1, 1), (1, 2), (8, 8), ASYMMETRIC, (1, 1), 1, 3, 5),
]
DEPTHWISE = [
  ((1, 1), (2, 2), (7, 9), 'SAME', (1, 1), 4, 4, 4),
  ((3, 3), (1, 1), (7, 9), 'SAME', (1, 1), 4, 4, 4),
  ((3, 3), (1, 1), (8, 8), 'VALID', (1, 1), 4, 4, 4),
  ((3, 3), (2, 2), (7, 9), 'SAME', (1, 1), 4, 4, 4),
  ((3, 3), (2, 2), (8, 8), 'SAME', (1, 1), 4, 4, 4),
  ((3, 3), (2, 2), (8, 8), 'VALID', (1, 1), 4, 4, 4),  # Never reads the last row and column.
  ((3, 3), (2, 2), (7, 9), ASYMMETRIC, (1, 1), 4, 4, 4),
  ((5, 5), (1, 1), (8, 8), ASYMMETRIC, (1, 1), 4, 4, 4),
  ((5, 5), (2, 2), (7, 9), 'SAME', (1, 1), 4, 4, 4),
  ((5, 5), (2, 2), (8, 8), 'VALID', (1, 1), 4, 4, 4),
  ((5, 3), (2, 1), (7, 9), 'SAME', (1, 1), 4, 4, 4),
  ((7, 7), (1, 1), (7, 9), 'VALID', (1, 1), 4, 4, 4),
  ((7, 7), (2, 2), (8, 8), 'SAME', (1, 1), 4, 4, 4),
]
DENSE = [
  ((3, 3), (1, 1), (7, 9), 'SAME', (1, 1), 1, 3, 5),
  ((3, 3), (2, 2), (7, 9), 'SAME', (1, 1), 1, 3, 5),
  ((3, 3), (2, 2), (8, 8), 'VALID', (1, 1), 1, 3, 5),
  ((5, 5), (1, 1), (8, 8), 'SAME', (1, 1), 1, 3, 5),
  ((5, 5), (2, 2), (7, 9), ASYMMETRIC, (1, 1), 1, 3, 5),
  ((7, 7), (2, 2), (8, 8), 'SAME', (1, 1), 1, 3, 5),
  ((3, 3), (1, 1), (7, 9), 'SAME', (2, 2), 1, 3, 5),
  ((3, 3), (2, 2), (8, 8), 'VALID', (2, 1), 1, 3, 5),
  ((1, 1), (1, 1), (7, 9), 'SAME', (1, 1), 2, 4, 6),  # Grouped.
  ((3, 3), (2, 2), (7, 9), 'SAME', (1, 1), 2, 4, 6),
  ((3, 3), (1, 1), (8, 8), 'SAME', (1, 1), 4, 4, 8),  # Two filters per channel.
  ((3, 3), (1, 1), (7, 9), 'SAME', (2, 2), 4, 4, 4),  # Depthwise, dilated.
]


def arrays(case, per_image, batch=3):
  kernel, _, size, _, _, groups, inputs, outputs = case
  rng = np.random.default_rng(0)
  x = rng.normal(size=(batch, *size, inputs))
  shape = (*kernel, inputs // groups, outputs)
  w = rng.normal(size=(batch, *shape) if per_image else shape)
  return x.astype(np.float32), w.astype(np.float32)


def ours(case, x, w):
  _, strides, _, padding, dilation, groups, _, _ = case
  return convolution.convolve(
    x, w, strides=strides, padding=padding, dilation=dilation, groups=groups
  )


def judge(case, x, w):
  """XLA's convolution; for per-image kernels a python loop over the images."""
  if w.ndim == 5:
    return jnp.concatenate([judge(case, x[i : i + 1], w[i]) for i in range(len(x))])
  _, strides, _, padding, dilation, groups, _, _ = case
  return lax.conv_general_dilated(
    x,
    w,
    strides,
    padding,
    rhs_dilation=dilation,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def values_and_gradients(function, x, w, form='auto'):
  """The result and its gradients by images and kernel, for a fixed random cotangent."""

  def run(x, w):
    with convolution.form(form):
      y, back = jax.vjp(function, x, w)
    cotangent = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
    return y, *back(cotangent)

  return jax.jit(run)(x, w)


def assert_same(case, x, w, form='auto'):
  expected = values_and_gradients(functools.partial(judge, case), x, w)
  actual = values_and_gradients(functools.partial(ours, case), x, w, form)
  for name, a, b in zip(('values', 'by images', 'by kernel'), actual, expected, strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype, name
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=5e-5, err_msg=name)


@pytest.mark.parametrize('case', [*POINTWISE, *DEPTHWISE, *DENSE], ids=str)
def test_per_image_kernels_equal_a_convolution_of_each_image(case):
  assert_same(case, *arrays(case, per_image=True))


@pytest.mark.parametrize('case', [POINTWISE[1], DEPTHWISE[3], DENSE[1]], ids=str)
def test_the_kernel_of_one_image_is_shared_by_all_images(case):
  x, w = arrays(case, per_image=True)
  assert_same(case, x[:1], w[:1])
  program = jax.jit(functools.partial(ours, case)).lower(x[:1], w[:1]).as_text()
  shared = jax.jit(functools.partial(ours, case)).lower(x[:1], w[0]).as_text()
  # The same operations, and no patches.
  assert program.count('stablehlo.concatenate') == shared.count('stablehlo.concatenate')


@pytest.mark.parametrize('height', [1, 2, 7, 8, 13, 14])
@pytest.mark.parametrize('backend', ['cpu', 'gpu'])
def test_depthwise_gradients_are_right_whatever_the_rows_and_the_backend(
  backend, height, monkeypatch
):
  monkeypatch.setattr(target, 'platform', lambda: backend)
  case = DEPTHWISE[3]  # Its images are 7 rows high, its stride is 2.
  x, w = arrays(case, per_image=True)
  x = jnp.concatenate([x, x, x, x], axis=1)[:, : 2 * height]
  assert_same(case, x, w)


@pytest.mark.parametrize('case', [*POINTWISE, *DEPTHWISE[::2], *DENSE[:8], DENSE[10]], ids=str)
def test_shared_kernels_equal_the_convolution_in_its_fastest_form(case):
  assert_same(case, *arrays(case, per_image=False))


@pytest.mark.parametrize('form', ['plain', 'shift', 'native'])
@pytest.mark.parametrize('case', [POINTWISE[1], DEPTHWISE[3], DENSE[1]], ids=str)
def test_shared_kernels_equal_the_convolution_in_every_form(case, form):
  assert_same(case, *arrays(case, per_image=False), form)


@pytest.mark.parametrize('case', [DEPTHWISE[i] for i in (0, 3, 6, 7, 8, 10)], ids=str)
def test_kernels_for_gpus_equal_the_convolution(case):
  assert_same(case, *arrays(case, per_image=True), 'pallas')


@pytest.mark.parametrize('case', DEPTHWISE[1:4:2], ids=str)
def test_kernels_for_gpus_equal_the_convolution_with_a_shared_kernel(case):
  assert_same(case, *arrays(case, per_image=False), 'pallas')


@pytest.mark.parametrize('size', [(1, 1), (15, 3), (2, 70)], ids=str)
def test_kernels_for_gpus_equal_the_convolution_in_several_tiles(size):
  case = ((3, 3), (1, 1), size, 'SAME', (1, 1), 150, 150, 150)
  assert_same(case, *arrays(case, per_image=True, batch=2), 'pallas')


@pytest.mark.parametrize('per_image', [False, True])
def test_kernels_for_gpus_stay_on_their_devices(per_image):
  case, mesh = DEPTHWISE[3], sharding.create_mesh()
  x, w = arrays(case, per_image, batch=16)
  split, whole = sharding.over_data(mesh), sharding.replicated(mesh)

  def run(x, w):
    with convolution.form('pallas'):
      y, back = jax.vjp(functools.partial(ours, case), x, w)
      return y, *back(y)

  of_kernel = split if per_image else whole
  placed = {'in_shardings': (split, of_kernel), 'out_shardings': (split, split, of_kernel)}
  program = jax.jit(sharding.inside(mesh, run), **placed).lower(x, w).compile()
  # A shared kernel's gradient is a sum over all images.
  assert collectives(program.as_text()) == (set() if per_image else {'all-reduce'})
  for found, expected in zip(program(x, w), jax.jit(run)(x, w), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('per_image', [False, True])
@pytest.mark.parametrize('form', ['auto', 'pallas'])
@pytest.mark.parametrize('case', [POINTWISE[0], DEPTHWISE[3], DENSE[1]], ids=str)
def test_bfloat16_stays_bfloat16_and_near_float32(case, form, per_image):
  x, w = (jnp.asarray(a, jnp.bfloat16) for a in arrays(case, per_image))
  y, dx, dw = values_and_gradients(functools.partial(ours, case), x, w, form)
  assert y.dtype == dx.dtype == dw.dtype == jnp.bfloat16
  expected = judge(case, x.astype(jnp.float32), w.astype(jnp.float32))
  np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=0.01, atol=0.02)


def primitives(jaxpr):
  """Names of all primitives, inner jaxprs included."""
  for equation in jaxpr.eqns:
    yield equation.primitive.name
    for inner in core.jaxprs_in_params(equation.params):
      yield from primitives(inner)


@pytest.mark.parametrize('case', [*POINTWISE[:2], *DEPTHWISE[1:4:2], *DENSE[::4]], ids=str)
def test_per_image_kernels_never_become_a_grouped_convolution(case):
  # A convolution with the batch in its groups is many times slower, and its gradient takes
  # gigabytes; see the module.
  x, w = arrays(case, per_image=True)

  def loss(x, w):
    return (ours(case, x, w) ** 2).sum()

  names = set(primitives(jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(x, w).jaxpr))
  assert 'conv_general_dilated' not in names
  assert names & {'dot_general', 'mul'}  # The walk saw something.


@pytest.mark.parametrize(
  ('form', 'is_convolution'),
  [('plain', True), ('shift', False), ('auto', False), ('native', True)],
)
def test_form_chooses_how_shared_depthwise_kernels_run(form, is_convolution):
  x, w = arrays(DEPTHWISE[1], per_image=False)
  with convolution.form(form):
    jaxpr = jax.make_jaxpr(functools.partial(ours, DEPTHWISE[1]))(x, w).jaxpr
  # 'auto' shifts on the CPU that tests run on.
  assert ('conv_general_dilated' in set(primitives(jaxpr))) == is_convolution


def test_form_is_restored_also_after_an_error():
  with pytest.raises(RuntimeError), convolution.form('plain'):
    raise RuntimeError
  x, w = arrays(POINTWISE[0], per_image=False)
  jaxpr = jax.make_jaxpr(functools.partial(ours, POINTWISE[0]))(x, w).jaxpr
  assert 'conv_general_dilated' not in set(primitives(jaxpr))


def test_unknown_form_is_refused():
  with pytest.raises(ValueError, match="'auto', 'plain', 'shift'"), convolution.form('fast'):
    pass


def test_gradient_of_depthwise_keeps_no_copy_per_tap():
  # The reason for its own gradient: the automatic one keeps 25 slices of the images.
  case = ((5, 5), (1, 1), (8, 8), 'SAME', (1, 1), 4, 4, 4)
  x, w = arrays(case, per_image=True)
  _, back = jax.vjp(functools.partial(ours, case), x, w)
  kept = sum(leaf.size for leaf in jax.tree.leaves(back))
  assert x.size < kept < 4 * x.size  # The images with their padding, and the kernels.


def test_replacement_for_flax_handles_what_convolve_does_not():
  # One dimension, and a transposed convolution: both go to XLA unchanged.
  rng = np.random.default_rng(0)
  line, taps = rng.normal(size=(2, 9, 3)), rng.normal(size=(3, 3, 5))
  numbers = ('NWC', 'WIO', 'NWC')
  np.testing.assert_array_equal(
    convolution.conv_general_dilated(line, taps, (1,), 'SAME', dimension_numbers=numbers),
    lax.conv_general_dilated(line, taps, (1,), 'SAME', dimension_numbers=numbers),
  )
  x, w = arrays(DENSE[0], per_image=False)
  arguments = ((1, 1), ((1, 1), (2, 0)), (2, 2), None, ('NHWC', 'HWIO', 'NHWC'))
  np.testing.assert_array_equal(
    convolution.conv_general_dilated(x, w, *arguments), lax.conv_general_dilated(x, w, *arguments)
  )
