"""A stream of frames on two devices, against the slower of the two stages.

  python -m benchmarks.two_devices [--seconds=10] [--output=DIR]

Without two accelerators, it runs on two simulated CPU devices. A single stage then gets half of the
cores and the stream gets all, so that its devices need not share any (Linux).
"""

from collections.abc import Iterator
import contextlib
import functools
import os

if __name__ == '__main__':
  os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=2'
  )

import jax  # noqa: E402
import numpy as np  # noqa: E402

from basisnet_jax.inference import streaming  # noqa: E402
from benchmarks import measure, ours, table  # noqa: E402

_FRAMES = 16
_BATCHES = (1, 4)


def cases(seconds: float) -> Iterator[table.Row]:
  """The main recipe, by number of frames that arrive at once."""
  model, held = ours.basisnet(ours.recipe())
  first, second = jax.devices()[0], jax.devices()[min(1, jax.device_count() - 1)]
  light, special = (ours.Stages(model, held, device) for device in (first, second))
  predictor = streaming.StreamingPredictor(
    model, held, lightweight_device=first, specialist_device=second
  )
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
  if first.platform != 'cpu':
    cores = []  # With accelerators, the host's threads matter little.
  for batch in _BATCHES:
    frame = np.asarray(ours.images(batch))
    on_first, on_second = (jax.device_put(frame, device) for device in (first, second))
    _, coefficients = jax.device_put(light.preview(on_first), second)
    calls = {
      'stage 1 alone': lambda x=on_first: jax.block_until_ready(
        [light.preview(x) for _ in range(_FRAMES)]
      ),
      'stage 2 alone': lambda x=on_second, c=coefficients: jax.block_until_ready(
        [special.specialize(x, c) for _ in range(_FRAMES)]
      ),
      'stream': lambda frame=frame: list(predictor([frame] * _FRAMES)),
    }
    if len(cores) > 1:
      half = cores[: len(cores) // 2]
      calls = {
        name: functools.partial(_on_cores, cores if name == 'stream' else half, call)
        for name, call in calls.items()
      }
    samples = measure.interleaved(calls, seconds=seconds)
    slower = np.maximum(samples['stage 1 alone'], samples['stage 2 alone'])
    case = f'{batch} frame{"s" if batch > 1 else ""} at once'
    for name, times in samples.items():
      rate = measure.spread(batch * _FRAMES / times)
      if name != 'stream':
        yield table.Row(case, name, rate, 'frames/s')
      else:
        ratio = measure.spread(slower / times)
        yield table.Row(case, name, rate, 'frames/s', 'the slower', ratio, 'at least 0.9')


def _on_cores(cores, call):
  """Calls a function with all threads of this process on these cores."""
  for thread in os.listdir('/proc/self/task'):
    with contextlib.suppress(ProcessLookupError):  # It has ended meanwhile.
      os.sched_setaffinity(int(thread), cores)
  call()


if __name__ == '__main__':
  table.main(
    'two_devices', 'Streaming on two devices, over the slower stage', cases, asynchronous=True
  )
