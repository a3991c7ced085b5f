"""Stores bases in fewer bytes, for one image at a time: its synthesis is bound by reading them.

Arithmetic stays in float32. Bases of depthwise layers are small, and stay as they are. Batches of
more than one image convert the bases anew each time, which is slower than float32.
"""

from typing import Any

from flax import traverse_util
import numpy as np

from basisnet_jax.models import synthesis


def has_bases(params: Any) -> bool:
  """Whether there are any bases that become smaller."""
  return any(_become_smaller(*item) for item in traverse_util.flatten_dict(params).items())


def in_float16(params: Any) -> Any:
  """Stores bases in half of the bytes, at a relative error of 2^-11.

  Args:
    params: of a `BasisNet`, or a tree with them in it.
  """
  return _stored(params, lambda bases: {'bases': bases.astype(np.float16)})


def in_int8(params: Any) -> Any:
  """Stores bases in a quarter of the bytes: each in 255 steps up to its own largest weight.

  Args:
    params: of a `BasisNet`, or a tree with them in it.

  Returns:
    The tree with 'scales', float32 `[K]`, beside the bases. They scale the coefficients.
  """

  def store(bases):
    largest = np.abs(bases).max(tuple(range(1, bases.ndim)), keepdims=True)
    scales = np.where(largest > 0, largest, np.float32(1)) / 127
    return {'bases': np.round(bases / scales).astype(np.int8), 'scales': scales.reshape(-1)}

  return _stored(params, store)


def _stored(params, store):
  kept = {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    if _become_smaller(path, leaf):
      # In NumPy: JAX would compile for each shape.
      kept |= {(*path[:-1], name): value for name, value in store(np.asarray(leaf)).items()}
    else:
      kept[path] = leaf
  return traverse_util.unflatten_dict(kept)


def _become_smaller(path, leaf):
  return path[-1] == 'bases' and not synthesis.are_depthwise(leaf)
