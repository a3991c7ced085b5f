"""`--mode=export`: a run's network as a folder that needs neither the run nor this package."""

from collections.abc import Sequence
import functools
import json
import os
import pathlib

import jax

from basisnet_jax import predict, whole_file
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import thresholds
from basisnet_jax.inference import exporting, litert, run_export

FORMATS = ('stablehlo', 'tflite')
_RUNNER = pathlib.Path(run_export.__file__)


def export_workdir(workdir: str, output: str, formats: Sequence[str], *, checkpoint: str) -> None:
  """Writes the folder and prints what is in it.

  Raises:
    UserError: a format that there is not, or whose converter is not installed; no such run; or a
      program that differs.
  """
  if unknown := set(formats) - set(FORMATS):
    raise UserError(f'--format={",".join(sorted(unknown))}: there are {", ".join(FORMATS)}.')
  ready = predict.ready(workdir, checkpoint, jax.local_devices()[0], dtype='float32')
  parts = exporting.programs(
    ready.model, ready.variables, ready.preparation.resolution, ready.temperatures, ready.rule
  )
  files, differences = {}, {}
  for name in formats:
    make = {'stablehlo': _stablehlo, 'tflite': _tflite}[name]
    for file, data, difference in make(parts):
      files[file], differences[file] = data, difference
  table = _table({file: len(data) / 1e6 for file, data in files.items()}, differences)
  about = {
    'formats': list(formats),
    'labels': list(ready.labels),
    'resolution': ready.preparation.resolution,
    'crop': ready.preparation.share,
    'resize': ready.preparation.method,
    'threshold': ready.chosen.threshold if ready.chosen else thresholds.NOBODY,
    'rule': ready.rule,
    'madds': {'first': ready.cost.lightweight_madds, 'all': ready.cost.total_madds},
    'programs': {
      part.name: {'inputs': part.inputs, 'outputs': list(part.outputs)} for part in parts
    },
  }
  files['model.json'] = json.dumps(about, indent=2, ensure_ascii=False) + '\n'
  files['run.py'] = _RUNNER.read_text()
  files['README.md'] = _readme(about, table)
  for name, content in files.items():
    whole_file.write(os.path.join(output, name), content)
  print(f'{table}\n\nWritten: {output}/ ({", ".join(sorted(files))})')
  print(f'Try: python {output}/run.py photo.jpg')


def _stablehlo(parts):
  for part in parts:
    data = exporting.stablehlo(part)
    run = exporting.read_stablehlo(data)
    yield f'{part.name}.stablehlo', data, exporting.check(part, run, (1, 5))


def _tflite(parts):
  data = litert.flatbuffer(parts)
  read = litert.reader(data)

  def run(part, *arrays):
    found = read(part.name, dict(zip(part.inputs, arrays, strict=True)))
    return [found[name] for name in part.outputs]

  differences = [exporting.check(part, functools.partial(run, part), (1,)) for part in parts]
  yield 'model.tflite', data, max(differences)


def _table(sizes, differences):
  rows = [f'{name:<24}{sizes[name]:>8.1f}{differences[name]:>28.2g}' for name in sizes]
  return '\n'.join([f'{"file":<24}{"MB":>8}{"difference from the network":>28}', *rows])


def _readme(about, table):
  stages = ' then '.join(about['programs'])
  early = 'It has one stage.'
  if len(about['programs']) > 1:
    early = (
      f'The specialist is needed where the confidence is below {about["threshold"]:.4g} '
      f'(rule: {about["rule"]}).'
    )
  return f"""# A network of basisnet_jax: {stages}

`python run.py photo.jpg` answers; it needs numpy, Pillow, and jax (.stablehlo) or ai_edge_litert
(.tflite), and shows how.

Images: RGB / 127.5 - 1, float32 [batch, resolution, resolution, 3], of the central square, whose
side is {about['crop']:g} of the shorter one's, resized to {about['resolution']} pixels
({about['resize']}, with antialiasing).
{early}
`model.json` has the labels, and what each program takes and gives: of any number of images in
StableHLO, of one in TensorFlow Lite, where each program is a signature.

```
{table}
```
"""
