"""BasisNet in JAX and Flax: two-stage, input-adaptive image classification."""

__version__ = '0.1.0'
__all__ = ['load']


def __getattr__(name):
  # Found when it is asked for: whoever imports a part of the package waits for no other.
  if name == 'load':
    from basisnet_jax.predict import load

    return load
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
