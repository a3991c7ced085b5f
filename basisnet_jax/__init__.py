"""BasisNet in JAX and Flax: two-stage, input-adaptive image classification."""

__version__ = '0.1.0'
