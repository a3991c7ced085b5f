"""The training loop, against the slower of input pipeline and step: the loop should cost nothing.

  python -m benchmarks.loop --data_dir=DIR [--seconds=10] [--output=DIR]

MobileNetV3-Small in the main recipe has short steps; imagenet2012's validation images stand in for
its training images. On accelerators the pipeline runs beside the step, and the floor is the slower
of the two. On CPU both need the same cores, and the floor is one after the other.
"""

from collections.abc import Iterator
import statistics
import subprocess
import tempfile
import time

import jax
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from basisnet_jax import sharding
from basisnet_jax.training import experiment
from benchmarks import measure, ours, table

_STEPS_A_LOG = 10
_LOGS = 10
_FIRST = 2  # Logs to skip, in which steps compile and buffers fill.
_ROUNDS = 3


def cases(seconds: float, data_dir: str) -> Iterator[table.Row]:
  """Pipeline and step, before and after each run of the loop in a process of its own."""
  config = ours.recipe('small', data__data_dir=data_dir, data__train_split=ours.TRAIN_SPLIT)
  step = ours.TrainStep(config, ours.BATCH)
  mesh = sharding.create_mesh(config.sharding.mesh)
  batches = experiment.train_batches(config, experiment.open_dataset(config), mesh, 0)
  alone = {'pipeline alone': lambda: next(batches), 'step alone': step}
  found = {name: [_rates(call, seconds)] for name, call in alone.items()} | {'loop': []}
  ratios = []
  for _ in range(_ROUNDS):  # Shared machines vary, so a loop's floor is measured before and after.
    found['loop'].append(_loop(data_dir)[_FIRST:])
    for name, call in alone.items():
      found[name].append(_rates(call, seconds))
    medians = [statistics.median(sum(found[name][-2:], [])) for name in alone]
    both = 1 / sum(1 / rate for rate in medians)
    floor = both if jax.default_backend() == 'cpu' else min(medians)
    ratios += [rate / floor for rate in found['loop'][-1]]
  case = f'MobileNetV3-Small, batch {ours.BATCH}'
  for name, rates in found.items():
    against = ('floor', measure.spread(ratios), 'at least 0.97') if name == 'loop' else ()
    yield table.Row(case, name, measure.spread(sum(rates, [])), 'images/s', *against)


def _rates(call, seconds):
  """Images/s of calls for about `seconds`, in windows as long as the loop's."""
  for _ in range(_STEPS_A_LOG):
    call()
  rates, end = [], time.perf_counter() + seconds
  while time.perf_counter() < end or len(rates) < 3:
    start = time.perf_counter()
    for _ in range(_STEPS_A_LOG):
      call()
    rates.append(_STEPS_A_LOG * ours.BATCH / (time.perf_counter() - start))
  return rates


def _loop(data_dir):
  """The images/s that the program itself logs."""
  with tempfile.TemporaryDirectory() as workdir:
    command = ours.command(
      'small',
      workdir,
      data_dir,
      f'--config.training.steps={_STEPS_A_LOG * _LOGS}',
      f'--config.logging.every_steps={_STEPS_A_LOG}',
    )
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    events = EventAccumulator(workdir, size_guidance={'tensors': 0}).Reload()
    return [
      float(tensor_util.make_ndarray(event.tensor_proto))
      for event in events.Tensors('perf/images_per_second')
    ]


if __name__ == '__main__':
  table.main('loop', 'Training loop: images/s, over its floor', cases, data_dir=True)
