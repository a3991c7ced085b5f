"""Answers images that come one by one in batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
import concurrent.futures
import dataclasses
import time
from typing import Any

import numpy as np


@dataclasses.dataclass(eq=False)
class _Waiting:
  pixels: np.ndarray
  top_k: int
  since: float
  answer: asyncio.Future


class Batches:
  """A queue in front of a network, in one event loop; the network runs in a thread of its own.

  Images that come while the network runs form the next batch, in order of arrival; one that finds
  the network idle waits a little for others.

  Attributes:
    failing: whether the network failed at the last batch.
  """

  def __init__(
    self,
    answer: Callable[[np.ndarray, int], Sequence[Any]],
    *,
    sizes: Sequence[int],
    wait: float,
    on_batch: Callable[[int], None],
  ):
    """Starts nothing: see `run`.

    Args:
      answer: from images `[b, ...]` and the largest top_k to b answers; it is called in a thread.
      sizes: batch sizes that the network is compiled for, ascending: the last is the most at once.
      wait: seconds that the first image of a batch waits for others.
      on_batch: called with the size of each batch that was answered.
    """
    self.failing = False
    self._began: float | None = None  # When the network got its current batch.
    self._answer, self._sizes, self._wait, self._on_batch = answer, sizes, wait, on_batch
    self._waiting: deque[_Waiting] = deque()
    self._changed = asyncio.Event()
    self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix='network')

  def __len__(self) -> int:
    """How many images wait, without those that the network works on."""
    return len(self._waiting)

  def working(self) -> float:
    """Seconds since the network got its current batch; 0 if it is idle."""
    return 0.0 if self._began is None else time.monotonic() - self._began

  async def ask(self, pixels: np.ndarray, top_k: int) -> Any:
    """Returns the answer for an image `[...]`, with at least `top_k` labels.

    If the caller is cancelled, its image leaves the queue. Raises what the network raised.
    """
    own = _Waiting(pixels, top_k, time.monotonic(), asyncio.get_running_loop().create_future())
    self._waiting.append(own)
    self._changed.set()
    try:
      return await own.answer
    finally:
      if own in self._waiting:  # It was cancelled.
        self._waiting.remove(own)

  def hurry(self) -> None:
    """Makes images wait for others no longer: no more will come."""
    self._wait = 0
    self._changed.set()

  async def warm_up(self, shape: Sequence[int], on_size: Callable[[int], None]) -> None:
    """Runs a batch of each size, of images of this shape, so that everything is compiled.

    `on_size` is called with the number of sizes done, from 0 on.
    """
    for done, size in enumerate(self._sizes):
      on_size(done)
      await self._run(np.zeros((size, *shape), np.uint8), 1)
    on_size(len(self._sizes))

  async def run(self) -> None:
    """Answers until it is cancelled."""
    while True:
      await self._until_due()
      batch = [self._waiting.popleft() for _ in range(min(self._sizes[-1], len(self._waiting)))]
      pixels, top_k = np.stack([one.pixels for one in batch]), max(one.top_k for one in batch)
      try:
        answers = await self._run(pixels, top_k)
      except Exception as error:  # Goes to the callers; the next batch may do better.
        self.failing = True
        for one in batch:
          if not one.answer.done():
            one.answer.set_exception(error)
        continue
      self.failing = False
      self._on_batch(len(batch))
      for one, answer in zip(batch, answers, strict=True):
        if not one.answer.done():  # Cancelled if the client has left.
          one.answer.set_result(answer)

  async def _until_due(self):
    while True:
      if len(self._waiting) >= self._sizes[-1]:
        return
      left = self._waiting[0].since + self._wait - time.monotonic() if self._waiting else None
      if left is not None and left <= 0:
        return
      self._changed.clear()
      try:
        await asyncio.wait_for(self._changed.wait(), left)
      except TimeoutError:
        pass

  async def _run(self, pixels, top_k):
    loop = asyncio.get_running_loop()
    self._began = time.monotonic()
    try:
      return await loop.run_in_executor(self._thread, lambda: list(self._answer(pixels, top_k)))
    finally:
      self._began = None
