"""`--mode=serve`: a run's network answers over HTTP."""

import socket

import jax

from basisnet_jax import predict
from basisnet_jax.errors import UserError


def serve_workdir(
  workdir: str,
  *,
  checkpoint: str,
  host: str,
  port: int,
  top_k: int,
  batch_size: int,
  batch_wait: float,
  max_body: float,
  max_pixels: float,
  queue: int,
  request_timeout: float,
  weights: str = 'float32',
  **budget: float | None,
) -> None:
  """Serves until SIGTERM or SIGINT.

  Args:
    workdir: of a run.
    checkpoint: 'latest' or 'best'.
    host: address to listen on.
    port: 0 picks a free one.
    top_k: labels of an answer, if the request does not say.
    batch_size: the most images that are answered at once, a power of two.
    batch_wait: milliseconds that an image waits for others while the network is idle.
    max_body: largest request body, millions of bytes.
    max_pixels: largest image, millions of pixels.
    queue: the most requests accepted and not answered yet.
    request_timeout: seconds from the head of a request to its answer.
    weights: as for `predict.load`.
    budget: as for `Predictor.threshold_for`.

  Raises:
    UserError: a library is missing, there is no such run, its budget cannot be kept, or the
      address cannot be listened on.
  """
  try:
    from basisnet_jax.serving import engine, service
  except ImportError as error:
    raise UserError(f'--mode=serve needs {error.name}: pip install basisnet_jax[serve].') from error
  device = jax.local_devices()[0]  # One: batches run one after another.
  predictor = predict.load(
    workdir, checkpoint=checkpoint, batch_size=batch_size, devices=[device], weights=weights
  )
  threshold = predictor.threshold_for(**budget)
  limits = service.Limits(
    top_k,
    batch_wait / 1e3,
    int(max_body * 1e6),
    int(max_pixels * 1e6),
    queue,
    request_timeout,
  )
  told = predictor.about(threshold) | {'device': str(device)}
  server = service.Service(predictor, threshold, limits, told)
  with _listen(host, port) as listener:
    _tell(listener, predictor, threshold)
    engine.run(server, listener, request_timeout)


def _listen(host, port):
  if not host:  # Such as an unset variable; the system would take it for all addresses.
    raise UserError('--host is empty; give an address to listen on, 0.0.0.0 for all.')
  try:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
  except (OSError, OverflowError, TypeError) as error:  # The last: not a host name.
    raise UserError(
      f'--host={host} --port={port}: nobody can listen there ({error}); give another one.'
    ) from error


def _tell(listener, predictor, threshold):
  host, port = listener.getsockname()[:2]
  host = f'[{host}]' if ':' in host else host
  if mending := predict.how_to_exit(predictor, threshold):
    print(mending)
  print(
    f'http://{host}:{port}: POST /predict, GET /, /health, /metrics. It compiles first.',
    flush=True,
  )
