"""Answers for a photo: python run_stablehlo.py photo.jpg

It is copied into exports; it needs numpy, jax and Pillow, and nothing else.
"""

import json
import pathlib
import sys

from jax import export
import numpy as np
from PIL import Image, ImageOps


def main(photo: str) -> None:
  """Prints the likeliest labels, and who answered."""
  folder = pathlib.Path(__file__).parent
  about = json.loads((folder / 'model.json').read_text(encoding='utf-8'))
  first_stage, *later = about['stages']

  def program(name):
    return export.deserialize(bytearray((folder / f'{name}.stablehlo').read_bytes())).call

  image = ImageOps.exif_transpose(Image.open(photo)).convert('RGB')
  side = max(round(about['crop'] * min(image.size)), 1)
  left, top = ((size - side) // 2 for size in image.size)
  image = image.crop((left, top, left + side, top + side))
  resized = image.resize((about['resolution'],) * 2, Image.Resampling[about['resize'].upper()])
  images = np.float32(resized)[None] / 127.5 - 1

  probabilities, confidence, *rest = program(first_stage)(images)
  stage = first_stage
  if later and confidence[0] < about['threshold']:
    stage = later[0]
    (probabilities,) = program(stage)(images, *rest)
  for i in np.argsort(-np.asarray(probabilities[0]))[:5]:
    print(f'{about["labels"][i]}  {probabilities[0][i]:.1%}')
  print(f'({stage}; confidence of the first prediction {confidence[0]:.3f})')


if __name__ == '__main__':
  main(sys.argv[1])
