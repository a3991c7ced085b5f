"""Interleaved timing: candidates take turns in one run, so that noise affects all alike."""

from collections.abc import Callable, Mapping
import random
import time
from typing import Any, NamedTuple

import numpy as np

_LEAST_SAMPLE = 0.05  # Seconds; shorter calls are repeated, so that the clock does not matter.
_LEAST_ROUNDS = 7
_HOPELESS = 20  # As a multiple of the fastest candidate's time.


class Spread(NamedTuple):
  """The median and the quartiles of some samples."""

  median: float
  low: float
  high: float


def spread(samples) -> Spread:
  """The spread of any samples."""
  low, median, high = np.percentile(samples, (25, 50, 75))
  return Spread(float(median), float(low), float(high))


def interleaved(
  candidates: Mapping[str, Callable[[], Any]], *, seconds: float = 10.0
) -> dict[str, np.ndarray]:
  """Times candidates in rounds, each in a new order, for about so many seconds.

  Args:
    candidates: {name: function that returns when its work is done}. Each is first called twice, to
      compile and to warm up.
    seconds: to spend on all of them, though there are at least seven rounds. A candidate is timed
      only once if it alone takes longer than that, and over twenty times as long as the fastest.

  Returns:
    {name: seconds per call, `[rounds]`}; samples with the same index are from the same round.
  """
  took = {}
  for name, call in candidates.items():
    call()
    took[name] = _timed(call, 1)
  limit = max(seconds, _HOPELESS * min(took.values()))
  order = [name for name in candidates if took[name] <= limit]
  repeats = {name: max(1, round(_LEAST_SAMPLE / took[name])) for name in order}
  samples = {name: [] for name in order}
  shuffle, end = random.Random(0).shuffle, time.perf_counter() + seconds
  while len(samples[order[0]]) < _LEAST_ROUNDS or time.perf_counter() < end:
    shuffle(order)
    for name in order:
      candidates[name]()  # Sets caches and memory as if no other candidate ran.
      samples[name].append(_timed(candidates[name], repeats[name]))
  rounds = len(samples[order[0]])
  return {name: np.array(samples.get(name, [took[name]] * rounds)) for name in candidates}


def _timed(call, repeats):
  start = time.perf_counter()
  for _ in range(repeats):
    call()
  return (time.perf_counter() - start) / repeats
