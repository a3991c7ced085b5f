"""The platform that a program is traced for, by which layers choose their forms."""

from typing import Any

import jax

# On CPU XLA leaves matrix products and sums to a library, YNN. By its own products, Eigen's, the
# networks take 0.8 of their time for one image and 0.9 for 32; its own sums are far slower.
# Training is as fast either way.
_ON_CPU = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_REDUCE'}


def device() -> jax.Device:
  """The device that is traced for: that of `jax.default_device`, else JAX's first."""
  chosen = jax.config.jax_default_device
  if isinstance(chosen, str):
    return jax.local_devices(backend=chosen)[0]
  return chosen or jax.devices()[0]


def platform() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  return device().platform


def compiler_options(device: jax.Device | None = None) -> dict[str, Any] | None:
  """For `jax.jit`, of inference on `device`; None is the device that is traced for."""
  own = platform() if device is None else device.platform
  return _ON_CPU if own == 'cpu' else None
