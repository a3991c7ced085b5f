"""Exported networks in the runtimes of phones and servers, for one image, on one and two threads.

  python -m benchmarks.deploy [--seconds=10] [--output=DIR]

Ratios are of times. BasisNet is configs/mnv3.py: both stages, K = 16; '1x1 alone' is its variant
`pointwise`. A specialist takes longer than the same static network because its kernels are computed
at run time: 'made once' has them as constants, 'given' has some of them as inputs, and 'synthesis'
computes all. The average is an image's cost if 37% exit after the preview (Zhang et al. 2021).
"""

from collections.abc import Callable, Iterator
import concurrent.futures
import functools
import multiprocessing
import os
from typing import Any

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax import environment
from basisnet_jax.inference import exporting, litert, onnx_file
from basisnet_jax.models import basisnet
from benchmarks import measure, ours, table

_SIDE = 224
_EXIT_RATE = 0.37
STATIC, SMALLER = 'static MobileNetV3-Large', 'static EfficientNet-B0'
PREVIEW, SPECIALIST, SYNTHESIS = 'preview', 'specialist', 'synthesis'
BOTH, AVERAGE = 'both stages', 'average'
_BASISNETS = {'': '', ', 1x1 alone': 'pointwise'}  # {suffix of the name: variant}.
LITERT, ONNX, XLA = 'LiteRT', 'ONNX Runtime', 'XLA'
_STORED = (
  (LITERT, 'float32'),
  (LITERT, 'int8'),
  (ONNX, 'float32'),
  (XLA, 'float32'),
  (XLA, 'int8'),
)


def cases(seconds: float) -> Iterator[table.Row]:
  """Sizes of the files, then times by threads, for each runtime and storage of weights."""
  for run_time, weights in _STORED:
    written = {
      name: (_files(run_time, programs, weights), {part.name: _inputs(part) for part in programs})
      for name, programs in _networks(run_time, weights)
    }
    for name, (files, _) in written.items():
      size = sum(map(len, files)) / 1e6
      yield table.Row(f'{run_time}, {weights}, file', name, measure.spread([size]), 'MB')
    for threads in (1, 2):
      # XLA keeps the number of threads that its process starts with.
      process = concurrent.futures.ProcessPoolExecutor(
        1, multiprocessing.get_context('spawn'), os.putenv, ('NPROC', str(threads))
      )
      with process:
        samples = process.submit(_samples, run_time, written, threads, seconds).result()
      case = f'{run_time}, {weights}, threads: {threads}'
      yield from table.times(case, samples, STATIC, _with_both_stages(samples))


def _samples(run_time, written, threads, seconds) -> dict[str, np.ndarray]:
  """Seconds per call, `[rounds]`, by stage, or by network if it is one program."""
  environment.dispatch_in_calling_thread()
  calls = {}
  for name, (files, inputs) in written.items():
    for program, call in _calls(run_time, files, inputs, threads).items():
      kind = name.removeprefix('BasisNet')
      calls[program + kind if program in (PREVIEW, SPECIALIST) else name] = call
  return measure.interleaved(calls, seconds=seconds)


def _with_both_stages(samples) -> dict[tuple[str, str], str]:
  """Adds the times of both stages and of an average image; returns their bars."""
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


def _files(run_time, programs, weights) -> list[bytes]:
  """A file for each program; for LiteRT, one file with all."""
  if run_time == LITERT:
    return [litert.flatbuffer(programs, weights)]
  write = onnx_file.model if run_time == ONNX else exporting.stablehlo
  return [write(program) for program in programs]


def _calls(run_time, files, inputs, threads) -> dict[str, Callable[[], Any]]:
  """{program: call}; `inputs` are {program: {name: array}}."""
  if run_time == LITERT:
    read = litert.Reader(*files, threads)
    return {name: functools.partial(read, name, arrays) for name, arrays in inputs.items()}
  read = functools.partial(onnx_file.reader, threads=threads) if run_time == ONNX else _in_xla
  return {
    name: functools.partial(read(data), *arrays.values())
    for data, (name, arrays) in zip(files, inputs.items(), strict=True)
  }


def _in_xla(data):
  run = jax.jit(exporting.read_stablehlo(data))
  return lambda *arrays: jax.block_until_ready(run(*arrays))


def _inputs(program) -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  shapes = {name: (1, *shape) for name, shape in program.inputs.items()}
  return {name: np.float32(random.uniform(0, 0.1, shape)) for name, shape in shapes.items()}


def _networks(run_time, weights) -> Iterator[tuple[str, list[exporting.Program]]]:
  """Names and programs: networks with one stage, then with two, then parts of a specialist."""

  def converted(model, held):
    variables = exporting.stored(model, held, _SIDE, weights)
    if run_time != XLA:  # The other converters store the same numbers on their own.
      variables = jax.tree.map(np.float32, variables)
    return variables, exporting.programs(model, variables, _SIDE, {}, 'max_softmax')

  for name, network in {STATIC: 'mobilenet_v3_large', SMALLER: 'efficientnet_b0'}.items():
    model = ours.experiment.build_model(ours.recipe(model__name=network))
    yield name, converted(model, _as_trained(ours.variables(model)))[1]
  for kind, variant in _BASISNETS.items():
    model, held = ours.basisnet(ours.recipe(variant))
    variables, programs = converted(model, _as_trained(held))
    yield f'BasisNet{kind}', programs
    if not kind and run_time == LITERT:
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
  """Makes biases, scales and statistics other than 0 and 1, which converters would drop."""

  def shake(leaf):
    noise = 0.05 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
    return leaf + jnp.abs(noise) if leaf.ndim == 1 else leaf

  return jax.tree.map(shake, variables)


if __name__ == '__main__':
  table.main('deploy', 'Exported networks, one image of 224 pixels', cases)
