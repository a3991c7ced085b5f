"""Checksums that reveal a changed bit in a checkpoint: one for each array, and one for JSON.

Neither Orbax nor its file formats do this: most bits flipped in the stored arrays go unnoticed.
"""

import functools
import json
from typing import Any
import zlib

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from basisnet_jax import sharding

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
_BLOCK = 1 << 15  # Elements; few enough to stay in the cache throughout.


def of_tree(tree: Any) -> dict[str, int]:
  """Returns {path: checksum} for every array, independent of devices and shardings.

  A change of one element always changes the array's checksum; any other change goes unnoticed with
  probability 2^-32. All processes must call this, like any computation.
  """
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  paths = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in flat]
  sums = [_in_memory(leaf) if _is_in_memory(leaf) else _on_devices(leaf) for _, leaf in flat]
  return dict(zip(paths, map(int, jax.device_get(sums)), strict=True))


def of_json(value: Any) -> int:
  """Returns the CRC-32 of a JSON value, the same before it is written and after it is read."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def _is_in_memory(x):
  return x.is_fully_addressable and all(device.platform == 'cpu' for device in x.devices())


def _in_memory(x):
  """Computes `_checksum` in NumPy; compiling it for each shape would take seconds in all."""
  x = np.asarray(x)
  bits = x.reshape(-1).view(_UNSIGNED[x.dtype.itemsize])
  total = 0
  for start in range(0, bits.size, _BLOCK):
    block = bits[start : start + _BLOCK].astype(np.uint32)
    positions = np.arange(start, start + block.size).astype(np.uint32)
    total += int(np.sum(_mixed(block, positions), dtype=np.uint64))
  return total % 2**32


def _on_devices(x):
  # Compiled for each shape, of which there are few. Runs one at a time: on CPU, many concurrent
  # sums over devices can take each other's threads and deadlock.
  return jax.block_until_ready(_jitted(getattr(x.sharding, 'mesh', None))(x))


@functools.cache
def _jitted(mesh):
  return jax.jit(_checksum, out_shardings=mesh and sharding.replicated(mesh))


def _checksum(x):
  unsigned = _UNSIGNED[x.dtype.itemsize]
  bits = x.astype(unsigned) if x.dtype == bool else lax.bitcast_convert_type(x, unsigned)
  position, stride = jnp.uint32(0), 1
  for axis in reversed(range(x.ndim)):
    position += lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
    stride *= x.shape[axis]
  return jnp.sum(_mixed(bits.astype(jnp.uint32), position), dtype=jnp.uint32)


def _mixed(bits, positions):
  """Mixes each element with its position, so that swaps are noticed; uint32 in NumPy or JAX.

  This is the final mixing step of MurmurHash3 (Appleby), which is a bijection.
  """
  h = bits ^ (positions * np.uint32(0x9E3779B9))
  h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
  h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
  return h ^ (h >> 16)
