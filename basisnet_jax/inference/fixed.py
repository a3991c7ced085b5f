"""Compiled functions with weights that no longer change, and the devices for them."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any

import jax
import numpy as np

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.models import target

# Elements up to which a weight becomes a constant of the program. Kernels, and above all bases,
# stay arguments: a program that contains them takes long to compile.
_CONSTANT_AT_MOST = 4096


def fix(function: Callable, variables: Any, device: jax.Device | None = None) -> Callable:
  """Compiles `function(variables, *args)` into a function of `args` alone.

  Calls become cheaper: a compiled function inspects each of some 500 arrays at every call (a
  millisecond on CPU). Here those of normalisation and biases become constants, which XLA folds at
  compile time. `function` is compiled anew for each device.

  Args:
    function: one that `jax.jit` can compile.
    variables: a tree of arrays.
    device: where they are put and the function runs; None leaves them where they are.
  """
  leaves, structure = jax.tree.flatten(variables)
  small = [np.asarray(leaf) if leaf.size <= _CONSTANT_AT_MOST else None for leaf in leaves]
  large = [leaf for leaf, constant in zip(leaves, small, strict=True) if constant is None]

  def run(large, *args):
    rest = iter(large)
    merged = [next(rest) if constant is None else constant for constant in small]
    return function(structure.unflatten(merged), *args)

  options = target.compiler_options(device)
  if device is None:
    return functools.partial(jax.jit(run, compiler_options=options), large)

  # A mesh of one tells kernels that they are not to be split, however many devices there are.
  run = sharding.inside(sharding.create_mesh(devices=[device]), run)
  run = jax.jit(run, compiler_options=options)
  large = jax.device_put(large, device)

  def call(*args):
    with jax.default_device(device):  # Layers choose their form by it: a CPU may be beside a GPU.
      return run(large, *args)

  return call


def check_variables(variables: Any) -> None:
  """Raises a UserError for what cannot be the variables of a network."""
  if not isinstance(variables, Mapping) or 'params' not in variables:
    keys = f' of {[*variables]}' if isinstance(variables, Mapping) else ''
    raise UserError(
      "variables are what model.init returns, {'params': ..., ...}; this is "
      f'{type(variables).__name__}{keys}.'
    )


def devices_for(wanted: Sequence[jax.Device] | None) -> Sequence[jax.Device]:
  """Returns the wanted devices; for None all accelerators of this host, or its CPU.

  Raises:
    UserError: `wanted` is not a list of devices.
  """
  if wanted is None:
    devices = jax.local_devices()
    return devices[:1] if devices[0].platform == 'cpu' else devices  # One for all cores.
  some = isinstance(wanted, Sequence) and len(wanted) > 0
  if not (some and all(hasattr(device, 'platform') for device in wanted)):
    raise UserError(f'devices={wanted!r} is no list of JAX devices, such as jax.devices()[:2].')
  return wanted
