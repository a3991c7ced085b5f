"""Folds batch normalisation into the convolution before it, which is exact at inference."""

import collections
import itertools
from typing import Any

from flax import linen as nn
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.models import layers, synthesis


def fold(model: nn.Module, variables: Any, resolution: int, *, equalize: bool = False) -> Any:
  """Returns variables with which the network computes the same, but normalisation only adds a bias.

  This applies to normalisation, with its own scale, bias and running averages, of a convolution's
  output that nothing else reads; other normalisation stays as it is.

  Args:
    model: of one stage or two.
    variables: of the model; not changed.
    resolution: of the images, pixels.
    equalize: instead of absorbing the normalisation, bases get a largest weight of 1 for each
      output channel, and normalisation scales it back: for bases that will be stored in few steps.

  Returns:
    The same tree, with float32 NumPy arrays where it changed.
  """
  flat = {kind: traverse_util.flatten_dict(tree, sep='/') for kind, tree in variables.items()}
  params = flat['params']
  for conv, norm, epsilon in _pairs(model, variables, resolution):
    if f'{norm}/scale' not in params or f'{norm}/bias' not in params:
      continue
    own = [params[f'{norm}/scale'], params[f'{norm}/bias']]
    own += [flat['batch_stats'][f'{norm}/{name}'] for name in ('mean', 'var')]
    scale, bias, mean, var = (np.asarray(leaf, np.float64) for leaf in own)
    multiply = scale / np.sqrt(var + epsilon)
    bias -= mean * multiply
    if f'{conv}/bias' in params:
      bias += np.asarray(params[f'{conv}/bias'], np.float64) * multiply
      params[f'{conv}/bias'] = np.zeros_like(bias, np.float32)
    kernel = f'{conv}/kernel' if f'{conv}/kernel' in params else f'{conv}/bases'
    weights, left = np.asarray(params[kernel], np.float64), np.ones_like(multiply)
    if equalize and kernel.endswith('bases'):
      largest = np.abs(weights).max(tuple(range(weights.ndim - 1)))
      largest[largest == 0] = 1
      multiply, left = 1 / largest, multiply * largest
    params[kernel] = np.float32(weights * multiply)
    params[f'{norm}/scale'], params[f'{norm}/bias'] = np.float32(left), np.float32(bias)
    # So that adding epsilon gives one, even in float32.
    var = np.full(bias.shape, np.float32(1) - np.float32(epsilon))
    flat['batch_stats'] |= {f'{norm}/mean': np.zeros_like(var), f'{norm}/var': var}
  return {kind: traverse_util.unflatten_dict(tree, sep='/') for kind, tree in flat.items()}


def _pairs(model, variables, resolution):
  """Lists paths of convolutions and of their outputs' normalisation, with its epsilon."""
  outputs, pairs = [], []  # Outputs are kept, since only identity tells them apart.

  def record(next_fun, args, kwargs, context):
    output = next_fun(*args, **kwargs)
    module, path = context.module, '/'.join(context.module.path)
    if context.method_name == '__call__' and isinstance(module, nn.Conv):
      outputs.append((output, path))
    if context.method_name == '__call__' and isinstance(module, (nn.BatchNorm, layers.BatchNorm)):
      x = synthesis.layer_input(args, kwargs) if args else kwargs['x']
      pairs.extend((made, path, module.epsilon) for value, made in outputs if value is x)
    return output

  def run(images):
    with nn.intercept_methods(record):
      result = model.apply(variables, images)
    return [value for value, _ in outputs], result

  program = jax.make_jaxpr(run)(jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32))
  made, *results = program.jaxpr.outvars[: len(outputs)], program.jaxpr.outvars[len(outputs) :]
  readers = collections.Counter(
    id(value) for value in itertools.chain(*results, *(e.invars for e in program.eqns))
  )
  # An output that a shortcut reads, too, must stay as it is.
  alone = {path for (_, path), value in zip(outputs, made, strict=True) if readers[id(value)] == 1}
  # A layer that runs twice would be changed twice.
  used = [path for _, path in outputs], [norm for _, norm, _ in pairs]
  once = [p for p in pairs if used[0].count(p[0]) == used[1].count(p[1]) == 1]
  return [p for p in once if p[0] in alone]
