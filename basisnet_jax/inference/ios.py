"""How an iOS app runs an export's model.tflite: a section of its README, with C."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from basisnet_jax.inference import exporting

# {filter: (its reach in pixels, its weight at distance x, in C)}.
_FILTERS = {
  'bilinear': (1, 'return 1 - x;'),
  'bicubic': (
    2,
    'return x < 1 ? (1.5f * x - 2.5f) * x * x + 1 : ((2.5f - 0.5f * x) * x - 4) * x + 2;',
  ),
}

_SOURCE = """\
#include <TensorFlowLiteC/TensorFlowLiteC.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

enum {{ SIDE = {side}, LABELS = {labels}, REACH = {reach} }};

static TfLiteSignatureRunner {runners};

static TfLiteSignatureRunner *runner(TfLiteInterpreter *model, const char *name) {{
  TfLiteSignatureRunner *found = TfLiteInterpreterGetSignatureRunner(model, name);
  return found && TfLiteSignatureRunnerAllocateTensors(found) == kTfLiteOk ? found : NULL;
}}

static bool put(TfLiteSignatureRunner *to, const char *name, const float *values, size_t bytes) {{
  TfLiteTensor *tensor = TfLiteSignatureRunnerGetInputTensor(to, name);
  return tensor && TfLiteTensorCopyFromBuffer(tensor, values, bytes) == kTfLiteOk;
}}

static bool get(TfLiteSignatureRunner *from, const char *name, float *values, size_t bytes) {{
  const TfLiteTensor *tensor = TfLiteSignatureRunnerGetOutputTensor(from, name);
  return tensor && TfLiteTensorCopyToBuffer(tensor, values, bytes) == kTfLiteOk;
}}

static float weight(float x) {{
  x = fabsf(x);
  if (x >= REACH) return 0;
  {filter}
}}

/* Pixels [*low, *high) of `size` that one of SIDE is made of; what their weights add up to. */
static float window(int at, int size, int *low, int *high) {{
  float scale = (float)size / SIDE, wide = fmaxf(scale, 1), center = (at + 0.5f) * scale, sum = 0;
  *low = (int)fmaxf(0, center - REACH * wide);
  *high = (int)fminf(size, center + REACH * wide + 1);
  for (int i = *low; i < *high; i++) sum += weight((i + 0.5f - center) / wide);
  return sum;
}}

/* What the network sees of an upright photo: of its central square, RGB / 127.5 - 1. */
static bool pixels(const uint8_t *rgba, int width, int height, float *images) {{
  int size = (int)fmax(rint({crop} * (width < height ? width : height)), 1), low, high;
  float scale = (float)size / SIDE, wide = fmaxf(scale, 1);
  float *row = malloc(3 * sizeof(float) * (size_t)size);
  if (!row) return false;
  const uint8_t *square = rgba + 4 * ((size_t)((height - size) / 2) * width + (width - size) / 2);
  for (int y = 0; y < SIDE; y++) {{
    float sum = window(y, size, &low, &high);
    for (int i = 0; i < 3 * size; i++) row[i] = 0;
    for (int j = low; j < high; j++) {{
      float part = weight((j + 0.5f - (y + 0.5f) * scale) / wide) / sum;
      const uint8_t *line = square + 4 * (size_t)j * width;
      for (int i = 0; i < 3 * size; i++) row[i] += part * line[i / 3 * 4 + i % 3];
    }}
    for (int x = 0; x < SIDE; x++) {{
      float color[3] = {{0}};
      sum = window(x, size, &low, &high);
      for (int i = low; i < high; i++) {{
        float part = weight((i + 0.5f - (x + 0.5f) * scale) / wide) / sum;
        for (int c = 0; c < 3; c++) color[c] += part * row[3 * i + c];
      }}
      for (int c = 0; c < 3; c++) *images++ = fminf(fmaxf(color[c], 0), 255) / 127.5f - 1;
    }}
  }}
  free(row);
  return true;
}}

/* Reads model.tflite, once; false if it cannot. */
bool network_open(const char *path) {{
  TfLiteModel *file = TfLiteModelCreateFromFile(path);
  TfLiteInterpreter *model = file ? TfLiteInterpreterCreate(file, NULL) : NULL;
  return model{opened};
}}

/* Probabilities of the LABELS labels of model.json, in their order, for an upright photo: four
   bytes a pixel, rows from the top without gaps. False if it fails. For one thread at a time. */
bool network_answer(const uint8_t *rgba, int width, int height, float *probabilities) {{
{body}
}}"""


def readme(
  programs: Sequence[exporting.Program], handed_on: Sequence[str], about: Mapping[str, Any]
) -> str:
  """Returns the section; the arguments are those of `android.readme`."""
  reach, weights = _FILTERS[about['resize']]
  names = [part.name for part in programs]
  text = _SOURCE.format(
    side=about['resolution'],
    labels=math.prod(programs[0].gives()['probabilities']),
    reach=reach,
    filter=weights,
    crop=about['crop'],
    runners=', '.join(f'*{name}' for name in names),
    opened=''.join(f' && ({name} = runner(model, "{name}"))' for name in names),
    body=_answer(programs, handed_on, about),
  )
  return f"""
## iOS

For LiteRT's C library: on iOS the pod `TensorFlowLiteC` (elsewhere include `tflite/c/c_api.h`).
Swift calls `network_open` and `network_answer` through a bridging header. `rgba` is an upright
photo, as `UIImage.draw(in:)` draws it on white into a `CGContext` with a buffer of your own.

```c
{text}
```
"""


def _answer(programs, handed_on, about):
  """Statements in C for one stage or two."""
  first, *later = programs
  kept = [name for name in first.outputs if later and name in ('confidence', *handed_on)]
  shapes = first.gives()
  lines = ['static float images[SIDE * SIDE * 3];']
  lines += [f'static float {name}[{math.prod(shapes[name])}];' for name in kept]
  seen = 'pixels(rgba, width, height, images)'
  lines += [f'bool well = {_all([seen, *_call(first, first.inputs, kept)])};']
  for part in later:
    lines += [f'if (well && !(confidence[0] >= {float(about["threshold"])}f)) {{']
    lines += [f'  well = {_all(_call(part, handed_on, []))};', '}']
  return '\n'.join(f'  {line}' for line in [*lines, 'return well;'])


def _all(calls):
  return '\n      && '.join(calls)


def _call(part, inputs, outputs):
  """Conditions in C that put a program's inputs, run it, and get its answer and `outputs`."""
  return [
    *(f'put({part.name}, "{name}", {name}, sizeof {name})' for name in inputs),
    f'TfLiteSignatureRunnerInvoke({part.name}) == kTfLiteOk',
    f'get({part.name}, "probabilities", probabilities, LABELS * sizeof(float))',
    *(f'get({part.name}, "{name}", {name}, sizeof {name})' for name in outputs),
  ]
