"""Whole networks: inference and training of BasisNet-MobileNetV3, its backbone and its peers.

  python -m benchmarks.network [--seconds=10] [--output=DIR]

Ratios are of times. BasisNet is configs/mnv3.py: both stages, K = 16. PyTorch's networks are
torchvision's, channels last; its BasisNet runs the same based layers as grouped convolutions.
"""

from collections.abc import Iterator
import functools

import jax

from basisnet_jax.inference import storage
from benchmarks import measure, ours, peers, table

_BATCHES = (1, 32)
_TRAINING_BATCH, _TRAINING_BATCH_OF_ACCELERATORS = 32, 128
STATIC, SPECIALIST, BOTH = 'static', 'BasisNet, specialist', 'BasisNet, both stages'
# Measured only with one image at a time.
_SMALLEST = ', bases stored in int8'
_STORED = {', bases stored in float16': storage.in_float16, _SMALLEST: storage.in_int8}
_FEW = ', few images at once'  # The way that predictors and evaluation run networks on CPU.
_PEERS = {'CondConv, K = 8': 'condconv', 'Dynamic Convolution, K = 4': 'dynamic_convolution'}


def cases(seconds: float) -> Iterator[table.Row]:
  """Inference, then training."""
  yield from _inference(seconds)
  yield from _training(seconds)


def _inference(seconds):
  model, held = ours.basisnet(ours.recipe())
  basisnet = ours.Stages(model, held)
  stored = {name: ours.Stages(model, store(held)) for name, store in _STORED.items()}
  static, static_by_few = ours.network(ours.recipe('large'))
  others = {name: ours.network(ours.recipe(variant))[0] for name, variant in _PEERS.items()}
  madds = ours.madds(ours.recipe()) / ours.madds(ours.recipe('large'))
  for batch in _BATCHES:
    x = ours.images(batch)
    _, coefficients = jax.block_until_ready(basisnet.preview(x))
    runs = {
      STATIC: lambda x=x: static(x),
      'BasisNet, preview': lambda x=x: basisnet.preview(x),
      SPECIALIST: lambda x=x, c=coefficients: basisnet.specialize(x, c),
      BOTH: lambda x=x: basisnet.both(x),
    } | {name: functools.partial(run, x) for name, run in others.items()}
    if batch == 1:
      for name, own in stored.items():
        runs[SPECIALIST + name] = lambda own=own, x=x, c=coefficients: own.specialize(x, c)
        runs[BOTH + name] = lambda own=own, x=x: own.both(x)
    elif jax.default_backend() == 'cpu':
      runs[STATIC + _FEW] = lambda x=x: static_by_few(x)
      runs[BOTH + _FEW] = lambda x=x: basisnet.few_at_once(x)
    calls = {name: _waiting(run) for name, run in runs.items()}
    if peers.torch_is_there():
      calls |= peers.inference(batch)
    asked = {
      (SPECIALIST + _SMALLEST, STATIC): 'at most 1.3',
      (BOTH + _SMALLEST, STATIC): f'at most {1.15 * madds:.3f}',
      (peers.STATIC, STATIC): 'at least 1.5',
      (peers.COMPILED, STATIC): 'at least 1.5',
      (peers.SPECIALIST, SPECIALIST): 'at least 2',
    }
    beside = {(peers.COMPILED, STATIC + _FEW): ''}
    case = f'inference, batch {batch}, 224 pixels'
    samples = measure.interleaved(calls, seconds=seconds)
    yield from table.times(case, samples, STATIC, asked if batch == 1 else beside)


def _training(seconds):
  cpu = jax.default_backend() == 'cpu'
  batch = _TRAINING_BATCH if cpu else _TRAINING_BATCH_OF_ACCELERATORS
  recipes = {STATIC: ours.recipe('large'), **ours.basisnets(BOTH)}
  recipes |= {name: ours.recipe(variant) for name, variant in _PEERS.items()}
  calls = {name: ours.TrainStep(recipe, batch) for name, recipe in recipes.items()}
  if peers.torch_is_there():
    calls |= peers.training(batch)
  if cpu:
    asked = {(BOTH, STATIC): 'at most 1.2', (peers.BOTH, BOTH): 'at least 1.4'}
  else:
    asked = {(BOTH, STATIC): 'at most 1.25', (peers.COMPILED, BOTH): 'at least 1'}
  samples = measure.interleaved(calls, seconds=seconds)
  yield from table.times(f'training step, batch {batch}, 224 pixels', samples, STATIC, asked)


def _waiting(run):
  return lambda: jax.block_until_ready(run())


if __name__ == '__main__':
  table.main('network', 'Whole networks, over static MobileNetV3-Large', cases)
