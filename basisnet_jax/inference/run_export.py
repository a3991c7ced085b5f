"""Answers for a photo: python run.py photo.jpg [stablehlo | tflite | onnx | triton]

This file is copied into exports; it needs numpy, Pillow, and onnxruntime, ai-edge-litert, or jax
and flatbuffers.
"""

import functools
import hashlib
import io
import json
import pathlib
import sys

MISSING = '{} (README.md has the pip install line)'
try:
  import numpy as np
  from PIL import Image, UnidentifiedImageError
except ImportError as error:
  if __name__ != '__main__':
    raise
  sys.exit(MISSING.format(error))

FOLDER = pathlib.Path(__file__).parent
# From EXIF's orientations to Pillow's numbers of what turns them upright.
TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))


def opened(file, read):
  """Returns what `read` makes of a file's bytes."""
  data = (FOLDER / file).read_bytes()
  try:
    return read(data)
  except ImportError:
    raise
  except Exception as error:  # Each runtime has its own.
    raise ValueError(
      f'{FOLDER / file} is broken, or of a kind or size that what is installed cannot read '
      f'({" ".join(str(error).split())}).'
    ) from error


@functools.cache
def about():
  """The contents of model.json."""

  def read(data):
    found = json.loads(data)
    try:
      right = (
        all(type(found[name]) in (int, float) for name in ('crop', 'threshold'))
        and type(found['resolution']) is int
        and found['resolution'] > 0
        and 0 < found['crop'] <= 1
        and found['resize'] in ('bilinear', 'bicubic')
        and isinstance(found['labels'], list)
        and 0 < len(found['formats'])
        and set(found['formats']) <= {'stablehlo', 'tflite', 'onnx', 'triton'}
        and len(found['programs']) in (1, 2)
        and all({'inputs', 'outputs'} <= set(part) for part in found['programs'].values())
        and isinstance(found.get('sha256', {}), dict)
      )
    except (KeyError, TypeError, AttributeError):
      right = False
    if not right:
      raise ValueError('it is not what an export writes')
    return found

  return opened('model.json', read)


@functools.cache
def program(file):
  """Loads a file into its runtime, once.

  That takes longer than an answer, and JAX compiles each StableHLO program that is read and never
  frees it. LiteRT's interpreter is for one thread at a time.
  """
  wanted = about().get('sha256', {}).get(file.relative_to(FOLDER).as_posix())

  def read(data):
    if wanted not in (None, hashlib.sha256(data).hexdigest()):
      raise ValueError('by its SHA-256 it is another file than model.json tells of')
    if file.suffix == '.stablehlo':
      from jax import export, jit

      return jit(export.deserialize(bytearray(data)).call)
    if file.suffix == '.onnx':
      import onnxruntime

      return onnxruntime.InferenceSession(data)
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=data)

  return opened(file, read)


def stablehlo(name, inputs):
  """The outputs of a program, by name; it takes any number of images."""
  wanted = about()['programs'][name]
  results = program(FOLDER / f'{name}.stablehlo')(*(inputs[key] for key in wanted['inputs']))
  return dict(zip(wanted['outputs'], results, strict=True))


def tflite(name, inputs):
  """The outputs of a signature, by name; it takes one image."""
  signature = program(FOLDER / 'model.tflite').get_signature_runner(name)
  return signature(**{key: inputs[key] for key in signature.get_input_details()})


def onnx(name, inputs, file='{}.onnx'):
  """The outputs of a program, by name; it takes any number of images."""
  wanted = about()['programs'][name]
  given = {key: inputs[key] for key in wanted['inputs']}
  results = program(FOLDER / file.format(name)).run(None, given)
  return dict(zip(wanted['outputs'], results, strict=True))


def triton(name, inputs):
  """The same for the files that Triton serves; no server is needed."""
  return onnx(name, inputs, 'triton/{}/1/model.onnx')


def pixels(photo):
  """What the programs see of a photo: float32 [1, resolution, resolution, 3] in [-1, 1]."""

  def upright(data):
    try:
      image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:  # Its message has a memory address.
      raise ValueError('no image of a kind that Pillow knows') from error
    image.load()
    turn = TURNS.get(image.getexif().get(0x0112))
    return image if turn is None else image.transpose(turn)

  image = opened(pathlib.Path(photo).absolute(), upright)
  if image.mode == 'F':
    raise ValueError(
      f'{photo}: its pixels are decimal numbers, of which nobody knows what is white.'
    )
  if image.mode.startswith('I'):  # 16-bit gray to 8 bits.
    image = image.convert('I').point(lambda value: value / 256).convert('L')
  seen = image.convert('RGBA')
  image = Image.new('RGB', seen.size, 'white')
  image.paste(seen, mask=seen.getchannel('A'))
  side = max(round(about()['crop'] * min(image.size)), 1)
  left, top = ((size - side) // 2 for size in image.size)
  image = image.crop((left, top, left + side, top + side))
  image = image.resize((about()['resolution'],) * 2, Image.Resampling[about()['resize'].upper()])
  return np.float32(image)[None] / 127.5 - 1


def main(photo, form):
  """Prints the likeliest labels, and which stage answered."""
  ask = {'stablehlo': stablehlo, 'tflite': tflite, 'onnx': onnx, 'triton': triton}[form]
  first, *later = about()['programs']
  stage = 'lightweight' if later else first
  known = {'images': pixels(photo)}

  def run(name):
    try:
      known.update(ask(name, known))
    except (ImportError, OSError, ValueError):
      raise
    except Exception as error:  # Each runtime has its own.
      raise ValueError(
        f'The {name} of {FOLDER} is broken, or does not go with model.json '
        f'({" ".join(str(error).split())}).'
      ) from error

  run(first)
  if later and not known['confidence'][0] >= about()['threshold']:  # NaN is not.
    (stage,) = later
    run(stage)
  probabilities = np.asarray(known['probabilities'][0])
  if len(about()['labels']) != len(probabilities):
    raise ValueError(
      f'{FOLDER / "model.json"} has {len(about()["labels"])} labels, and the network '
      f'{len(probabilities)} classes.'
    )
  for i in np.argsort(-probabilities)[:5]:
    print(f'{about()["labels"][i]}  {probabilities[i]:.1%}')
  print(f'({stage}; confidence of the first prediction {known["confidence"][0]:.3f})')


def start(photo=None, form=None, *more):
  """Runs `main`, or exits with a sentence on what is missing or wrong."""
  try:
    forms = about()['formats']
    if photo in (None, '-h', '--help') or more or form not in (None, *forms):
      sys.exit(f'Usage: python run.py photo.jpg [{" | ".join(forms)}]')
    main(photo, form or forms[0])
  except ImportError as error:
    sys.exit(MISSING.format(error))
  except (OSError, ValueError) as error:
    sys.exit(str(error))


if __name__ == '__main__':
  sys.stdout.reconfigure(errors='backslashreplace')  # A console may not have all the letters.
  start(*sys.argv[1:])
