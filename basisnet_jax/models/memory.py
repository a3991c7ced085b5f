"""What is needed for a moment is made when it is needed, and not kept before and after, on CPU.

There XLA makes early whatever has not to wait, merges what is made twice, and ignores
`lax.optimization_barrier`, by which `jax.checkpoint` would prevent it. What depends on an array's
values cannot be made before.
"""

import jax
import jax.numpy as jnp


def when_there(x, signal):
  """`x [b, ...]`, made after `signal [b, ...]`; images whose signal begins with NaN become NaN."""
  first = signal[(slice(None), *[slice(1)] * (signal.ndim - 1))]
  first = first.reshape(-1, *[1] * (x.ndim - 1))
  return jnp.where(first == first, x, jnp.nan)


def made_again(blend, operation):
  """Returns `operation(x, blend(coefficients, bases))`, whose gradients blend a second time.

  Kernels of all images are batch times the weights: cheaper to make than to keep, and used while
  they are in the cache.

  Args:
    blend: from coefficients `[b, K]` and bases `[K, *kernel]` to kernels `[b, *kernel]`, linear in
      both.
    operation: from `x [b, ...]` and kernels to an array `[b, ...]`.

  Returns:
    Function of `x`, coefficients and bases.
  """

  @jax.custom_vjp
  def run(x, coefficients, bases):
    return operation(x, blend(when_there(coefficients, x), bases))

  def backward(inputs, dy):
    x, coefficients, bases = inputs
    of_coefficients = lambda c: blend(c, bases)  # noqa: E731
    kernels, transposed = jax.vjp(of_coefficients, when_there(coefficients, dy))
    dx, dkernels = jax.vjp(operation, x, kernels)[1](dy)
    (dcoefficients,) = transposed(dkernels)
    # Last of all, so that the optimizer may write over bases that nobody will read.
    for reading in (kernels, dcoefficients):
      coefficients = when_there(coefficients, reading)
    (dbases,) = jax.vjp(lambda b: blend(coefficients, b), bases)[1](dkernels)
    return dx, dcoefficients, dbases

  run.defvjp(lambda *inputs: (run(*inputs), inputs), backward)
  return run
