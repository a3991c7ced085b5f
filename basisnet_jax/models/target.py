"""What a program is traced for, by which layers choose their forms."""

import jax


def device() -> jax.Device:
  """The first of its devices: that of `jax.default_device`, else JAX's own."""
  chosen = jax.config.jax_default_device
  if isinstance(chosen, str):
    return jax.local_devices(backend=chosen)[0]
  return chosen or jax.devices()[0]


def platform() -> str:
  """'cpu', 'gpu' or 'tpu'."""
  return device().platform
