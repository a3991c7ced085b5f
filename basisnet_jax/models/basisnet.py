"""BasisNet (Zhang et al. 2021, arXiv 2105.03014): preview, then specialise.

images -> preview (lightweight model) -> logits, coefficients
       -> specialize (bases blended by the coefficients) -> logits
(with `refine`, which is ours and not the paper's: plus a fraction of the preview's logits)
"""

import functools
from typing import NamedTuple

from flax import linen as nn
from flax import traverse_util
from flax.core import tracers
import jax
import jax.numpy as jnp

from basisnet_jax.errors import UserError
from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.models import memory, preprocessing, synthesis
from basisnet_jax.models.coefficients import AT_REST, Annealed


class Outputs(NamedTuple):
  """Outputs of both stages for a batch.

  Attributes:
    lightweight: the first prediction, float32 logits `[b, classes]`.
    specialist: the final prediction, float32 logits `[b, classes]`.
    coefficients: float32 `[b, layers, K]`.
  """

  lightweight: jax.Array
  specialist: jax.Array
  coefficients: jax.Array


class BasisNet(nn.Module):
  """Two plain Flax networks as the two stages.

  Training, early termination, streaming and export all use `preview` and `specialize`.

  Attributes:
    lightweight: any network from images to logits.
    specialist: any network from images to logits; it is run lifted.
    layers: paths of the specialist's layers that hold bases (`synthesis.based_layers`). Without
      any, the model is a plain cascade of two networks: the ablation without synthesis.
    num_bases: K.
    lightweight_resolution: size that `preview` resizes the images to, pixels; None keeps it.
    refine: the final logits are the specialist's plus this times the preview's. No gradient flows
      through the latter, so that the specialist learns what the first prediction lacks.
    activation, shared, temperature, feature_gradient, basis_dropout: see `CoefficientHead`.
  """

  lightweight: nn.Module
  specialist: nn.Module
  layers: tuple[str, ...]
  num_bases: int
  lightweight_resolution: int | None = None
  refine: float = 0.0
  activation: str = 'softmax'
  shared: bool = False
  temperature: float = 1.0
  feature_gradient: float = 1.0
  basis_dropout: float = 0.0

  def setup(self):
    """Makes the coefficient head, if any layer holds bases."""
    if not self.layers:
      return
    self.coefficient_head = coefficients_lib.CoefficientHead(
      num_layers=len(self.layers),
      num_bases=self.num_bases,
      activation=self.activation,
      shared=self.shared,
      temperature=self.temperature,
      feature_gradient=self.feature_gradient,
      basis_dropout=self.basis_dropout,
    )

  def preview(self, images, *, train: bool = False, annealed: Annealed = AT_REST):
    """Stage 1: images `[b, h, w, 3]` -> logits `[b, classes]`, coefficients `[b, layers, K]`."""
    if self.lightweight_resolution is not None:
      images = preprocessing.resize(images, self.lightweight_resolution)
    logits, features = _logits_and_features(self.lightweight, images, train)
    if self.layers:
      coefficients = self.coefficient_head(features, annealed, train)
    else:
      coefficients = jnp.zeros((images.shape[0], 0, self.num_bases))
    return logits.astype(jnp.float32), coefficients

  def specialize(self, images, coefficients, first=None, *, train: bool = False):
    """Stage 2: images `[b, h, w, 3]`, coefficients `[b, layers, K]` -> logits `[b, classes]`.

    With `refine` it also needs the preview's logits, `first`, `[b, classes]`; else it ignores them.

    Raises:
      ValueError: the coefficients are of other layers, or `refine` is on and `first` is missing.
    """
    if coefficients.shape[1] != len(self.layers):  # JAX would take the last one for all others.
      raise ValueError(
        f'Coefficients of shape {coefficients.shape} do not fit the {len(self.layers)} layers that '
        'hold bases; give those of preview(), [b, layers, K].'
      )
    by_layer = {path: coefficients[:, i] for i, path in enumerate(self.layers)}
    with synthesis.lifted((*self.path, 'specialist'), by_layer):
      logits = synthesis.call(self.specialist, images, train).astype(jnp.float32)
    if not self.refine:
      return logits
    if first is None:
      raise ValueError('This model refines: specialize() needs the logits of preview() too.')
    return logits + self.refine * jax.lax.stop_gradient(first)

  def __call__(self, images, *, train: bool = False, annealed: Annealed = AT_REST) -> Outputs:
    """Runs both stages on every image, as in training.

    Raises:
      UserError: the stages have different numbers of classes.
    """
    logits, coefficients = self.preview(images, train=train, annealed=annealed)
    final = self.specialize(images, coefficients, logits, train=train)
    if logits.shape != final.shape:
      raise UserError(
        f'The stages give logits of shapes {logits.shape} and {final.shape}; make networks with '
        'the same number of classes.'
      )
    return Outputs(logits, final, coefficients)


