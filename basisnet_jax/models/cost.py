"""MAdds and parameters, layer by layer, counted from the network itself.

The convention of the mobile papers: one multiply-add for each product of a convolution or a
matrix product; biases, normalisation, activations and pooling are not counted. The synthesis
of a BasisNet counts K multiply-adds for each weight that has bases, as CondConv's published
totals do (Yang et al. 2019).
"""

import collections
import math
from typing import Any, NamedTuple

from flax import linen as nn
from flax import traverse_util
import jax
from jax.extend import core
import jax.numpy as jnp

from basisnet_jax.counting import is_count
from basisnet_jax.errors import UserError
from basisnet_jax.models import basisnet, convolution, routed, synthesis


class Layer(NamedTuple):
  """One row: a layer, a product inside one, or a module's own parameters.

  Attributes:
    path: of the module; '' is the network itself.
    output: shape for one image; () for rows without multiply-adds.
    madds: multiply-adds for one image.
    params: parameters, all bases included.
  """

  path: str
  output: tuple[int, ...]
  madds: int
  params: int


class Cost(NamedTuple):
  """Cost of one image.

  Attributes:
    layers: in the order in which they run.
    lightweight_madds: of the preview with its coefficient head; None for a single network.
    elementwise_madds: of pooling, gates and shortcuts. Not in any other number here, but in the
      published ones of EfficientNet (390M for B0) and of CondConv on it (402M and 413M).
  """

  layers: list[Layer]
  lightweight_madds: int | None
  elementwise_madds: int

  @property
  def total_madds(self) -> int:
    """Multiply-adds of everything: for a BasisNet, both stages and the synthesis."""
    return sum(layer.madds for layer in self.layers)

  @property
  def synthesis_madds(self) -> int:
    """Multiply-adds of blending the bases, which a reused specialist saves."""
    return sum(layer.madds for layer in self.layers if layer.path.startswith('synthesis/'))

  @property
  def total_params(self) -> int:
    """Trainable parameters, all bases included."""
    return sum(layer.params for layer in self.layers)

  def as_dict(self) -> dict[str, Any]:
    """A dict for JSON: the totals, the layers, and lightweight_madds unless it is None."""
    totals = {
      'total_madds': self.total_madds,
      'elementwise_madds': self.elementwise_madds,
      'total_params': self.total_params,
    }
    if self.lightweight_madds is not None:
      totals['lightweight_madds'] = self.lightweight_madds
    return {**totals, 'layers': [layer._asdict() for layer in self.layers]}


def count(model: nn.Module, resolution: int, variables: Any = None) -> Cost:
  """Counts a BasisNet or any other Flax network on images `[resolution, resolution, 3]`.

  Nothing is computed: the network is traced, always in the plain form of its convolutions.
  A scanned layer counts as often as it runs; a `while` loop counts once. `variables` are the
  model's, or their shapes, if already known.

  Raises:
    UserError: it is no network, or no resolution.
  """
  if not isinstance(model, nn.Module):
    raise UserError(f'A Flax network is counted, and this is {model!r}; make one: MyNetwork(...).')
  if not is_count(resolution):
    raise UserError(f'resolution={resolution!r} is no number of pixels; give a whole one, from 1.')
  variables = variables or _variables(model, resolution)
  variables = jax.eval_shape(nn.meta.unbox, variables)  # Networks may annotate their kernels.
  params = _parameters(variables)

  elementwise = 0

  def operations_of(network, variables, resolution):
    nonlocal elementwise
    jaxpr = _trace(network, variables, resolution)
    elementwise += _elementwise(jaxpr)
    return _operations(jaxpr)

  def under(name, operations):
    return {f'{name}/{path}'.rstrip('/'): row for path, row in operations.items()}

  def stage(name, network, resolution):
    own = {kind: tree.get(name, {}) for kind, tree in variables.items()}
    if name != 'lightweight':
      own = _plain(own, model.layers, model.num_bases)
    return under(name, operations_of(network, own, resolution))

  def synthesis_of(name):
    bases = {path: params[f'{name}/{path}']['bases'] for path in model.layers}
    blends = {path: (shape[1:], math.prod(shape)) for path, shape in bases.items()}
    return under('synthesis', blends)

  def heads(name):
    """Operations of the dense layers (one vector per image) that make coefficients."""
    kernels = {path: shapes['kernel'] for path, shapes in params.items() if name in path.split('/')}
    return {path: (shape[1:], math.prod(shape)) for path, shape in kernels.items()}

  if isinstance(model, routed.Routed):
    operations = {**heads('routing'), **synthesis_of('network')}
    operations.update(stage('network', model.network, resolution))
    return Cost(_rows(operations, params), None, elementwise)
  if not isinstance(model, basisnet.BasisNet):
    operations = operations_of(model, variables, resolution)
    return Cost(_rows(operations, params), None, elementwise)
  light_resolution = model.lightweight_resolution or resolution
  preview = stage('lightweight', model.lightweight, light_resolution) | heads('coefficient_head')
  specialist = synthesis_of('specialist') | stage('specialist', model.specialist, resolution)
  rows = _rows({**preview, **specialist}, params)
  return Cost(rows, sum(madds for _, madds in preview.values()), elementwise)


