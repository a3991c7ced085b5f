"""Exported networks in the run times of phones and servers, for one image, on one thread and two.

  python -m benchmarks.deploy [--seconds=10] [--output=DIR]

Ratios are of times. BasisNet is configs/mnv3.py: both stages, K = 16; '1x1 alone' is its variant
`pointwise`. A specialist costs more than the network that it is because of kernels that come at run
time: 'made once' has them as constants, 'given' has some of them as inputs, and 'synthesis' makes
all. The average is what an image costs when 37% exit after the preview (Zhang et al. 2021).
"""

from collections.abc import Iterator
import functools
import os

from flax import traverse_util
import jax
from jax.extend import backend
import jax.numpy as jnp
import numpy as np

from basisnet_jax.inference import exporting, litert, onnx_file
from basisnet_jax.models import basisnet
from benchmarks import measure, ours, table

_SIDE = 224
_EXIT_RATE = 0.37
STATIC, SMALLER = 'static MobileNetV3-Large', 'static EfficientNet-B0'
PREVIEW, SPECIALIST, SYNTHESIS = 'preview', 'specialist', 'synthesis'
BOTH, AVERAGE = 'both stages', 'average'
_BASISNETS = {'': '', ', 1x1 alone': 'pointwise'}  # What is told of them: the variant.


def cases(seconds: float) -> Iterator[table.Row]:
  """Sizes of the files, then times by threads, for each run time and how weights are stored."""
  for run_time, weights, write in (
    ('LiteRT', 'float32', functools.partial(_litert, weights='float32')),
    ('LiteRT', 'int8', functools.partial(_litert, weights='int8')),
    ('ONNX Runtime', 'float32', _onnx),
    ('XLA', 'float32', _stablehlo),
  ):
    written = {name: write(programs) for name, programs in _networks(run_time, weights)}
    for name, (size, _) in written.items():
      yield table.Row(f'{run_time}, {weights}, file', name, measure.spread([size / 1e6]), 'MB')
    for threads in (1, 2):
      calls = {}
      for name, (_, reader) in written.items():
        for program, call in reader(threads).items():
          kind = name.removeprefix('BasisNet')
          calls[program + kind if program in (PREVIEW, SPECIALIST) else name] = call
      samples = measure.interleaved(calls, seconds=seconds)
      case = f'{run_time}, {weights}, threads: {threads}'
      yield from table.times(case, samples, STATIC, _with_both_stages(samples))


def _with_both_stages(samples) -> dict[tuple[str, str], str]:
  """Adds what both stages take, and an image on average; returns what is asked of them."""
  asked = {}
  for kind, variant in _BASISNETS.items():
    ratio = ours.madds(ours.recipe(variant)) / ours.madds(ours.recipe('large'))
    first, last = samples[PREVIEW + kind], samples[SPECIALIST + kind]
    samples[BOTH + kind] = first + last
    samples[AVERAGE + kind] = first + (1 - _EXIT_RATE) * last
    asked |= {
      (BOTH + kind, STATIC): f'at most {1.2 * ratio:.3f}',
      (AVERAGE + kind, SMALLER): 'at most 1',
    }
  return asked


def _litert(programs, weights):
  """The bytes of the file, and a function of the number of threads to calls by program."""
  data = litert.flatbuffer(programs, weights)

  def reader(threads):
    read = litert.Reader(data, threads)
    return {
      program.name: functools.partial(
        read, program.name, dict(zip(program.inputs, arrays, strict=True))
      )
      for program, arrays in zip(programs, map(_inputs, programs), strict=True)
    }

  return len(data), reader


def _onnx(programs):
  """The same of one file for each program, in float32."""
  files = {program.name: onnx_file.model(program) for program in programs}

  def reader(threads):
    return {
      program.name: functools.partial(
        onnx_file.reader(files[program.name], threads), *_inputs(program)
      )
      for program in programs
    }

  return sum(map(len, files.values())), reader


def _stablehlo(programs):
  """The same of programs for any number of images."""
  files = {program.name: exporting.stablehlo(program) for program in programs}

  def reader(threads):
    if os.environ.get('NPROC') != str(threads):  # XLA reads it when it starts.
      os.environ['NPROC'] = str(threads)
      backend.clear_backends()
    calls = {}
    for program in programs:
      run, inputs = jax.jit(exporting.read_stablehlo(files[program.name])), _inputs(program)
      calls[program.name] = lambda run=run, inputs=inputs: jax.block_until_ready(run(*inputs))
    return calls

  return sum(map(len, files.values())), reader


def _inputs(program):
  random = np.random.default_rng(0)
  shapes = [(1, *shape) for shape in program.inputs.values()]
  return [np.float32(random.uniform(0, 0.1, shape)) for shape in shapes]


def _networks(run_time, weights) -> Iterator[tuple[str, list[exporting.Program]]]:
  """Names and programs: networks of one stage, then of two, then the parts of a specialist."""

  def converted(model, held):
    stored = exporting.stored(model, held, _SIDE, weights)
    variables = jax.tree.map(np.float32, stored)
    return variables, exporting.programs(model, variables, _SIDE, {}, 'max_softmax')

  for name, network in {STATIC: 'mobilenet_v3_large', SMALLER: 'efficientnet_b0'}.items():
    model = ours.experiment.build_model(ours.recipe(model__name=network))
    yield name, converted(model, _as_trained(ours.variables(model)))[1]
  for kind, variant in _BASISNETS.items():
    model, held = ours.basisnet(ours.recipe(variant))
    variables, programs = converted(model, _as_trained(held))
    yield f'BasisNet{kind}', programs
    if not kind and run_time == 'LiteRT':
      yield from _parts(model, variables, programs[1])


def _parts(model, variables, specialist) -> Iterator[tuple[str, list[exporting.Program]]]:
  shape = (1, *specialist.inputs['coefficients'])
  own = basisnet.blended(model, variables, jnp.full(shape, 1 / shape[-1]))
  params = traverse_util.flatten_dict(own['params'], sep='/')
  kernels = {path: params[f'{path}/kernel'] for path in model.layers}

  def synthesis(coefficients):
    made = basisnet.blended(model, variables, coefficients)['params']
    made = traverse_util.flatten_dict(made, sep='/')
    return tuple(made[f'{path}/kernel'] for path in model.layers)

  program = exporting.Program(SYNTHESIS, synthesis, {'coefficients': shape[1:]}, tuple(kernels))
  yield SYNTHESIS, [program]
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
    yield f'{SPECIALIST}, {name}', [program]


def _as_trained(variables):
  """Biases, scales and statistics that are not zeros and ones, which converters would drop."""

  def shake(leaf):
    noise = 0.05 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return leaf + jnp.abs(noise) if leaf.ndim == 1 else leaf

  return jax.tree.map(shake, variables)


if __name__ == '__main__':
  table.main('deploy', 'Exported networks, one image of 224 pixels', cases)
