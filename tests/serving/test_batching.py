"""The queue in front of a network that is held back as the tests want."""

import asyncio
import threading

import numpy as np
import pytest

from basisnet_jax.serving.batching import Batches


class Network:
  """Answers with each image's own number; waits for `go`."""

  def __init__(self):
    self.seen, self.go, self.began = [], threading.Event(), threading.Event()
    self.go.set()
    self.error = None

  def __call__(self, pixels, top_k):
    self.seen.append(([int(image[0]) for image in pixels], top_k))
    self.began.set()
    assert self.go.wait(60)
    if self.error:
      raise self.error
    return (f'answer {image[0]}' for image in pixels)


def image(number):
  return np.full(3, number, np.uint8)


def batches_of(network, answered=None, **options):
  on_batch = (lambda size: None) if answered is None else answered.append
  return Batches(network, **{'sizes': [1, 2, 4], 'wait': 0.0, 'on_batch': on_batch, **options})


def within(batches, scenario):
  """Runs the scenario while the batches are answered."""

  async def both():
    work = asyncio.create_task(batches.run())
    try:
      return await asyncio.wait_for(scenario(), 60)
    finally:
      work.cancel()

  return asyncio.run(both())


async def until(condition):
  while not condition():
    await asyncio.sleep(0.001)


def test_who_comes_while_the_network_runs_is_the_next_batch():
  network, sizes = Network(), []
  batches = batches_of(network, sizes)
  network.go.clear()

  async def scenario():
    first = asyncio.create_task(batches.ask(image(0), 1))
    await until(network.began.is_set)
    others = [asyncio.create_task(batches.ask(image(i), i)) for i in range(1, 7)]
    await until(lambda: len(batches) == 6)
    network.go.set()
    return await asyncio.gather(first, *others)

  assert within(batches, scenario) == [f'answer {i}' for i in range(7)]
  assert network.seen == [([0], 1), ([1, 2, 3, 4], 4), ([5, 6], 6)]
  assert sizes == [1, 4, 2] and len(batches) == 0


def test_an_idle_network_waits_for_others_but_not_for_more_than_a_batch():
  network = Network()
  batches = batches_of(network, wait=1000.0)

  async def scenario():
    asks = [asyncio.create_task(batches.ask(image(0), 1))]
    await asyncio.sleep(0.05)
    assert not network.seen and len(batches) == 1
    asks += [asyncio.create_task(batches.ask(image(i), 1)) for i in (1, 2, 3)]
    return await asyncio.gather(*asks)

  assert within(batches, scenario) == [f'answer {i}' for i in range(4)]
  assert network.seen == [([0, 1, 2, 3], 1)]


def test_the_wait_ends():
  network = Network()
  batches = batches_of(network, wait=0.05)
  assert within(batches, lambda: batches.ask(image(7), 1)) == 'answer 7'


def test_nobody_waits_for_others_in_a_hurry():
  network = Network()
  batches = batches_of(network, wait=1000.0)

  async def scenario():
    ask = asyncio.create_task(batches.ask(image(5), 1))
    await until(lambda: len(batches) == 1)
    batches.hurry()
    return await ask, await batches.ask(image(6), 1)

  assert within(batches, scenario) == ('answer 5', 'answer 6')


def test_who_gives_up_leaves_the_queue_and_disturbs_nobody():
  network = Network()
  batches = batches_of(network)
  network.go.clear()

  async def scenario():
    asks = [asyncio.create_task(batches.ask(image(0), 1))]
    await until(network.began.is_set)
    asks += [asyncio.create_task(batches.ask(image(i), 1)) for i in (1, 2, 3)]
    await until(lambda: len(batches) == 3)
    asks[0].cancel()  # The network has it already.
    asks[2].cancel()
    await until(lambda: len(batches) == 2)
    network.go.set()
    return await asyncio.gather(*asks, return_exceptions=True)

  gone, second, also_gone, last = within(batches, scenario)
  assert (second, last) == ('answer 1', 'answer 3')
  assert isinstance(gone, asyncio.CancelledError) and isinstance(also_gone, asyncio.CancelledError)
  assert [numbers for numbers, _ in network.seen] == [[0], [1, 3]]


def test_an_error_is_theirs_who_asked_and_the_next_are_answered():
  network = Network()
  batches = batches_of(network)

  async def scenario():
    network.error = RuntimeError('out of memory')
    for _ in range(2):
      with pytest.raises(RuntimeError, match='out of memory'):
        await batches.ask(image(1), 1)
      assert batches.failing
    network.error = None
    assert await batches.ask(image(2), 1) == 'answer 2'
    assert not batches.failing

  within(batches, scenario)


@pytest.mark.parametrize('sizes', [[1], [1, 2, 4, 8]])
def test_every_size_is_compiled_first(sizes):
  network, told = Network(), []
  asyncio.run(batches_of(network, sizes=sizes).warm_up((3,), told.append))
  assert [len(numbers) for numbers, _ in network.seen] == sizes
  assert told == [*range(len(sizes) + 1)]
