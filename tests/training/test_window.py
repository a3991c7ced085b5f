"""What is gathered between two logs."""

import math

import numpy as np
import pytest

from basisnet_jax.evaluation import metrics
from basisnet_jax.training import window as window_lib


class Clock:
  now = 100.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(window_lib, 'time', clock)
  return clock


def step_metrics(**values):
  values = {'learning_rate': 0.1, 'broken_images': 0.0} | values
  kind = metrics.collection(tuple(values))
  return kind.single_from_model_output(**{k: np.float32(v) for k, v in values.items()})


def test_steps_are_averaged_and_timed(clock):
  window = window_lib.Window()
  for step, loss in enumerate((1.0, 2.0, 6.0)):
    with window.waiting_for_data():
      clock.now += 0.5
    clock.now += 1.5
    window.add(step, step_metrics(loss=loss, broken_images=step))
  with window.paused():
    clock.now += 1000
  assert window.nonfinite_step() is None
  assert window.close(batch_size=8) == pytest.approx(
    {
      'train/loss': 3.0,
      'train/learning_rate': 0.1,
      'data/broken_images': 3,
      'perf/images_per_second': 3 * 8 / 6,
      'perf/data_wait': 0.25,
    }
  )
  clock.now += 2
  window.add(4, step_metrics(loss=math.inf))
  window.add(5, step_metrics(loss=math.nan))
  assert window.nonfinite_step() == 4
  assert window.close(batch_size=8)['perf/images_per_second'] == pytest.approx(8)


def test_skipped_steps_are_counted_and_not_averaged(clock):
  window = window_lib.Window()
  for step, (loss, finite) in enumerate([(2.0, 1), (0.0, 0), (4.0, 1)]):
    clock.now += 1
    window.add(step, step_metrics(loss=loss, finite=finite))
  values = window.close(batch_size=1)
  assert (values['train/loss'], values['train/skipped_steps']) == (pytest.approx(3.0), 1)
  assert values['train/learning_rate'] == pytest.approx(0.1)
  clock.now += 1
  window.add(3, step_metrics(loss=0.0, finite=0))
  values = window.close(batch_size=1)
  assert math.isnan(values['train/loss']) and values['train/skipped_steps'] == 1


def test_learning_rate_is_that_of_the_last_step():
  window = window_lib.Window()
  for step, rate in enumerate((0.1, 0.2, 0.6)):
    window.add(step, step_metrics(loss=1.0, learning_rate=rate))
  assert window.close(batch_size=1)['train/learning_rate'] == pytest.approx(0.6)