def table(cost: Cost) -> str:
  """Formats the cost as text: a row per block of a network, and the totals."""
  groups = collections.defaultdict(lambda: [0, 0])
  for layer in cost.layers:
    parts = (layer.path or '(network)').split('/')
    group = groups['/'.join(parts[:2] if parts[0] in ('specialist', 'network') else parts[:1])]
    group[0] += layer.madds
    group[1] += layer.params
  rows = [*groups.items(), ('total', (cost.total_madds, cost.total_params))]
  width = max(len(name) for name, _ in rows)
  lines = [f'{"":{width}}  {"MAdds":>10}  {"parameters":>10}']
  for name, (madds, params) in rows:
    lines.append(f'{name:{width}}  {madds / 1e6:9.2f}M  {params / 1e6:9.3f}M')
  lines.insert(-1, '-' * len(lines[0]))
  everything = cost.total_madds + cost.elementwise_madds
  lines.append(f'{everything / 1e6:.2f}M with pooling, gates and shortcuts, as some papers count.')
  return '\n'.join(lines)


def _call(module, images):
  return synthesis.call(module, images, train=False)


def _variables(network, resolution):
  """Shapes of the network's variables."""
  rngs = {name: jax.random.key(0) for name in ('params', 'dropout')}
  return jax.eval_shape(lambda x: network.init(rngs, x, method=_call), _images(resolution))


def _plain(variables, layers, num_bases):
  """Shapes of a lifted network's variables as in the plain network: one kernel per layer."""
  params = traverse_util.flatten_dict(variables['params'], sep='/')
  for layer in layers:
    bases = params.pop(f'{layer}/bases')
    shape = list(bases.shape)
    shape.remove(num_bases)  # The first axis of that size; a scanned layer's length may precede it.
    params[f'{layer}/kernel'] = jax.ShapeDtypeStruct(tuple(shape), bases.dtype)
  return {**variables, 'params': traverse_util.unflatten_dict(params, sep='/')}


def _parameters(variables) -> dict[str, dict[str, tuple[int, ...]]]:
  """{path of a module: {name of a parameter: its shape}}."""
  shapes = collections.defaultdict(dict)
  for (*path, name), leaf in traverse_util.flatten_dict(variables.get('params', {})).items():
    shapes['/'.join(path)][name] = leaf.shape
  return shapes


def _trace(network, variables, resolution):
  """The jaxpr of a plain network on one image."""

  def run(variables, images):
    with convolution.form('plain'):
      return network.apply(variables, images, method=_call)

  return jax.make_jaxpr(run)(variables, _images(resolution)).jaxpr


def _operations(jaxpr) -> dict[str, tuple[tuple[int, ...], int]]:
  """{path of a layer: (output shape of one image, multiply-adds)} of a plain network."""
  operations = {}
  for path, equation, times in _equations(jaxpr):
    if equation.primitive.name not in ('conv_general_dilated', 'dot_general'):
      continue
    # The first name is that of the network's class.
    path = '/'.join(path[1:])
    output = equation.outvars[0].aval.shape
    before = operations.get(path, ((), 0))[1]
    operations[path] = (output[1:], before + times * _madds(equation))
  return operations


def _elementwise(jaxpr) -> int:
  """Multiply-adds of pooling, gates and shortcuts: one per element of the map that they read."""
  total = 0
  equations = list(_equations(jaxpr))
  normalisations = {path for path, equation, _ in equations if equation.primitive.name == 'rsqrt'}
  for path, equation, times in equations:
    name, shapes = equation.primitive.name, [v.aval.shape for v in equation.invars]
    size = math.prod(shapes[0]) if shapes else 0
    if path in normalisations or not shapes or len(shapes[0]) != 4:
      continue
    pooling = name == 'reduce_sum' and equation.params['axes'] == (1, 2)
    shortcut = name == 'add' and shapes[0] == shapes[1]
    gate = name == 'mul' and len(shapes[1]) == 4 and shapes[1][1:3] == (1, 1) != shapes[0][1:3]
    total += times * size * (pooling or shortcut or gate)
  return total


def _equations(jaxpr, outer=(), times=1):
  """Yields `(path, equation, times it runs)`, descending into calls and loops."""
  for equation in jaxpr.eqns:
    names = str(equation.source_info.name_stack)
    path = outer + tuple(names.split('/') if names else ())
    yield path, equation, times
    loops = equation.params['length'] if equation.primitive.name == 'scan' else 1
    for inner in core.jaxprs_in_params(equation.params):
      yield from _equations(inner, path, times * loops)


def _madds(equation) -> int:
  """Products of one equation: the size of its output times the terms of each element's sum."""
  lhs, rhs = (v.aval.shape for v in equation.invars)
  output = math.prod(equation.outvars[0].aval.shape)
  numbers = equation.params['dimension_numbers']
  if equation.primitive.name == 'dot_general':
    (contracted, _), _ = numbers
    return output * math.prod(lhs[axis] for axis in contracted)
  products = output * math.prod(rhs) // rhs[numbers.rhs_spec[0]]
  # A transposed convolution puts zeros between its inputs; products with these do not count.
  return products // math.prod(equation.params['lhs_dilation'])


def _rows(operations, params) -> list[Layer]:
  """Joins the two; a module without operations (a normalisation) gets a row for its parameters."""
  sizes = {path: sum(math.prod(s) for s in shapes.values()) for path, shapes in params.items()}
  rows = [Layer(p, out, madds, sizes.pop(p, 0)) for p, (out, madds) in operations.items()]
  return rows + [Layer(path, (), 0, size) for path, size in sizes.items()]


def _images(resolution):
  return jax.ShapeDtypeStruct((1, resolution, resolution, 3), jnp.float32)
