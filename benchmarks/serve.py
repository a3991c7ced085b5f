"""The server under load: images/s and latency, relative to calling the predictor directly.

  python -m benchmarks.serve [--seconds=10] [--output=DIR]

The server is a separate process; its clients share the machine with it, and each sends the next
request as soon as it has its answer. The floor is `Predictor.predict` for the same files: in
batches for images/s, one file alone for the latency. Half of the images end early.
"""

from collections.abc import Iterator
import concurrent.futures
import contextlib
import http.client
import io
import itertools
import multiprocessing
import socket
import statistics
import time

import ml_collections
import numpy as np
from PIL import Image

from basisnet_jax.inference.predictor import Predictor, Preparation
from basisnet_jax.models import cost
from basisnet_jax.serving import engine, service
from basisnet_jax.training import experiment
from benchmarks import measure, ours, table

_CLIENTS = (1, 8, 64)
_FILES = 128
_BATCH = 32
_FLOOR, _ALONE = f'predictor, batches of {_BATCH}', 'predictor, one image alone'
_BARS = {64: 'at least 0.8'}  # For images/s, with enough clients to fill the batches.
_LIMITS = service.Limits()


def cases(seconds: float) -> Iterator[table.Row]:
  """The main recipe, by number of clients."""
  config = ours.recipe()
  predictor, files = _predictor(config), _files(config.model.resolution)
  threshold = statistics.median(
    answer.confidence for answer in predictor.predict(files, threshold=0.0)
  )
  latencies = {clients: [] for clients in _CLIENTS}  # Lists of seconds.
  with _server(config, threshold) as port:
    calls = {
      _FLOOR: lambda: predictor.predict(files, threshold=threshold),
      _ALONE: lambda: predictor.predict(files[:1], threshold=threshold),
    }
    for clients, kept in latencies.items():
      calls[str(clients)] = lambda clients=clients, kept=kept: kept.append(
        _load(port, files, clients)
      )
    samples = measure.interleaved(calls, seconds=seconds * len(calls))
  floor, alone = samples[_FLOOR], samples[_ALONE]
  for clients, kept in latencies.items():
    case = f'{clients} client{"s" if clients > 1 else ""}'
    times = samples[str(clients)]
    yield table.Row(case, _FLOOR, measure.spread(_FILES / floor), 'images/s')
    rate, ratio = measure.spread(_FILES / times), measure.spread(floor / times)
    yield table.Row(case, 'server', rate, 'images/s', _FLOOR, ratio, _BARS.get(clients, ''))
    yield table.Row(case, _ALONE, measure.spread(1e3 * alone), 'ms')
    for percentile in (50, 95, 99):
      found = np.percentile(kept[-len(times) :], percentile, axis=1)
      ratio = measure.spread(found / np.median(alone))
      name = f'latency, percentile {percentile}'
      yield table.Row(case, name, measure.spread(1e3 * found), 'ms', _ALONE, ratio)


def _predictor(config):
  model, held = ours.basisnet(config)
  side = config.model.resolution
  return Predictor(
    model,
    held,
    labels=[str(i) for i in range(experiment.num_classes(config))],
    preparation=Preparation(side),
    cost=cost.count(model, side, held),
    batch_size=_BATCH,
  )


def _files(side):
  """JPEGs a bit larger than the network's input."""
  random, found = np.random.default_rng(0), []
  for _ in range(_FILES):
    blocks = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
    file = io.BytesIO()
    blocks.resize((side * 3 // 2, side * 9 // 8), Image.Resampling.BICUBIC).save(file, 'JPEG')
    found.append(file.getvalue())
  return found


@contextlib.contextmanager
def _server(config, threshold) -> Iterator[int]:
  """Starts a server and yields its port when it is ready."""
  with socket.create_server(('127.0.0.1', 0)) as listener:
    port = listener.getsockname()[1]
    process = multiprocessing.get_context('spawn').Process(
      target=_serve, args=(listener, config, threshold)
    )
    process.start()
  try:
    while _ask(port, 'GET', '/health') != 200:
      if not process.is_alive():
        raise RuntimeError('The server has ended.')
      time.sleep(0.2)
    yield port
  finally:
    process.terminate()
    process.join()


def _serve(listener: socket.socket, config: ml_collections.ConfigDict, threshold: float) -> None:
  server = service.Service(_predictor(config), threshold, _LIMITS, {})
  engine.run(server, listener, _LIMITS.seconds)


def _ask(port, method, path, body=None):
  try:
    connection = http.client.HTTPConnection('127.0.0.1', port)
    connection.request(method, path, body)
    return connection.getresponse().status
  except ConnectionError:
    return None
  finally:
    connection.close()


def _load(port, files, clients):
  """Requests all files; returns the seconds that each took."""
  left = itertools.chain(files)

  def client(_):
    connection, found = http.client.HTTPConnection('127.0.0.1', port), []
    for file in left:
      began = time.perf_counter()
      connection.request('POST', '/predict', file, {'Content-Type': 'image/jpeg'})
      answer = connection.getresponse()
      answer.read()
      assert answer.status == 200
      found.append(time.perf_counter() - began)
    connection.close()
    return found

  with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    return sum(pool.map(client, range(clients)), [])


if __name__ == '__main__':
  table.main('serve', 'The server, over the predictor called directly', cases, asynchronous=True)
