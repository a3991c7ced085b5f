"""ImageNet's tars of a few images."""

import io
import tarfile

import imagenet_tars
import numpy as np
import PIL.Image

# The second and the third have an image that is no RGB JPEG.
CLASSES = {'n01440764': 'JPEG', 'n01739381': 'CMYK', 'n02105855': 'PNG'}
ODD = ('n01739381_1309.JPEG', 'n02105855_2933.JPEG')
PER_CLASS, VALIDATION, FILES = 14, 11, 8
EXPECTED = imagenet_tars.Expected(
  classes=len(CLASSES),
  images={'train': len(CLASSES) * PER_CLASS, 'validation': VALIDATION},
  files={'train': FILES, 'validation': FILES},
)


def image(seed, kind='JPEG'):
  """A small picture; CMYK is a JPEG, too."""
  pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
  picture, buffer = PIL.Image.fromarray(pixels), io.BytesIO()
  if kind == 'CMYK':
    picture.convert('CMYK').save(buffer, 'JPEG')
  else:
    picture.save(buffer, kind)
  return buffer.getvalue()


def tar_of(files):
  """The bytes of a tar file."""
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for name, content in files:
      about = tarfile.TarInfo(name)
      about.size = len(content)
      tar.addfile(about, io.BytesIO(content))
  return buffer.getvalue()


def training_tar(classes=tuple(CLASSES), seed=0):
  archives = []
  for wnid in classes:
    names = [f'{wnid}_{number}.JPEG' for number in range(PER_CLASS - 1)]
    names.append(next((odd for odd in ODD if odd.startswith(wnid)), f'{wnid}_99.JPEG'))
    images = [
      (name, image(seed + number, CLASSES[wnid] if name in ODD else 'JPEG'))
      for number, name in enumerate(names)
    ]
    archives.append((f'{wnid}.tar', tar_of(images)))
  return tar_of(archives)


def validation_tar():
  # Not in the order of their names, by which the labels go.
  numbers = reversed(range(1, VALIDATION + 1))
  return tar_of([(f'ILSVRC2012_val_{n:08}.JPEG', image(100 + n)) for n in numbers])


def write_tars(folder, **changed):
  contents = {'train': training_tar(), 'validation': validation_tar(), **changed}
  for split, content in contents.items():
    (folder / imagenet_tars.NAMES[split]).write_bytes(content)
  return str(folder)
