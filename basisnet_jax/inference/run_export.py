"""Answers for a photo: python run.py photo.jpg [stablehlo | tflite | onnx | triton]

It is copied into exports; it needs numpy, Pillow, and jax, ai_edge_litert or onnxruntime.
"""

import functools
import json
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def about():
  """What model.json says."""
  return json.loads((FOLDER / 'model.json').read_text(encoding='utf-8'))


def stablehlo(name, inputs):
  """The outputs of a program, by name; it takes any number of images."""
  from jax import export

  program = export.deserialize(bytearray((FOLDER / f'{name}.stablehlo').read_bytes()))
  wanted = about()['programs'][name]
  results = program.call(*(inputs[key] for key in wanted['inputs']))
  return dict(zip(wanted['outputs'], results, strict=True))


def tflite(name, inputs):
  """The outputs of a signature, by name; it takes one image."""
  from ai_edge_litert.interpreter import Interpreter

  signature = Interpreter(str(FOLDER / 'model.tflite')).get_signature_runner(name)
  return signature(**{key: inputs[key] for key in signature.get_input_details()})


def onnx(name, inputs, file='{}.onnx'):
  """The outputs of a program, by name; it takes any number of images."""
  import onnxruntime

  program = onnxruntime.InferenceSession(FOLDER / file.format(name))
  wanted = about()['programs'][name]
  results = program.run(None, {key: inputs[key] for key in wanted['inputs']})
  return dict(zip(wanted['outputs'], results, strict=True))


def triton(name, inputs):
  """The same of the files that Triton serves; it needs no server."""
  return onnx(name, inputs, 'triton/{}/1/model.onnx')


def pixels(photo):
  """What the programs see of a photo: float32 [1, resolution, resolution, 3] in [-1, 1]."""
  image = ImageOps.exif_transpose(Image.open(photo)).convert('RGBA')
  image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
  side = max(round(about()['crop'] * min(image.size)), 1)
  left, top = ((size - side) // 2 for size in image.size)
  image = image.crop((left, top, left + side, top + side))
  image = image.resize((about()['resolution'],) * 2, Image.Resampling[about()['resize'].upper()])
  return np.float32(image)[None] / 127.5 - 1


def main(photo, form=None):
  """Prints the likeliest labels, and who answered."""
  forms = {'stablehlo': stablehlo, 'tflite': tflite, 'onnx': onnx, 'triton': triton}
  run = forms[form or about()['formats'][0]]
  stage, *later = about()['programs']
  known = {'images': pixels(photo)}
  known |= run(stage, known)
  if later and known['confidence'][0] < about()['threshold']:
    stage = later[0]
    known |= run(stage, known)
  probabilities = np.asarray(known['probabilities'][0])
  for i in np.argsort(-probabilities)[:5]:
    print(f'{about()["labels"][i]}  {probabilities[i]:.1%}')
  print(f'({stage}; confidence of the first prediction {known["confidence"][0]:.3f})')


if __name__ == '__main__':
  main(*sys.argv[1:])
