"""What Triton needs besides ONNX programs: the other files of its model repository.

Two stages make three models, of which clients ask the last one.
  preview/     config.pbtxt, 1/model.onnx
  specialist/  config.pbtxt, 1/model.onnx
  two_stage/   config.pbtxt, labels.txt, 1/model.py (`triton_two_stage`)
A network of one stage is one model: network/, with config.pbtxt, labels.txt and 1/model.onnx.
"""

from collections.abc import Iterable, Mapping, Sequence
import pathlib
from typing import Any

from basisnet_jax.inference import exporting
from basisnet_jax.inference.predictor import BATCH_SIZE

_TWO_STAGE = pathlib.Path(__file__).with_name('triton_two_stage.py')
_CONTAINER = 'tritonserver:25.12-py3'


def program_file(name: str) -> str:
  """The path of a program's ONNX file."""
  return f'{name}/1/model.onnx'


def asked(programs: Iterable[str]) -> str:
  """The model that clients ask, given the names of the programs."""
  first, *later = programs
  return 'two_stage' if later else first


def files(programs: Sequence[exporting.Program], about: Mapping[str, Any]) -> dict[str, str]:
  """Returns {name: content} of all files but the programs.

  Args:
    programs: from `exporting.programs`.
    about: the contents of model.json.
  """
  entry = asked(part.name for part in programs)
  found = {f'{entry}/labels.txt': ''.join(f'{_line(label)}\n' for label in about['labels'])}
  for part in programs:
    found[f'{part.name}/config.pbtxt'] = _config(
      part.name,
      'onnxruntime',
      [_tensor(name, shape) for name, shape in part.inputs.items()],
      [_tensor(*output, labelled=part.name == entry) for output in part.gives().items()],
    )
  if len(programs) > 1:
    first, last = programs
    found[f'{entry}/1/model.py'] = _TWO_STAGE.read_text(encoding='utf-8')
    found[f'{entry}/config.pbtxt'] = _config(
      entry,
      'python',
      [_tensor(name, shape) for name, shape in first.inputs.items()],
      [
        *(_tensor(*output, labelled=True) for output in last.gives().items()),
        _tensor('confidence', (1,)),
        _tensor('stage', (1,), 'STRING'),
        _tensor('madds', (1,), 'INT64'),
      ],
      # While one waits for the specialist, the other asks the preview.
      'instance_group [ { count: 2 kind: KIND_CPU } ]',
      '# The lightweight model answers where its confidence is at least the threshold.',
      *(
        f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}'
        for name, value in {
          'threshold': about['threshold'],
          'madds_first': about['madds']['first'],
          'madds_all': about['madds']['all'],
          'handed_on': ','.join(name for name in last.inputs if name not in first.inputs),
        }.items()
      ),
    )
  return found


def readme(about: Mapping[str, Any]) -> str:
  """A README section on how to serve the repository, and how to query it."""
  entry, side = asked(about['programs']), about['resolution']
  others, early = ['confidence'], ''
  if len(about['programs']) > 1:
    others = ['stage', 'madds']
    early = (
      f'\n`{entry}` asks `preview`, and `specialist` for undecided images alone; its threshold is '
      f'a\nparameter in `triton/{entry}/config.pbtxt`.'
    )
  outputs = '\n'.join(f"  triton.InferRequestedOutput('{name}')," for name in others)
  shown = ', '.join(f"answer.as_numpy('{name}')" for name in ['probabilities', *others])
  return f"""
## Triton

`triton/` is a model repository for Triton, in whose container is all that it takes. With TRITON as
NVIDIA's NGC catalog names it ({_CONTAINER}; `--gpus=all` gives it GPUs):

```
docker run --rm --shm-size=1g -p 8000:8000 -p 8001:8001 -p 8002:8002 -v "$PWD/triton:/models" \\
    "$TRITON" tritonserver --model-repository=/models
```

Clients ask `{entry}`, here with `pip install 'tritonclient[http]'`, in this folder:

```python
import tritonclient.http as triton

from run import pixels

client = triton.InferenceServerClient('localhost:8000')
images = triton.InferInput('images', [1, {side}, {side}, 3], 'FP32')
images.set_data_from_numpy(pixels('photo.jpg'))
wanted = [
  triton.InferRequestedOutput('probabilities', class_count=5),
{outputs}
]
answer = client.infer('{entry}', [images], outputs=wanted)
print({shown})
```

A request has up to {BATCH_SIZE} images, as pixels that are prepared as above; several requests
are answered together. With `class_count` the likeliest come as 'probability:index:label', without
it all probabilities.{early}
"""


def _tensor(name, shape, kind='FP32', labelled=False):
  """A tensor in config.pbtxt; only the model sees scalars, since Triton's tensors have axes."""
  dims = ', '.join(map(str, shape or (1,)))
  scalar = '' if shape else ' reshape: { shape: [ ] }'
  labels = ' label_filename: "labels.txt"' if labelled and name == 'probabilities' else ''
  return f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ]{scalar}{labels} }}'


def _config(name, backend, inputs, outputs, *more):
  return '\n'.join([
    f'name: "{name}"',
    f'backend: "{backend}"',
    f'max_batch_size: {BATCH_SIZE}',
    'input [',
    ',\n'.join(f'  {tensor}' for tensor in inputs),
    ']',
    'output [',
    ',\n'.join(f'  {tensor}' for tensor in outputs),
    ']',
    'dynamic_batching { }',
    *more,
    '',
  ])  # fmt: skip


def _line(label):
  return ' '.join(label.split())
