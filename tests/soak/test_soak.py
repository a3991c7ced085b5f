"""20,000 steps: what a long run takes of memory, time and files, and what 20 kills change: nothing.

`make soak` runs it, in about ten minutes, and draws runs/soak.png.
"""

import os
import pathlib
import random
import signal
import threading
import time

from matplotlib import pyplot as plt
import numpy as np
import pytest
import running
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

STEPS, SAVE_EVERY, KILLS = 20_000, 250, 20
RECIPE = [
  '--config=tests/tiny.py',
  f'--config.training.steps={STEPS}',
  '--config.optimizer.learning_rate=0.001',
  f'--config.checkpoint.every_steps={SAVE_EVERY}',
  '--config.evaluation.every_epochs=5.0',
  '--config.logging.every_steps=200',
]
PICTURE = pathlib.Path(__file__).parents[2] / 'runs' / 'soak.png'


def sample(process, workdir, samples):
  """Appends (seconds since the epoch, MB of memory, files) until the process ends."""
  while process.poll() is None:
    try:
      status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
    except OSError:
      break
    kilobytes = [line.split()[1] for line in status.splitlines() if line.startswith('VmRSS')]
    if kilobytes:
      files = sum(len(files) for _, _, files in os.walk(workdir))
      samples.append((time.time(), int(kilobytes[0]) / 1e3, files))
    time.sleep(0.25)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, data_flag):
  """(workdir, {'step', 'memory', 'files', 'speed'}) of a whole run, sampled along the steps."""
  workdir = tmp_path_factory.mktemp('undisturbed')
  process = running.start(*RECIPE, data_flag, f'--workdir={workdir}')
  samples = []
  sampler = threading.Thread(target=sample, args=(process, workdir, samples))
  sampler.start()
  _, err = process.communicate()
  sampler.join()
  assert process.returncode == 0, err
  events = EventAccumulator(str(workdir), size_guidance={'tensors': 0}).Reload()
  logged = events.Tensors('perf/images_per_second')
  times, memory, files = np.array(samples).T
  at = np.array([event.wall_time for event in logged])
  series = {
    'step': np.array([event.step for event in logged]),
    'memory': np.interp(at, times, memory),
    'files': np.interp(at, times, files),
    'speed': np.array([tensor_util.make_ndarray(event.tensor_proto) for event in logged]),
  }
  draw(series)
  return workdir, series


def draw(series):
  PICTURE.parent.mkdir(exist_ok=True)
  figure, axes = plt.subplots(3, 1, figsize=(8, 7), sharex=True, layout='constrained')
  labels = {'memory': 'memory, MB', 'speed': 'images/s', 'files': 'files in the workdir'}
  for axis, (name, label) in zip(axes, labels.items(), strict=True):
    axis.plot(series['step'], series[name])
    axis.set_ylim(bottom=0)
    axis.set_ylabel(label)
  axes[-1].set_xlabel('step')
  figure.suptitle('A run of 20,000 steps, evaluated and saved all along')
  figure.savefig(PICTURE, dpi=100)


def test_memory_speed_and_files_stay_as_they_are(undisturbed):
  _, series = undisturbed
  quarter = len(series['step']) // 4
  for name, most in (('memory', 1.02), ('files', 1.1)):
    early, late = (
      np.median(series[name][part]) for part in (slice(quarter, 2 * quarter), slice(-quarter, None))
    )
    print(f'{name}: {early:.1f} in the second quarter, {late:.1f} in the last')
    assert late <= most * early
  # Machines are shared, so the speed may vary; it must not fall steadily.
  early, late = (
    np.max(series['speed'][part]) for part in (slice(quarter, 2 * quarter), slice(-quarter, None))
  )
  print(f'images/s at best: {early:.0f} in the second quarter, {late:.0f} in the last')
  assert late > early / 1.5


def test_twenty_kills_change_nothing(undisturbed, tmp_path, data_flag):
  expected_workdir, _ = undisturbed
  seed = random.randrange(10**6)
  rng = random.Random(seed)
  print(f'seed {seed}')
  # A kill comes up to 2 s after the checkpoint there; a start takes longer than that to save again.
  for step in sorted(rng.sample(range(0, STEPS - SAVE_EVERY, SAVE_EVERY), KILLS)):
    process = running.start(*RECIPE, data_flag, f'--workdir={tmp_path}')
    while max(running.checkpoints(tmp_path), default=0) < step:
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    time.sleep(rng.uniform(0, 2))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
  running.run_well(*RECIPE, data_flag, f'--workdir={tmp_path}')
  expected, found = (running.arrays(w, STEPS) for w in (expected_workdir, tmp_path))
  assert found.keys() == expected.keys() and len(found) > 50
  for path, value in expected.items():
    np.testing.assert_array_equal(found[path], value, err_msg=path)
  assert running.evaluation(tmp_path) == running.evaluation(expected_workdir)
