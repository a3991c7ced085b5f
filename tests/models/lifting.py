"""Plain networks with bases, run with coefficients, and their results compared."""

import functools

from flax import traverse_util
import jax
import numpy as np

from basisnet_jax.models import synthesis


def assert_trees_close(actual, expected, tolerance=2e-5):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), actual, expected
  )


def stack(params, paths, num_bases, make=None):
  """Parameters of a plain network with bases for the kernels of the layers in `paths`.

  Without `make` all bases are the kernel; else they are `make(path, shape)`.
  """
  lifted = {}
  for path, leaf in traverse_util.flatten_dict(params).items():
    if path[-1] == 'kernel' and '/'.join(path[:-1]) in paths:
      shape = (num_bases, *leaf.shape)
      path = (*path[:-1], 'bases')
      leaf = np.broadcast_to(leaf, shape) if make is None else make(path, shape)
    lifted[path] = leaf
  return traverse_util.unflatten_dict(lifted)


def run_lifted(network, variables, x, coefficients, **options):
  with synthesis.lifted((), coefficients):
    return network.apply(variables, x, **options)
