import time

import numpy as np
import pytest

from benchmarks import measure


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still but for `clock[0] += seconds`."""
  now = [0.0]
  monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
  return now


def recorded(clock):
  """(names of the candidates as they are called, what makes one that takes so many seconds)."""
  calls = []

  def candidate(name, seconds):
    def call():
      calls.append(name)
      clock[0] += seconds

    return call

  return calls, candidate


def test_samples_are_seconds_of_a_call_in_rounds_that_all_take_part_in(clock):
  calls, candidate = recorded(clock)
  found = measure.interleaved({'a': candidate('a', 0.002), 'b': candidate('b', 3.0)}, seconds=60)
  assert len(found['a']) == len(found['b']) >= 7
  np.testing.assert_allclose(found['a'], 0.002)
  np.testing.assert_allclose(found['b'], 3.0)
  assert 55 < clock[0] < 70
  # A short call is repeated, and neither is done with before the other begins.
  assert calls.count('a') > 20 * len(found['a'])
  assert calls.index('b') < len(calls) - calls[::-1].index('a')


def test_there_are_seven_rounds_whatever_it_takes(clock):
  def call():
    clock[0] += 100.0

  assert len(measure.interleaved({'slow': call}, seconds=1.0)['slow']) == 7


def test_who_is_hopelessly_slow_is_timed_once(clock):
  calls, candidate = recorded(clock)
  slow = {'slow': candidate('slow', 50.0), 'fast': candidate('fast', 0.5)}
  found = measure.interleaved(slow, seconds=10.0)
  assert calls.count('slow') == 2  # The first compiles.
  np.testing.assert_allclose(found['slow'], [50.0] * len(found['fast']))
  assert list(found) == ['slow', 'fast'] and len(found['fast']) >= 7


def test_spread_is_median_and_quartiles():
  assert measure.spread(range(101)) == (50.0, 25.0, 75.0)
