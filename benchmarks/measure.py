"""Interleaved timing: all candidates take turns in one run, so that a noisy machine is fair."""

from collections.abc import Callable, Mapping
import random
import time
from typing import Any, NamedTuple

import numpy as np

_LEAST_SAMPLE = 0.05  # Seconds; shorter calls are repeated, or the clock would be in the result.
_LEAST_ROUNDS = 7
_HOPELESS = 20  # Times as long as the fastest.


class Spread(NamedTuple):
  """The median of some samples and their quartiles."""

  median: float
  low: float
  high: float


def spread(samples) -> Spread:
  """Of any samples."""
  low, median, high = np.percentile(samples, (25, 50, 75))
  return Spread(float(median), float(low), float(high))


def interleaved(
  candidates: Mapping[str, Callable[[], Any]], *, seconds: float = 10.0
) -> dict[str, np.ndarray]:
  """Times candidates in rounds, each in a new order, for about so many seconds.

  Args:
    candidates: {name: function that returns when its work is done}. Each is called twice first, to
      compile and to warm up.
    seconds: to spend on all of them; there are at least seven rounds, whatever it takes. Only who
      takes longer than that alone, and twenty times as long as the fastest, is timed once.

  Returns:
    {name: seconds of a call, `[rounds]`}; samples with the same index are of the same round.
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
      candidates[name]()  # Caches and memory are as it leaves them, as when nobody else runs.
      samples[name].append(_timed(candidates[name], repeats[name]))
  rounds = len(samples[order[0]])
  return {name: np.array(samples.get(name, [took[name]] * rounds)) for name in candidates}


def _timed(call, repeats):
  start = time.perf_counter()
  for _ in range(repeats):
    call()
  return (time.perf_counter() - start) / repeats
