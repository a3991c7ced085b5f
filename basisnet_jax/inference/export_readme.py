"""The README of an export."""

from collections.abc import Mapping
import textwrap
from typing import Any

import jax

from basisnet_jax.counting import counted
from basisnet_jax.evaluation import thresholds
from basisnet_jax.inference import export_folder, triton_repository

_TAKES = {
  'stablehlo': 'of any number of images in StableHLO',
  'onnx': 'of any number of images in ONNX',
  'triton': 'of any number of images in ONNX',
  'tflite': 'of one image in TensorFlow Lite, where each program is a signature',
}


def early_exit(about: Mapping[str, Any]) -> str:
  """Sentences about the threshold of two stages; `about` has the contents of model.json."""
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


def markdown(about: Mapping[str, Any], table: str) -> str:
  """Returns the README, without the sections for phones.

  Args:
    about: the contents of model.json.
    table: of the files.
  """
  stages = ' then '.join(about['programs'])
  early = 'It has one stage.'
  if len(about['programs']) > 1:
    early = textwrap.fill(
      f'{early_exit(about)} (`threshold` in `model.json`; the confidence is the rule '
      f'{about["rule"]}.)',
      width=100,
    )
  # JAX reads no files of newer versions, and does not declare that it needs flatbuffers.
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
