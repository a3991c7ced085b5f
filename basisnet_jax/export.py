"""`--mode=export`: a run's network as a folder that needs neither the run nor this package."""

from collections.abc import Callable, Iterator
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import shlex
import sys
from typing import Any

import jax
import ml_collections
import numpy as np

from basisnet_jax import predict, sharding
from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError
from basisnet_jax.inference import (
  agreement,
  android,
  export_folder,
  export_readme,
  exporting,
  ios,
  litert,
  onnx_file,
  run_export,
  storage,
  triton_repository,
)
from basisnet_jax.models import preprocessing
from basisnet_jax.training import experiment
from basisnet_jax.training.progress import Progress

# Each format's files, by program name.
_FILES = {
  'stablehlo': '{}.stablehlo',
  'tflite': 'model.tflite',
  'onnx': '{}.onnx',
  'triton': f'triton/{triton_repository.program_file("{}")}',
}
FORMATS = tuple(_FILES)
_LIBRARIES = {'tflite': litert, 'onnx': onnx_file, 'triton': onnx_file}
_RUNNER = pathlib.Path(run_export.__file__)
_COMPARED = 1000  # Images to compare answers on, at most.


def export_workdir(
  config: ml_collections.ConfigDict,
  workdir: str,
  output: str,
  formats: list[str],
  weights: str,
  **budget: float | None,
) -> None:
  """Writes the folder and prints what is in it.

  Args:
    config: the run's recipe, which tells where its images are.
    workdir: of the run.
    output: the folder.
    formats: some of `FORMATS`.
    weights: one of `exporting.WEIGHTS`.
    budget: as for `Predictor.threshold_for`.

  Raises:
    UserError: an unknown format, or one whose converter is not installed; no such run; a folder
      that cannot be exported to; a budget that cannot be kept; or a program that differs.
  """
  formats = _known(formats)
  ready = predict.ready(
    workdir, config.evaluation.checkpoint, jax.local_devices()[0], dtype='float32'
  )
  network = _programs(ready, ready.variables)
  export_folder.check(
    output,
    _program_files(formats, [part.name for part in network]),
    _program_files(FORMATS, exporting.NAMES),
  )
  _check_installed(formats)
  predictor = ready.predictor()
  threshold = predictor.threshold_for(**budget)
  files, rows, runs = _converted(ready, network, formats, weights)
  tables = []
  if weights != 'float32':  # float32 gives the network's answers.
    tables = _compared(config, network, runs, threshold)
    if set(formats) != {'tflite'} and not storage.has_bases(ready.variables['params']):
      some = 'coefficients' in network[-1].inputs
      why = 'All bases are depthwise' if some else 'There are no bases'
      tables.append(f'\n{why}: only tflite has fewer bytes by --weights={weights}.')
  table = '\n'.join([f'{"file":<32}{"MB":>8}{"difference from the network":>28}', *rows, *tables])
  about = {
    'formats': formats,
    'weights': weights,
    **predictor.about(threshold),
    'rule': ready.chosen.rule,
    'programs': {
      part.name: {'inputs': part.inputs, 'outputs': list(part.outputs)} for part in network
    },
    'sha256': {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
  }
  files |= _beside(files, network, about, table)
  export_folder.write(output, files)
  print(f'{table}\n\nWritten: {os.path.join(output, "")} ({", ".join(sorted(files))})')
  if len(network) > 1:
    print(export_readme.early_exit(about))
    if mending := predict.how_to_exit(predictor, threshold):
      print(mending)
  print(f'Try: python {shlex.quote(os.path.join(output, "run.py"))} photo.jpg')


def _known(formats):
  """Returns the formats, each once."""
  if unknown := set(formats) - set(FORMATS):
    raise UserError(f'--format={",".join(sorted(unknown))}: there are {", ".join(FORMATS)}.')
  if not formats:
    raise UserError(f'--format names none; there are {", ".join(FORMATS)}.')
  return list(dict.fromkeys(formats))


def _check_installed(formats):
  """Raises for a missing converter now, before minutes go into other formats."""
  for name in formats:
    library = _LIBRARIES.get(name)
    # Not imported: that takes seconds and prints.
    if library and not all(map(importlib.util.find_spec, library.NEEDED)):
      raise library.missing()


def _programs(ready, variables):
  return exporting.programs(
    ready.model,
    variables,
    ready.preparation.resolution,
    ready.chosen.temperatures,
    ready.chosen.rule,
  )


def _converted(ready, network, formats, weights):
  """Converts the programs, reads them back and compares them with the network.

  Returns:
    {file: content}; a table row for each; {format: {program: function that runs what was read}}.
  """
  stored = exporting.stored(ready.model, ready.variables, ready.preparation.resolution, weights)
  # ONNX and tflite store the same numbers in as few bytes by themselves.
  in_float32 = jax.tree.map(np.float32, stored)

  def compared(converted):
    """Adds how far the programs of each file differ from the network."""
    for data, read in converted:
      differences = (
        exporting.check(part, read[part.name], (1, 5), exporting.WEIGHTS[weights])
        for part in network
        if part.name in read
      )
      yield data, read, max(differences)

  def stablehlo():
    return _one_each(_programs(ready, stored), exporting.stablehlo, exporting.read_stablehlo)

  @functools.cache  # Triton's files are the same.
  def onnx():
    parts = _one_each(_programs(ready, in_float32), onnx_file.model, onnx_file.reader)
    return list(compared(parts))

  make = {
    'stablehlo': lambda: compared(stablehlo()),
    'onnx': onnx,
    'triton': onnx,
    'tflite': lambda: compared(tflite(_programs(ready, in_float32), weights)),
  }
  files, rows, runs = {}, [], {name: {} for name in formats}
  for name in formats:
    print(f'{name}: writing, reading and comparing programs...', file=sys.stderr, flush=True)
    for data, read, difference in make[name]():
      file = _FILES[name].format(*read)
      files[file] = data
      runs[name] |= read
      rows.append(f'{file:<32}{len(data) / 1e6:>8.1f}{difference:>28.2g}')
  return files, rows, runs


def _beside(files, network, about, table):
  """{file: content} of the files beside the programs."""
  found = {
    'model.json': json.dumps(about, indent=2, ensure_ascii=False) + '\n',
    'run.py': _RUNNER.read_text(),
    'README.md': export_readme.markdown(about, table),
  }
  if 'triton' in about['formats']:
    told = triton_repository.files(network, about)
    found |= {f'triton/{name}': content for name, content in told.items()}
  if 'tflite' in about['formats']:
    taken = litert.Reader(files[_FILES['tflite']]).inputs()
    handed_on = exporting.handed_on(network, taken)
    for phone in (android, ios):
      found['README.md'] += phone.readme(network, handed_on, about)
  return found


def _one_each(
  parts: list[exporting.Program],
  convert: Callable[[exporting.Program], bytes],
  read: Callable[[bytes], Callable[..., Any]],
) -> Iterator[tuple[bytes, agreement.Runs]]:
  """Yields (content, {program: function that runs what was read back}), one file per program."""
  for part in parts:
    data = convert(part)
    yield data, {part.name: read(data)}


def tflite(parts: list[exporting.Program], weights: str) -> Iterator[tuple[bytes, agreement.Runs]]:
  """Yields (content, {program: function that runs what was read back}) for the one file."""
  data = litert.flatbuffer(parts, weights)
  read = litert.Reader(data)

  def run(part, *arrays):
    """Runs any number of images, one by one."""
    inputs = [dict(zip(part.inputs, one, strict=True)) for one in zip(*arrays, strict=True)]
    found = [read(part.name, {k: v[None] for k, v in one.items()}) for one in inputs]
    return [np.concatenate([one[name] for one in found]) for name in part.outputs]

  yield data, {part.name: functools.partial(run, part) for part in parts}


def _compared(config, network, runs, threshold) -> list[str]:
  """Tables of the answers of each format's programs on the run's own evaluation images."""
  try:
    dataset = experiment.open_dataset(config)
    split = config.data.eval_split
    count = min(_COMPARED, experiment.num_images(dataset, split))
    mesh = sharding.create_mesh(devices=jax.local_devices()[:1])
    batches = experiment.eval_batches(config, dataset, mesh, split)
  except UserError as error:
    return [f'\nNot compared on images. {error}']

  def some(progress) -> Iterator[tuple[Any, Any]]:
    left = count
    for batch in batches:
      real = np.flatnonzero(batch['mask'])[:left]
      if not len(real):
        return
      yield preprocessing.normalize(batch['image'][real]), batch['label'][real]
      left -= len(real)
      progress.update(count - left)

  own = {part.name: jax.jit(part.call) for part in network}
  with Progress(count, name='comparing', first='starting...') as progress:
    # Triton's files are those of ONNX, and run only once.
    same = {name: next(first for first in runs if runs[first] == runs[name]) for name in runs}
    asked = {name: runs[name] for name in same.values()}
    found = agreement.measure(network, own, asked, some(progress), threshold)
  lines = []
  for name, first in same.items():
    by_stage = found[first]
    images = next(iter(by_stage.values())).images  # Those that could be read.
    title = f'{name}, {counted(images, "image")} of {config.data.name}, {split}'
    lines.append(f'\n{title:<44}{"network":>9}{"exported":>10}{"same answer":>13}')
    for stage, shares in by_stage.items():
      percent = f'{shares.right:>9.1%}{shares.exported_right:>10.1%}{shares.same:>13.1%}'
      lines.append(f'{"top-1, " + stage:<44}{percent}')
  return lines


def _program_files(formats, programs):
  return {_FILES[name].format(program): name for name in formats for program in programs}
