"""The platform that a program is traced for, by which layers choose their form."""

from typing import Any

import jax

# On CPU XLA leaves matrix products and sums to a library, YNN. With XLA's own products (Eigen) the
# networks take 0.8 of the time for one image and 0.9 for 32; its own sums are far slower. Training
# is equally fast either way.
_ON_CPU = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'}


def device() -> jax.Device:
  """The device that programs are traced for: `jax.default_device`, else JAX's first."""
  chosen = jax.config.jax_default_device
  if isinstance(chosen, str):
    return jax.local_devices(backend=chosen)[0]
  return chosen or jax.devices()[0]


def platform() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  return device().platform


def compiler_options(device: jax.Device | None = None) -> dict[str, Any] | None:
  """Options of `jax.jit` for inference on `device`; None is the device that is traced for."""
  own = platform() if device is None else device.platform
  return _ON_CPU if own == 'cpu' else None
