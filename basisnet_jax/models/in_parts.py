"""Networks on a few images at once, one part of a batch after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from basisnet_jax.models import target

# What is between the layers stays in the cache then: 32 images take the static network 0.83 of the
# time (two cores; four at once 0.81, sixteen 0.90).
_ON_CPU = 8


def call(
  function: Callable[..., Any],
  *arrays: jax.Array,
  most: int | None = None,
  wanted: jax.Array | None = None,
) -> Any:
  """What `function` makes of arrays `[b, ...]`; on CPU of at most eight rows at once.

  Args:
    function: from arrays `[n, ...]` to a tree of arrays `[n, ...]`, each row by itself.
    arrays: of one device.
    most: rows at once elsewhere, and on CPU if it is fewer; None is all.
    wanted: rows, bool `[b]`: a part that has none is left out. None is all.

  Returns:
    The tree, its arrays `[b, ...]`; zeros for the parts that are left out.
  """
  size = len(arrays[0])
  most = size if most is None else most
  if target.platform() == 'cpu':
    most = min(most, _ON_CPU)
  if size <= most:
    return function(*arrays)
  count = -(-size // most)
  rows = -(-size // count)

  def split(x):
    padded = jnp.pad(x, [(0, count * rows - size)] + [(0, 0)] * (x.ndim - 1))
    return padded.reshape(count, rows, *x.shape[1:])

  if wanted is not None:
    function, arrays = _where_any(function), (wanted, *arrays)
  found = jax.lax.map(lambda part: function(*part), tuple(map(split, arrays)))
  # Not -1, which an array without elements, such as a cascade's coefficients, leaves open.
  return jax.tree.map(lambda x: x.reshape(count * rows, *x.shape[2:])[:size], found)


def _where_any(function):
  """The same function, with the rows that are wanted as its first array; zeros if none is."""

  def maybe(wanted, *arrays):
    shapes = jax.eval_shape(function, *arrays)
    nothing = lambda *_: jax.tree.map(jnp.zeros_like, shapes)  # noqa: E731
    return jax.lax.cond(wanted.any(), function, nothing, *arrays)

  return maybe
