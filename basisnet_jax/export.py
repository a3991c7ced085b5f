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
import textwrap
from typing import Any

import jax
import ml_collections
import numpy as np

from basisnet_jax import predict, sharding
from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import thresholds
from basisnet_jax.inference import (
  agreement,
  android,
  export_folder,
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

# Each format's files, by the names of programs.
_FILES = {
  'stablehlo': '{}.stablehlo',
  'tflite': 'model.tflite',
  'onnx': '{}.onnx',
  'triton': f'triton/{triton_repository.program_file("{}")}',
}
FORMATS = tuple(_FILES)
_LIBRARIES = {'tflite': litert, 'onnx': onnx_file, 'triton': onnx_file}
_TAKES = {
  'stablehlo': 'of any number of images in StableHLO',
  'onnx': 'of any number of images in ONNX',
  'triton': 'of any number of images in ONNX',
  'tflite': 'of one image in TensorFlow Lite, where each program is a signature',
}
_RUNNER = pathlib.Path(run_export.__file__)
_COMPARED = 1000  # Images, at most.


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
    config: the run's recipe, which says where its images are.
    workdir: of the run.
    output: the folder.
    formats: of `FORMATS`.
    weights: of `exporting.WEIGHTS`.
    budget: of `Predictor.threshold_for`.

  Raises:
    UserError: a format that there is not, or whose converter is not installed; no such run; a
      folder that cannot be exported to; a budget that cannot be kept; or a program that differs.
  """
  if unknown := set(formats) - set(FORMATS):
    raise UserError(f'--format={",".join(sorted(unknown))}: there are {", ".join(FORMATS)}.')
  formats = list(dict.fromkeys(formats))
  if not formats:
    raise UserError(f'--format names none; there are {", ".join(FORMATS)}.')
  ready = predict.ready(
    workdir, config.evaluation.checkpoint, jax.local_devices()[0], dtype='float32'
  )
  resolution = ready.preparation.resolution

  def programs(variables):
    chosen = ready.chosen
    return exporting.programs(ready.model, variables, resolution, chosen.temperatures, chosen.rule)

  network = programs(ready.variables)
  export_folder.check(
    output,
    _program_files(formats, [part.name for part in network]),
    _program_files(FORMATS, exporting.NAMES),
  )
  for name in formats:
    library = _LIBRARIES.get(name)
    # Now, not when others have been made, for minutes. Not imported: that prints, for seconds.
    if library and not all(map(importlib.util.find_spec, library.NEEDED)):
      raise library.missing()
  predictor = ready.predictor()
  threshold = predictor.threshold_for(**budget)
  stored = exporting.stored(ready.model, ready.variables, resolution, weights)
  in_float32 = jax.tree.map(np.float32, stored)

  def checked(converted):
    """Adds how far the programs of each file are from the network's."""
    for data, read in converted:
      differences = (
        exporting.check(part, read[part.name], (1, 5), exporting.WEIGHTS[weights])
        for part in network
        if part.name in read
      )
      yield data, read, max(differences)

  # Triton's are the same files.
  in_onnx = functools.cache(
    lambda: list(checked(_one_each(programs(in_float32), onnx_file.model, onnx_file.reader)))
  )
  make = {
    'stablehlo': lambda: checked(
      _one_each(programs(stored), exporting.stablehlo, exporting.read_stablehlo)
    ),
    # These store the same numbers in as few bytes by themselves.
    'onnx': in_onnx,
    'triton': in_onnx,
    'tflite': lambda: checked(tflite(programs(in_float32), weights)),
  }
  files, rows, runs = {}, [], {name: {} for name in formats}
  for name in formats:
    print(f'{name}: writing, reading and comparing programs...', file=sys.stderr, flush=True)
    for data, read, difference in make[name]():
      file = _FILES[name].format(*read)
      files[file] = data
      runs[name] |= read
      rows.append(f'{file:<32}{len(data) / 1e6:>8.1f}{difference:>28.2g}')
  tables = []
  if weights != 'float32':  # Whose answers are the network's.
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
  if 'triton' in formats:
    told = triton_repository.files(network, about)
    files |= {f'triton/{name}': content for name, content in told.items()}
  files['model.json'] = json.dumps(about, indent=2, ensure_ascii=False) + '\n'
  files['run.py'] = _RUNNER.read_text()
  files['README.md'] = _readme(about, table)
  if 'tflite' in formats:
    taken = litert.Reader(files[_FILES['tflite']]).inputs()
    files['README.md'] += ''.join(phone.readme(network, taken, about) for phone in (android, ios))
  export_folder.write(output, files)
  print(f'{table}\n\nWritten: {os.path.join(output, "")} ({", ".join(sorted(files))})')
  if len(network) > 1:
    print(_early_exit(about))
    if mending := predict.how_to_exit(predictor, threshold):
      print(mending)
  print(f'Try: python {shlex.quote(os.path.join(output, "run.py"))} photo.jpg')


def _one_each(
  parts: list[exporting.Program],
  convert: Callable[[exporting.Program], bytes],
  read: Callable[[bytes], Callable[..., Any]],
) -> Iterator[tuple[bytes, agreement.Runs]]:
  """(content, {program: calls what was read again}) of each file, one for a program."""
  for part in parts:
    data = convert(part)
    yield data, {part.name: read(data)}


def tflite(parts: list[exporting.Program], weights: str) -> Iterator[tuple[bytes, agreement.Runs]]:
  """(content, {program: calls what was read again}) of the file."""
  data = litert.flatbuffer(parts, weights)
  read = litert.Reader(data)

  def run(part, *arrays):
    """Of any number of images, one by one."""
    inputs = [dict(zip(part.inputs, one, strict=True)) for one in zip(*arrays, strict=True)]
    found = [read(part.name, {k: v[None] for k, v in one.items()}) for one in inputs]
    return [np.concatenate([one[name] for one in found]) for name in part.outputs]

  yield data, {part.name: functools.partial(run, part) for part in parts}


def _compared(config, network, runs, threshold) -> list[str]:
  """Tables: the answers of each format's programs on the run's own evaluation images."""
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
    # Triton's files are those of ONNX: they are asked once.
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


def _early_exit(about):
  """Sentences on the threshold of two stages."""
  threshold, madds, chosen = about['threshold'], about['madds'], about['chosen']
  least, most = (f'{madds[key] / 1e6:.4g}' for key in ('first', 'all'))
  if threshold == thresholds.NOBODY:
    said = f'Every image goes through both stages, for {most} million multiply-adds'
    return f'{said}: {chosen["reason"] if chosen else "no threshold was chosen"}.'
  said = f'The lightweight model (preview) answers where its confidence is at least {threshold:.4g}'
  if chosen is None:
    return f'{said}, for {least} million multiply-adds; another image takes {most}.'
  return (
    f'{said}: {chosen["reason"]}. So do {chosen["exit_rate"]:.1%} of the '
    f'{counted(chosen["images"], "held-out image")} of {chosen["data"]} ({chosen["split"]}) that '
    f'this was chosen on; an image takes {chosen["average_madds"] / 1e6:.4g} million '
    'multiply-adds on average instead of '
    f'{most}, and {chosen["top1"]:.1%} of the answers are right (of the specialist alone '
    f'{chosen["specialist_top1"]:.1%}).'
  )


def _readme(about, table):
  stages = ' then '.join(about['programs'])
  early = 'It has one stage.'
  if len(about['programs']) > 1:
    early = textwrap.fill(
      f'{_early_exit(about)} (`threshold` in `model.json`; the confidence is the rule '
      f'{about["rule"]}.)',
      width=100,
    )
  # It reads no file of a newer one; of flatbuffers it does not say that it needs it.
  needed = {'stablehlo': f"'jax>={jax.__version__}' flatbuffers", 'tflite': 'ai-edge-litert'}
  needed |= {'onnx': 'onnxruntime', 'triton': 'onnxruntime'}
  examples = '\n'.join(
    f'pip install numpy pillow {needed[name]}\npython run.py photo.jpg {name}'
    for name in about['formats']
  )
  takes = list(dict.fromkeys(_TAKES[name] for name in about['formats']))
  programs = textwrap.fill(
    '`model.json` has the labels, the SHA-256 of each file of programs, and what each program '
    f'takes and gives: {", ".join(takes)}.',
    width=100,
  )
  side = '' if about['crop'] == 1 else f' (of {about["crop"]:g} of the shorter side)'
  return f"""{export_folder.TITLE}: {stages}

`run.py` answers for a photo, and shows how; it needs Python 3.10 (3.11 for jax) or newer and

```
{examples}
```

Images: RGB / 127.5 - 1, float32 [batch, resolution, resolution, 3], of the central square{side},
resized to {about['resolution']} pixels ({about['resize']}, with antialiasing).

{early}

{programs}

```
{table}
```
{triton_repository.readme(about) if 'triton' in about['formats'] else ''}"""
