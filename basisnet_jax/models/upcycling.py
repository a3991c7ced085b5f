"""Turns a trained static network into a specialist's bases, without changing its predictions."""

from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp

from basisnet_jax.errors import UserError
from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.models.basisnet import BasisNet

Variables = dict[str, Any]


def upcycle(
  model: BasisNet,
  variables: Variables,
  *,
  specialist: Variables | None = None,
  lightweight: Variables | None = None,
  perturbation: float = 0.0,
  seed: int = 0,
) -> Variables:
  """Puts trained networks into a two-stage one.

  Each basis is the trained kernel, and the coefficients start uniform for every image, so that at
  step 0 the specialist predicts exactly what the trained network did. Equal bases would stay
  equal in training, because they get equal gradients: `perturbation` makes them differ. It sums to
  zero over the bases, so that their uniform blend is still the trained kernel.

  Args:
    model: the two-stage network.
    variables: its fresh ones (`model.init`), which stay where no trained ones are given.
    specialist: trained {'params', 'batch_stats'} of the plain network `model.specialist`. What
      they lack (a classifier for other classes) stays fresh.
    lightweight: the same for `model.lightweight`.
    perturbation: standard deviation of what is added to a basis, as a share of its kernel's.
    seed: of the perturbation.

  Returns:
    Variables like those given.

  Raises:
    UserError: the model has no place for a trained array, or one of another shape.
  """
  if lightweight is not None:
    variables = fill(variables, lightweight, 'lightweight/')
  if specialist is None:
    return variables
  at_rest = float(coefficients_lib.ACTIVATIONS[model.activation](jnp.zeros(model.num_bases))[0])

  def bases(kernel, key):
    kernel = jnp.asarray(kernel)
    noise = jax.random.normal(key, (model.num_bases, *kernel.shape), kernel.dtype)
    noise = perturbation * kernel.std() * (noise - noise.mean(0))
    return (kernel + noise) / (model.num_bases * at_rest)

  flat = traverse_util.flatten_dict(dict(specialist), sep='/')
  keys = jax.random.split(jax.random.key(seed), len(model.layers))
  for path, key in zip(model.layers, keys, strict=True):
    if (kernel := flat.pop(f'params/{path}/kernel', None)) is not None:
      flat[f'params/{path}/bases'] = bases(kernel, key)
  variables = fill(variables, traverse_util.unflatten_dict(flat, sep='/'), 'specialist/')
  if not model.layers:
    return variables
  head = jax.tree.map(jnp.zeros_like, variables['params']['coefficient_head'])
  return {**variables, 'params': {**variables['params'], 'coefficient_head': head}}


def fill(variables: Variables, trained: Variables, below: str = '') -> Variables:
  """Replaces fresh variables by trained arrays.

  Args:
    variables: {'params', 'batch_stats'}.
    trained: the same, or part of it.
    below: where in `variables` they belong, such as 'lightweight/'.

  Raises:
    UserError: `variables` have no place for a trained array, or one of another shape.
  """
  flat = traverse_util.flatten_dict(dict(variables), sep='/')
  for path, value in traverse_util.flatten_dict(dict(trained), sep='/').items():
    collection, _, name = path.partition('/')
    path = f'{collection}/{below}{name}'
    wanted = flat[path].shape if path in flat else None
    if wanted != value.shape:
      needs = 'has no such array' if wanted is None else f'wants {list(wanted)}'
      raise UserError(
        f'The trained weights have {name} {list(value.shape)}, but the model {needs} ({path}): '
        'make both of the same network, width and classes.'
      )
    flat[path] = jnp.asarray(value)
  return traverse_util.unflatten_dict(flat, sep='/')
