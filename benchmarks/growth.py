"""How cost grows with K, batch, resolution and the number of devices.

  python -m benchmarks.growth [--seconds=10] [--output=DIR]

Devices are simulated, with a fixed batch on each: the operations of each and the bytes that it puts
into all-reduces are read from the compiled program. These are not timed.
"""

from collections.abc import Iterator

import jax
from jax.extend import backend

from basisnet_jax import sharding
from benchmarks import hlo, measure, ours, table

_BASES = (1, 2, 4, 8, 16, 32, 64)
_BATCHES = (1, 4, 16, 64)
_RESOLUTIONS = (128, 160, 192, 224, 288)
_DEVICES = (1, 2, 4, 8)
_PER_DEVICE = 4


def cases(seconds: float) -> Iterator[table.Row]:
  """Inference by K, by batch and by resolution, then training by devices."""
  yield from _inference(
    'both stages, batch 1, by K',
    {f'K = {k}': (_stages(model__num_bases=k), ours.images(1)) for k in _BASES},
    seconds,
  )
  stages = _stages()
  yield from _inference(
    'both stages, an image, by batch',
    {f'batch {b}': (stages, ours.images(b)) for b in _BATCHES},
    seconds,
  )
  yield from _inference(
    'both stages, batch 1, by resolution',
    {f'{r} pixels': (stages, ours.images(1, r)) for r in _RESOLUTIONS},
    seconds,
  )
  if jax.default_backend() == 'cpu':
    # Not earlier: devices have their own threads, and more devices than cores slow an image down.
    backend.clear_backends()
    jax.config.update('jax_num_cpu_devices', max(_DEVICES))
  yield from _devices()


def _stages(**changes):
  return ours.Stages(*ours.basisnet(ours.recipe(**changes)))


def _inference(case, candidates, seconds):
  calls = {
    name: lambda stages=stages, x=x: jax.block_until_ready(stages.both(x))
    for name, (stages, x) in candidates.items()
  }
  samples = measure.interleaved(calls, seconds=seconds)
  samples = {name: times / len(candidates[name][1]) for name, times in samples.items()}
  yield from table.times(case, samples, next(iter(samples)))


def _devices():
  counts = [n for n in _DEVICES if n <= jax.device_count()]
  found = {}
  for count in counts:
    mesh = sharding.create_mesh(devices=jax.devices()[:count])
    compiled = ours.TrainStep(ours.recipe(), count * _PER_DEVICE, mesh).compiled
    found[count] = {
      'operations': (compiled.cost_analysis()['flops'] / 1e9, 'GFLOP'),
      'all-reduced': (hlo.reduced_bytes(compiled.as_text()) / 1e6, 'MB'),
    }
  for what in found[counts[0]]:
    for count in counts:
      value, unit = found[count][what]
      # A single device has none to exchange with.
      base = counts[0] if what == 'operations' else counts[min(1, len(counts) - 1)]
      ratio = {}
      if count > base:
        ratio = {
          'against': f'{base} device{"s" if base > 1 else ""}',
          'ratio': measure.spread([value / found[base][what][0]]),
          'bar': 'at most 1.01',
        }
      yield table.Row(
        f'training step, {_PER_DEVICE} images a device, each device: {what}',
        f'{count} device{"s" if count > 1 else ""}',
        measure.spread([value]),
        unit,
        **ratio,
      )


if __name__ == '__main__':
  table.main('growth', 'Growth with K, batch, resolution and devices', cases)
