"""What the backward pass needs is made when it is needed, and not kept before and after.

XLA merges what is made twice, makes early whatever waits for no gradient, and keeps it till it is
used; on CPU it ignores `lax.optimization_barrier`, by which `jax.checkpoint` would prevent it.
What has to wait for an array's values cannot be made before.
"""

import jax
import jax.numpy as jnp


def when_there(x, signal):
  """`x [b, ...]`, made after `signal [b, ...]`; images whose signal begins with NaN become NaN."""
  first = signal[(slice(None), *[slice(1)] * (signal.ndim - 1))]
  first = first.reshape(-1, *[1] * (x.ndim - 1))
  return jnp.where(first == first, x, jnp.nan)


def made_again(blend, operation):
  """Returns `operation(x, blend(coefficients, bases))` with gradients that blend a second time.

  Args:
    blend: from coefficients `[b, K]` and bases `[K, *kernel]` to kernels `[b, *kernel]`, linear in
      both.
    operation: from `x [b, ...]` and kernels to an array `[b, ...]`.

  Returns:
    Function of `x`, coefficients and bases.
  """

  @jax.custom_vjp
  def run(x, coefficients, bases):
    return operation(x, blend(coefficients, bases))

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

  def forward(x, coefficients, bases):
    # Just before they are used, from the cache: else XLA blends for all layers at once.
    y = operation(x, blend(when_there(coefficients, x), bases))
    return y, (x, coefficients, bases)

  run.defvjp(forward, backward)
  return run
