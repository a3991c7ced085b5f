"""Networks and photos that the code for phones in an export's README is tried on."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import tiny

from basisnet_jax import models
from basisnet_jax.inference import exporting, litert

SIDE = 32
KINDS = ('refined', 'basisnet', 'cascade', 'one stage')


def exported(kind, folder):
  """(folder, programs) of a network, whose model.tflite is in the folder."""
  parts = _programs(kind)
  (folder / 'model.tflite').write_bytes(litert.flatbuffer(parts))
  return folder, parts


def readme(phone, exported, **about):
  """The section of a README: `phone` is android or ios."""
  folder, parts = exported
  taken = litert.Reader((folder / 'model.tflite').read_bytes()).inputs()
  about = {'resolution': SIDE, 'crop': 1.0, 'resize': 'bilinear', 'threshold': 0.5} | about
  return phone.readme(parts, exporting.handed_on(parts, taken), about)


def _programs(name):
  if name == 'one stage':
    model = tiny.TinyNetwork(10)
  else:
    stages = {'lightweight': tiny.TinyNetwork(10), 'specialist': tiny.TinyNetwork(10)}
    options = {} if name == 'cascade' else {'num_bases': 3}
    refine = {'refine': 0.5} if name == 'refined' else {}
    kind = 'cascade' if name == 'cascade' else 'basisnet'
    model = models.create(kind, **stages, resolution=SIDE, **options, **refine)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  cold = {'network': 0.05, 'lightweight': 0.05, 'specialist': 0.05}  # Its logits are small.
  return exporting.programs(model, variables, SIDE, cold, 'max_softmax')


def photo(folder, width, height):
  """Waves, and noise as fine as the pixels."""
  y, x, c = np.mgrid[:height, :width, :3]
  waves = np.sin(x / 40 + c) + np.cos(y / 25 - c) + np.random.default_rng(0).normal(0, 1, x.shape)
  path = folder / f'{width}x{height}.png'
  Image.fromarray(np.uint8(np.clip(127 + 30 * waves, 0, 255))).save(path)
  return path


def probabilities(parts, pixels, threshold):
  """What the programs answer for an image of `SIDE`, uint8 `[r, r, 3]`."""
  known = {'images': np.float32(pixels)[None] / 127.5 - 1}
  for part in parts if threshold > 1 else parts[:1]:
    values = part.call(*(known[name] for name in part.inputs))
    known |= dict(zip(part.outputs, values, strict=True))
  return known['probabilities'][0]
