"""Training steps against what the device can do: MFU and the roofline.

  python -m benchmarks.roofline [--seconds=10] [--output=DIR]

The device's ceilings are measured first: a large matrix product and a large copy. MFU is the
operations that a step needs, three times the forward pass's, in each second over the first. The
roofline is the least time for these operations and for the bytes that the compiled step's read and
write.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks import hlo, measure, ours, table

_SIDE, _SIDE_ON_CPU = 8192, 2048
_BATCHES, _BATCHES_ON_CPU = (128, 256), (32,)
_NETWORKS = {'static': 'large', 'BasisNet': ''}


def cases(seconds: float) -> Iterator[table.Row]:
  """The device, then each network's step at each batch."""
  cpu = jax.default_backend() == 'cpu'
  products, copied = yield from _ceilings(_SIDE_ON_CPU if cpu else _SIDE, seconds)
  for batch in _BATCHES_ON_CPU if cpu else _BATCHES:
    steps = {name: ours.TrainStep(ours.recipe(own), batch) for name, own in _NETWORKS.items()}
    samples = measure.interleaved(steps, seconds=seconds)
    case = f'training step, batch {batch}, 224 pixels'
    yield from table.times(case, samples, 'static')
    for name, step in steps.items():
      operations = 6 * ours.madds(ours.recipe(_NETWORKS[name])) * batch
      moved = hlo.moved_bytes(step.compiled.as_text())
      least = max(operations / products, moved / copied)
      bound = 'memory' if moved / copied == least else 'products'
      mfu, share = operations / samples[name] / products, least / samples[name]
      yield table.Row(case, f'{name}: needs', measure.spread([operations / 1e9]), 'GFLOP')
      yield table.Row(case, f'{name}: MFU', measure.spread(100 * mfu), '%')
      yield table.Row(case, f'{name}: moves', measure.spread([moved / 1e9]), 'GB')
      yield table.Row(
        case, f'{name}: roofline, by {bound}', measure.spread([1e3 * least]), 'ms', 'its step',
        measure.spread(share),
      )  # fmt: skip


def _ceilings(side, seconds):
  """Yields their rows; returns operations and bytes a second."""
  dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  x = jax.random.normal(jax.random.key(0), (side, side), dtype)
  multiply, copy = jax.jit(lambda x: x @ x), jax.jit(lambda x: -x)
  y = jnp.tile(x, (8, 1))
  samples = measure.interleaved(
    {
      'products': lambda: jax.block_until_ready(multiply(x)),
      'copy': lambda: jax.block_until_ready(copy(y)),
    },
    seconds=seconds,
  )
  products, copied = 2 * side**3 / samples['products'], 2 * y.nbytes / samples['copy']
  case = f'the device, {dtype}'
  yield table.Row(case, f'product of {side} x {side}', measure.spread(products / 1e9), 'GFLOP/s')
  yield table.Row(case, f'copy of {y.nbytes / 1e6:,.0f} MB', measure.spread(copied / 1e9), 'GB/s')
  return measure.spread(products).median, measure.spread(copied).median


if __name__ == '__main__':
  table.main('roofline', 'Training steps, and what the device could do', cases)
