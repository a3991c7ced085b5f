"""Saves memory on CPU: computes short-lived arrays just when they are needed.

XLA's CPU compiler schedules early whatever need not wait, merges what is computed twice, and
ignores `lax.optimization_barrier`, by which `jax.checkpoint` would prevent both. But what depends
on an array's values cannot be computed before that array.
"""

import collections

from flax.core import tracers
import jax
import jax.numpy as jnp

from basisnet_jax.models import target


def when_there(x, signal):
  """`x [b, ...]`, available only after `signal [b, ...]`; NaN for images whose signal starts so."""
  first = signal[(slice(None), *[slice(1)] * (signal.ndim - 1))]
  first = first.reshape(-1, *[1] * (x.ndim - 1))
  return jnp.where(first == first, x, jnp.nan)


def in_turn():
  """Returns `wait(coefficients, x)`, to be called at each layer of a network while it is traced.

  `wait` returns the coefficients `[b, K]`, available only after the input `x [b, ...]` of the layer
  two before: kernels of few images are then blended while earlier layers run, and are still in the
  cache when their own layer runs. For one image the main recipe's specialist takes 0.9 of the time
  on one core, 0.93 to 1 on two.
  """
  recent = collections.deque(maxlen=3)

  def wait(coefficients, x):
    recent.append((tracers.current_trace(), x))
    trace, earlier = recent[0]
    if trace != recent[-1][0]:  # The layer is traced again, for its gradients.
      return coefficients
    return when_there(coefficients, earlier)

  return wait


def made_again(blend, operation):
  """Returns a function `operation(x, blend(coefficients, bases))` whose gradients blend again.

  Kernels of all images take batch times the memory of the weights: they are cheaper to recompute
  than to keep, and are used while they are in the cache.

  Args:
    blend: maps coefficients `[b, K]` and bases `[K, *kernel]` to kernels `[b, *kernel]`, linear in
      both.
    operation: maps `x [b, ...]` and kernels to an array `[b, ...]`.

  Returns:
    A function of `x`, coefficients and bases.
  """

  @jax.custom_vjp
  def run(x, coefficients, bases):
    return operation(x, blend(when_there(coefficients, x), bases))

  def backward(inputs, dy):
    x, coefficients, bases = inputs
    kernels, transposed = jax.vjp(lambda c: blend(c, bases), when_there(coefficients, dy))
    (dx,) = jax.vjp(lambda x: operation(x, kernels), x)[1](dy)
    if 8 * dy.size < kernels.size:  # Not to hold kernels and their gradients at once.
      dy = when_there(dy, dx)
    (dkernels,) = jax.vjp(lambda k: operation(x, k), kernels)[1](dy)
    (dcoefficients,) = transposed(dkernels)
    # Last of all, so that the optimizer can overwrite bases that are no longer read.
    for reading in (kernels, dcoefficients):
      coefficients = when_there(coefficients, reading)
    (dbases,) = jax.vjp(lambda b: blend(coefficients, b), bases)[1](dkernels)
    return dx, dcoefficients, dbases

  run.defvjp(lambda *inputs: (run(*inputs), inputs), backward)
  return run


def stage_made_again(run):
  """Returns `run` with gradients that run it again: no activations are kept until then.

  Args:
    run: maps parameters, images `[b, ...]` and a tree without gradients to a tree of outputs
      `[b, ...]` and another tree without gradients.

  Returns:
    A function of the same arguments. On CPU the images get no gradient.
  """
  if target.platform() != 'cpu':
    return jax.checkpoint(run)

  @jax.custom_vjp
  def stage(params, images, rest):
    return run(params, images, rest)

  def backward(inputs, gradients):
    params, images, rest = inputs
    of_outputs, _ = gradients
    for signal in jax.tree.leaves(of_outputs):
      if signal.size:
        images = when_there(images, signal)
    _, transposed, _ = jax.vjp(lambda p: run(p, images, rest), params, has_aux=True)
    (of_params,) = transposed(of_outputs)
    # All at once, so that the optimizer can overwrite parameters that are no longer read.
    first = jnp.stack([leaf[(0,) * leaf.ndim] for leaf in jax.tree.leaves(of_params)])
    are_there = (first == first).all()
    return jax.tree.map(lambda leaf: jnp.where(are_there, leaf, jnp.nan), of_params), None, None

  stage.defvjp(lambda *inputs: (run(*inputs), inputs), backward)
  return stage
