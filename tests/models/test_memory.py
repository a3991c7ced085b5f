"""What the backward pass makes again, and what it does not make too soon."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import lifting
import numpy as np
import pytest

from basisnet_jax.models import convolution, memory, synthesis

IMAGES, BASES, CHANNELS, LAYERS = 16, 4, 64, 6


def blended(x, coefficients, bases):
  return convolution.product(x, synthesis.synthesize(coefficients, bases))


def loss(layer, bases, head, x):
  coefficients = jax.nn.softmax(x.mean(1) @ head)
  for own in bases:
    x = jnp.sin(layer(x, coefficients, own))
  return (x**2).sum()


def draws():
  random = np.random.default_rng(0)
  shapes = (LAYERS, BASES, CHANNELS, CHANNELS), (CHANNELS, BASES), (IMAGES, 9, CHANNELS)
  bases, head, x = (jnp.float32(random.normal(size=shape) / 8) for shape in shapes)
  return list(bases), head, x


def compiled_step(layer):
  def step(bases, head, x):
    gradients = jax.grad(functools.partial(loss, layer), (0, 1))(bases, head, x)
    return jax.tree.map(lambda old, gradient: old - 0.1 * gradient, (bases, head), gradients)

  return jax.jit(step, donate_argnums=(0, 1)).lower(*draws()).compile()


made_again = memory.made_again(synthesis.synthesize, convolution.product)


def test_gradients_are_those_of_kernels_that_are_kept():
  found, wanted = (
    jax.jit(jax.grad(functools.partial(loss, layer), (0, 1, 2)))(*draws())
    for layer in (made_again, blended)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-7), found, wanted)


def test_no_layer_keeps_its_kernels():
  """Judge: what the compiled step holds at once, in kernels of all images."""
  kernels = 4 * IMAGES * CHANNELS**2
  held = [
    compiled_step(layer).memory_analysis().temp_size_in_bytes / kernels
    for layer in (made_again, blended)
  ]
  assert held[1] > LAYERS and held[0] < 4


class Chain(nn.Module):
  """Matrices; those of some layers are made again for their gradients."""

  again: tuple[int, ...] = ()

  @nn.compact
  def __call__(self, x):
    for i in range(2 * LAYERS):
      kind = nn.remat(nn.Dense) if i in self.again else nn.Dense
      x = jnp.sin(kind(CHANNELS, name=f'layer_{i}')(x))
    return x


def chain_of_one_image(**kind):
  """A function of its bases, coefficients and input, and these."""
  network, random = Chain(**kind), np.random.default_rng(0)
  x = jnp.float32(random.normal(size=(1, 50, CHANNELS)))
  params = network.init(jax.random.key(0), x)['params']
  shape = BASES, CHANNELS, CHANNELS
  params = lifting.stack(params, list(params), BASES, lambda *_: random.normal(0, 0.05, shape))
  coefficients = {name: jnp.float32(random.normal(size=(1, BASES))) for name in params}

  def run(params, coefficients, x):
    return lifting.run_lifted(network, {'params': params}, x, coefficients)

  return run, jax.tree.map(jnp.float32, params), coefficients, x


def test_kernels_of_one_image_are_made_shortly_before_their_layers():
  """Judge: what the compiled network holds at once, in kernels."""
  run, *inputs = chain_of_one_image()
  held = jax.jit(run).lower(*inputs).compile().memory_analysis().temp_size_in_bytes
  assert 1 < held / (4 * CHANNELS**2) < 5


@pytest.mark.parametrize('again', [(), (1, 2, 3, 4), (0, 3, 11)])
def test_kernels_of_one_image_that_wait_are_right_and_learn(again):
  """Judge: a product with each layer's kernel, blended before."""
  run, params, coefficients, x = chain_of_one_image(again=again)

  def judge(params, coefficients, x):
    for i in range(len(params)):
      own, blend = params[f'layer_{i}'], coefficients[f'layer_{i}']
      x = jnp.sin(x @ jnp.einsum('bk,kio->bio', blend, own['bases']) + own['bias'])
    return x

  found, wanted = (
    jax.jit(jax.value_and_grad(lambda *a, f=f: (f(*a) ** 2).sum(), (0, 1, 2)))(
      params, coefficients, x
    )
    for f in (run, judge)
  )
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), found, wanted)


@pytest.mark.parametrize('layer', [made_again, blended])
def test_the_optimizer_writes_over_the_bases(layer):
  """Judge: the compiled step copies none, where nobody reads them too late."""
  copied = f'f32[{BASES},{CHANNELS},{CHANNELS}]{{2,1,0}} copy('
  assert (copied in compiled_step(layer).as_text()) == (layer is blended)


@pytest.mark.parametrize('shape', [(3,), (3, 4), (3, 2, 5, 6)])
def test_waiting_changes_no_number(shape):
  x = jnp.float32(np.random.default_rng(0).normal(size=(3, 2, 2)))
  signal = jnp.zeros(shape).at[1].set(jnp.inf)
  np.testing.assert_array_equal(memory.when_there(x, signal), x)
  broken = memory.when_there(x.astype(jnp.bfloat16), signal.at[2].set(jnp.nan))
  assert broken.dtype == jnp.bfloat16
  np.testing.assert_array_equal(jnp.isnan(broken).all((1, 2)), [False, False, True])


def test_sums_of_kernel_gradients_are_not_held_from_the_start():
  """Judge: what the gradient of a chain of depthwise layers holds, by layer."""
  x = jnp.zeros((8, 7, 7, 32))

  def held(layers):
    def loss(kernels, x):
      for kernel in kernels:
        x = jnp.sin(convolution.convolve(x, kernel, groups=32))
      return (x**2).sum()

    step = jax.jit(jax.grad(loss)).lower(jnp.zeros((layers, 5, 5, 1, 32)), x).compile()
    return step.memory_analysis().temp_size_in_bytes

  padded = 4 * 8 * (7 + 4) ** 2 * 32
  # Of each layer its input with borders, and its output, by which the sine's gradient goes.
  assert (held(9) - held(3)) / 6 < padded + 1.1 * x.nbytes


def test_a_stage_made_again_is_not_held_beside_the_next():
  """Judge: what the gradients of two chains, one after the other, hold."""
  random = np.random.default_rng(0)
  weights = jnp.float32(random.normal(size=(2, LAYERS, CHANNELS, CHANNELS)) / 8)
  x = jnp.float32(random.normal(size=(64, 9, CHANNELS)))

  def chain(weights, x):
    for own in weights:
      x = jnp.sin(x @ own)
    return x

  def gradients(stage):
    def loss(weights):
      first, _ = stage(lambda own, x, rest: (chain(own, x), rest))(weights[0], x, {})
      return (chain(weights[1], first) ** 2).sum()

    return jax.jit(jax.grad(loss)).lower(weights).compile()

  again, kept = map(gradients, (memory.stage_made_again, lambda run: run))
  np.testing.assert_allclose(again(weights), kept(weights), 1e-5, 1e-6)
  held = [program.memory_analysis().temp_size_in_bytes for program in (again, kept)]
  # Of each layer, what the sine sees and what it gives; but the stages' end and the next's start.
  assert held[1] - held[0] > 2 * (LAYERS - 2) * x.nbytes
