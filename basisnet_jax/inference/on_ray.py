"""Predictions on a cluster, by Ray Data: the only file that uses it.

Each worker loads the run, and reads, prepares and predicts its share of the files. Only answers
come back, in the files' order. A worker that dies is restarted, and its files are predicted again.
"""

from collections.abc import Callable, Iterator, Sequence
import logging
import os
import pickle
import signal
import socket
import threading
import warnings

from basisnet_jax.errors import UserError
from basisnet_jax.inference.prediction import Prediction
from basisnet_jax.inference.predictor import Predictor

_FILES = 256  # Per call of a worker: enough to keep a batch of photos ahead of the network.
_ANSWERS_IN = 10  # Seconds.


def stream(
  load: Callable[[], Predictor],
  paths: Sequence[str],
  threshold: float,
  *,
  top_k: int,
  address: str,
) -> Iterator[tuple[str, Prediction | UserError]]:
  """Connects, and returns an iterator of (path, answer or what is wrong with it), in order.

  Args:
    load: makes a worker's predictor, on the device that it sees; it is pickled.
    paths: of images, where all workers can read them.
    threshold: confidence at which images exit.
    top_k: how many labels per image.
    address: of a Ray cluster; 'auto' is this machine's, 'local' starts one here.

  Raises:
    UserError: Ray is not installed, there is no such cluster, or no worker could start.
  """
  try:
    import ray
    import ray.data
  except ImportError as error:
    raise UserError('--ray needs Ray: pip install basisnet_jax[ray].') from error

  _connect(ray, address)
  return _answers(ray, load, paths, threshold, top_k)


def _answers(ray, load, paths, threshold, top_k):
  class Worker:
    def __init__(self):
      self._predictor, self._error = None, None
      try:
        self._predictor = load()
      except UserError as error:  # Ray would print its stack trace and retry.
        self._error = str(error)

    def __call__(self, batch):
      paths = [os.fsdecode(path) for path in batch['path']]
      if self._error:
        return {'error': [self._error] * len(paths), 'answer': [b''] * len(paths)}
      answers = self._predictor.stream(paths, threshold, top_k=top_k)
      answers = [pickle.dumps(answer) for _, answer in answers]
      return {'error': [''] * len(paths), 'answer': answers}

  try:
    options = ray.data.DataContext.get_current()
    options.enable_progress_bars = False
    options.execution_options.preserve_order = True
    count, resources = _workers(ray)
    blocks = max(1, min(len(paths), max(count, len(paths) // _FILES)))
    # As bytes: names of files need not be UTF-8, which Ray's strings are.
    files = [{'path': os.fsencode(os.path.abspath(path))} for path in paths]
    answers = ray.data.from_items(files, override_num_blocks=blocks).map_batches(
      Worker, batch_size=_FILES, compute=ray.data.ActorPoolStrategy(size=count), **resources
    )
    for path, row in zip(paths, answers.iter_rows(), strict=True):
      if row['error']:
        raise UserError(f'A worker on Ray failed: {row["error"]}')
      yield path, pickle.loads(row['answer'])
  except ray.exceptions.RayError as error:
    cause = str(getattr(error, 'cause', None) or error).strip().splitlines()[-1]
    raise UserError(f'A worker on Ray failed: {cause}') from error
  finally:
    ray.shutdown()


def _connect(ray, address):
  logging.getLogger('ray.data').setLevel(logging.CRITICAL)  # Plan, progress, stack traces.
  os.environ.setdefault('RAY_BACKEND_LOG_LEVEL', 'fatal')
  try:
    host, _, port = address.rpartition(':')
    if host.strip('/') and port.isdigit():  # Ray itself would try for minutes.
      socket.create_connection((host.removeprefix('ray://'), int(port)), _ANSWERS_IN).close()
    with warnings.catch_warnings():
      warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)  # It execs at once.
      where = None if address == 'local' else address
      before = signal.getsignal(signal.SIGTERM)
      ray.init(where, log_to_driver=False, logging_level=logging.CRITICAL)
      if threading.current_thread() is threading.main_thread():  # Only it may set them.
        signal.signal(signal.SIGTERM, before)  # Ray's handler prints addresses and aborts.
  except (OSError, ValueError) as error:
    raise UserError(
      f"--ray={address}: no Ray cluster answers there ('local' starts one)."
    ) from error
  except Exception as error:  # Ray has no more specific one for failing to start.
    reason = ' '.join(str(error).split())
    raise UserError(f'--ray={address}: Ray did not start ({reason}); try again.') from error


def _workers(ray) -> tuple[int, dict[str, float]]:
  """One worker per GPU; without GPUs, one per machine, with all cores but one, left to Ray."""
  there = ray.cluster_resources()
  if gpus := int(there.get('GPU', 0)):
    return gpus, {'num_gpus': 1}
  machines = sum(node['Alive'] for node in ray.nodes())
  return machines, {'num_cpus': max(1, int(there['CPU'] / machines) - 1)}