def apply_in_turn(model: BasisNet, variables, images, *, annealed: Annealed, rngs):
  """Does what `model.apply` does in training, but reruns the preview in the backward pass.

  The preview's activations are not kept while the specialist runs forward and backward: less
  memory for more time.

  Args:
    model: the network.
    variables: of both stages, 'params' and 'batch_stats'.
    images: `[b, h, w, 3]`; on CPU they get no gradient through the preview.
    annealed: see `preview`.
    rngs: {'dropout': key}.

  Returns:
    `Outputs`, and {'batch_stats': those after the batch}.
  """
  light, special = of_stages(variables)
  run = functools.partial(model.apply, train=True, mutable=['batch_stats'])

  def preview(params, images, rest):
    stats, annealed, rngs = rest
    held = {'params': params, 'batch_stats': stats}
    return run(held, images, annealed=annealed, rngs=rngs, method='preview')

  rest = light.get('batch_stats', {}), annealed, rngs
  (logits, coefficients), first = memory.stage_made_again(preview)(light['params'], images, rest)
  final, second = run(special, images, coefficients, logits, rngs=rngs, method='specialize')
  stats = first.get('batch_stats', {}) | second.get('batch_stats', {})
  return Outputs(logits, final, coefficients), {'batch_stats': stats}


def of_stages(variables):
  """The variables that `preview` needs and those that `specialize` needs."""

  def choose(wanted):
    return {
      kind: {name: own for name, own in tree.items() if wanted(name)}
      for kind, tree in variables.items()
    }

  return choose(lambda name: name != 'specialist'), choose(lambda name: name == 'specialist')


def blended(model: BasisNet, variables, coefficients):
  """Blends the specialist of one image into a plain network, to be reused for similar images.

  Args:
    model: whose layers hold the bases.
    variables: those that `specialize` needs, or all.
    coefficients: `[1, layers, K]`.

  Returns:
    Variables for `call_blended`, with a float32 kernel in place of each stack of bases.
  """
  own = {kind: tree['specialist'] for kind, tree in variables.items() if 'specialist' in tree}
  params = traverse_util.flatten_dict(own['params'], sep='/')
  for i, path in enumerate(model.layers):
    weights = coefficients[:, i] * params.pop(f'{path}/scales', 1)
    bases = params.pop(f'{path}/bases')
    (params[f'{path}/kernel'],) = synthesis.synthesize(weights, bases, jnp.float32)
  return own | {'params': traverse_util.unflatten_dict(params, sep='/')}


def call_blended(model: BasisNet, own, images, first=None):
  """`specialize` for images `[b, h, w, 3]` that all use the one specialist from `blended`."""
  logits = model.specialist.apply(own, images, method=lambda m, x: synthesis.call(m, x, False))
  return logits.astype(jnp.float32) + (model.refine * first if model.refine else 0)


def _logits_and_features(network, images, train):
  """Runs a plain network; the features are the input of its classifier.

  The classifier is the last dense layer from vectors `[b, f]` to the shape of the logits. If there
  is none, or it is inside `nn.remat`, `nn.jit`, `nn.scan` or the like, from which no array may
  leak, the features are the logits.
  """
  read = {}  # {shape of a dense layer's output: its latest input}
  trace = tracers.current_trace()

  def record(next_fun, args, kwargs, context):
    outputs = next_fun(*args, **kwargs)
    is_dense = isinstance(context.module, nn.Dense | nn.DenseGeneral)
    if is_dense and context.method_name == '__call__':
      inside = tracers.current_trace() != trace
      read[outputs.shape] = None if inside else synthesis.layer_input(args, kwargs)
    return outputs

  with nn.intercept_methods(record):
    logits = synthesis.call(network, images, train)
  features = read.get(logits.shape)
  return logits, logits if features is None or features.ndim != 2 else features
