"""Exported networks in the run times of phones and servers, for one image, on one thread and two.

  python -m benchmarks.deploy [--seconds=10] [--output=DIR]

Ratios are of times. BasisNet is configs/mnv3.py: both stages, K = 16; '1x1 alone' is its variant
`pointwise`. A specialist costs more than the network that it is because of kernels that come at run
time: 'made once' has them as constants, 'given' has some of them as inputs, and 'synthesis' makes
all. The average is what an image costs when 37% exit after the preview (Zhang et al. 2021).
"""

from collections.abc import Callable, Iterator, Mapping
import functools
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.inference import exporting, litert
from basisnet_jax.models import basisnet
from benchmarks import measure, ours, table

_SIDE = 224
_EXIT_RATE = 0.37
STATIC, SMALLER = 'static MobileNetV3-Large', 'static EfficientNet-B0'
PREVIEW, SPECIALIST, SYNTHESIS = 'preview', 'specialist', 'synthesis'
BOTH, AVERAGE = 'both stages', 'average'
_POINTWISE = ', 1x1 alone'


def cases(seconds: float) -> Iterator[table.Row]:
  """Sizes of the files, then times by run time, stored weights and threads."""
  config = ours.recipe()
  ratio = ours.madds(config) / ours.madds(ours.recipe('large'))
  for weights in ('float32', 'int8'):
    files = dict(_files(weights))
    for name, data in files.items():
      megabytes = table.spread([len(data) / 1e6])
      yield table.Row(f'LiteRT, {weights}, file', name, megabytes, 'MB')
    for threads in (1, 2):
      calls = {}
      for name, data in files.items():
        calls |= _calls(name, data, threads)
      samples = measure.interleaved(calls, seconds=seconds)
      asked = {}
      for kind in ('', _POINTWISE):
        first, last = samples[PREVIEW + kind], samples[SPECIALIST + kind]
        samples[BOTH + kind] = first + last
        samples[AVERAGE + kind] = first + (1 - _EXIT_RATE) * last
        asked |= {
          (BOTH + kind, STATIC): f'at most {1.2 * ratio:.3f}',
          (AVERAGE + kind, SMALLER): 'at most 1',
        }
      case = f'LiteRT, {weights}, threads: {threads}'
      yield from table.times(case, samples, STATIC, asked)


def _files(weights) -> Iterator[tuple[str, bytes]]:
  """Names and contents: networks of one stage, then of two, then the parts of a specialist."""

  def converted(model, held):
    stored = exporting.stored(model, held, _SIDE, weights)
    variables = jax.tree.map(np.float32, stored)
    return variables, exporting.programs(model, variables, _SIDE, {}, 'max_softmax')

  for name, network in {STATIC: 'mobilenet_v3_large', SMALLER: 'efficientnet_b0'}.items():
    model = ours.experiment.build_model(ours.recipe(model__name=network))
    _, programs = converted(model, _as_trained(ours.variables(model)))
    yield name, litert.flatbuffer(programs, weights)
  for kind, variant in {'': '', _POINTWISE: 'pointwise'}.items():
    model, held = ours.basisnet(ours.recipe(variant))
    variables, programs = converted(model, _as_trained(held))
    yield f'BasisNet{kind}', litert.flatbuffer(programs, weights)
    if not kind:
      yield from _parts(model, variables, programs[1], weights)


def _parts(model, variables, specialist, weights) -> Iterator[tuple[str, bytes]]:
  shape = (1, *specialist.inputs['coefficients'])
  own = basisnet.blended(model, variables, jnp.full(shape, 1 / shape[-1]))
  params = traverse_util.flatten_dict(own['params'], sep='/')
  kernels = {path: params[f'{path}/kernel'] for path in model.layers}

  def synthesis(coefficients):
    made = basisnet.blended(model, variables, coefficients)['params']
    made = traverse_util.flatten_dict(made, sep='/')
    return tuple(made[f'{path}/kernel'] for path in model.layers)

  program = exporting.Program(SYNTHESIS, synthesis, {'coefficients': shape[1:]}, tuple(kernels))
  yield SYNTHESIS, litert.flatbuffer([program], weights)
  of_depthwise = [path for path in kernels if 'depthwise' in path]
  of_one_pixel = [path for path, kernel in kernels.items() if kernel.shape[:2] == (1, 1)]
  given = {'made once': [], '1x1 kernels given': of_one_pixel, 'depthwise given': of_depthwise}
  for name, paths in given.items():

    def network(images, *rest, paths=paths):
      changed = {f'{path}/kernel': kernel[0] for path, kernel in zip(paths, rest, strict=True)}
      made = own | {'params': traverse_util.unflatten_dict(params | changed, sep='/')}
      return (jax.nn.softmax(basisnet.call_blended(model, made, images)),)

    inputs = {'images': (_SIDE, _SIDE, 3)}
    inputs |= {f'kernel_{i}': kernels[path].shape for i, path in enumerate(paths)}
    program = exporting.Program(name, network, inputs, ('probabilities',))
    yield f'{SPECIALIST}, {name}', litert.flatbuffer([program], weights)


def _calls(name, data, threads) -> Mapping[str, Callable[[], Any]]:
  """Calls of a file's signatures; those of a two-stage network by their names."""
  read = litert.Reader(data, threads)
  random = np.random.default_rng(0)
  calls = {}
  for signature, shapes in read.inputs().items():
    inputs = {key: np.float32(random.uniform(0, 0.1, shape)) for key, shape in shapes.items()}
    kind = name.removeprefix('BasisNet')
    own = signature + kind if signature in (PREVIEW, SPECIALIST) else name
    calls[own] = functools.partial(read, signature, inputs)
  return calls


def _as_trained(variables):
  """Biases, scales and statistics that are not zeros and ones, which converters would drop."""

  def shake(leaf):
    noise = 0.05 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return leaf + jnp.abs(noise) if leaf.ndim == 1 else leaf

  return jax.tree.map(shake, variables)


if __name__ == '__main__':
  table.main('deploy', 'Exported networks, one image of 224 pixels', cases)
