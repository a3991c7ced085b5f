"""`--mode=export`: a run's network as a folder that needs neither the run nor this package."""

from collections.abc import Sequence
import json
import os
import pathlib

import jax
import numpy as np

from basisnet_jax import predict, whole_file
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import thresholds
from basisnet_jax.inference import exporting, run_stablehlo

FORMATS = ('stablehlo',)
_RUNNER = pathlib.Path(run_stablehlo.__file__)


def export_workdir(
  workdir: str, output: str, formats: Sequence[str], *, checkpoint: str
) -> dict[str, float]:
  """Writes the folder and prints what is in it.

  Returns:
    The largest difference from the network, by program.

  Raises:
    UserError: a format that there is not, no such run, or a program that differs.
  """
  if unknown := set(formats) - set(FORMATS):
    raise UserError(f'--format={",".join(sorted(unknown))}: there is {", ".join(FORMATS)}.')
  ready = predict.ready(workdir, checkpoint, jax.local_devices()[0], dtype='float32')
  rule = ready.chosen.rule if ready.chosen else 'max_softmax'
  parts = exporting.programs(
    ready.model, ready.variables, ready.preparation.resolution, ready.temperatures, rule
  )
  texts, sizes, differences = {}, {}, {}
  for part in parts:
    texts[f'{part.name}.stablehlo'] = data = exporting.stablehlo(part)
    sizes[part.name] = len(data) / 1e6
    run = jax.export.deserialize(bytearray(data)).call
    differences[part.name] = exporting.check(part, run, lambda n, part=part: _some(part, n))
  about = {
    'stages': [part.name for part in parts],
    'labels': list(ready.labels),
    'resolution': ready.preparation.resolution,
    'crop': ready.preparation.share,
    'resize': ready.preparation.method,
    'pixels': 'RGB / 127.5 - 1, float32 [batch, resolution, resolution, 3]',
    'threshold': ready.chosen.threshold if ready.chosen else thresholds.NOBODY,
    'rule': rule,
    'madds': {'first': ready.cost.lightweight_madds, 'all': ready.cost.total_madds},
    'programs': {
      part.name: {'inputs': [['batch', *s] for s in part.inputs], 'outputs': list(part.outputs)}
      for part in parts
    },
  }
  texts['model.json'] = json.dumps(about, indent=2, ensure_ascii=False) + '\n'
  texts[_RUNNER.name] = _RUNNER.read_text()
  texts['README.md'] = _readme(about, sizes, differences)
  for name, text in texts.items():
    whole_file.write(os.path.join(output, name), text)
  print(_table(sizes, differences))
  print(f'\nWritten: {output}/ ({", ".join(sorted(texts))})')
  print(f'Try: python {output}/run_stablehlo.py photo.jpg')
  return differences


def _some(part, count):
  """Inputs as they come: images of all brightnesses; coefficients that sum to one; logits."""
  random = np.random.default_rng(count)
  images, *rest = (np.float32(random.uniform(-1, 1, (count, *shape))) for shape in part.inputs)
  if rest:
    powers = np.exp(3 * rest[0])
    rest[0] = np.float32(powers / powers.sum(-1, keepdims=True))
  return [images, *rest]


def _table(sizes, differences):
  rows = [f'{name:<12}{sizes[name]:>10.1f}{differences[name]:>28.2g}' for name in sizes]
  return '\n'.join([f'{"program":<12}{"MB":>10}{"difference from the network":>28}', *rows])


def _readme(about, sizes, differences):
  stages = ' then '.join(about['stages'])
  early = (
    f'The specialist is needed where the confidence is below {about["threshold"]:.4g} '
    f'(rule: {about["rule"]}).'
    if len(sizes) > 1
    else 'It has one stage.'
  )
  return f"""# A network of basisnet_jax: {stages}

`python run_stablehlo.py photo.jpg` answers; it needs numpy, jax and Pillow, and shows how.

Images: the central square, {about['crop']:g} of the shorter side, resized to
{about['resolution']} pixels ({about['resize']}, with antialiasing); {about['pixels']}.
{early}
`model.json` has the labels, and what each program takes and gives; any batch will do.

```
{_table(sizes, differences)}
```
"""
