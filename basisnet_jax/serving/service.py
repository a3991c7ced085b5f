"""The ASGI application of a server: POST /predict, GET /, /health and /metrics."""

import asyncio
from collections.abc import Awaitable, Mapping
import concurrent.futures
import functools
import time
from typing import Any, NamedTuple

from absl import logging
import numpy as np

from basisnet_jax import photos
from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError
from basisnet_jax.inference import folder
from basisnet_jax.inference import predictor as predictor_lib
from basisnet_jax.serving import counts
from basisnet_jax.serving.batching import Batches
from basisnet_jax.serving.exchange import Answer, Gone, Refusal, Request

_GONE = 499  # nginx's status for a client that has left.
_HANGS = 3  # Request timeouts after which nobody waits for a batch any more.
_PATIENCE = 3.0  # Seconds that an upload may take while others wait for a place in the queue.


class Limits(NamedTuple):
  """A server's limits and defaults.

  Attributes:
    top_k: labels of an answer, if the request does not say.
    batch_wait: seconds that an image waits for others while the network is idle.
    body: most bytes of a request.
    pixels: most pixels of an image.
    requests: most requests accepted and not answered yet; each may hold a body in memory.
    seconds: from the head of a request to its answer.
  """

  top_k: int = 5
  batch_wait: float = 0.002
  body: int = 10_000_000
  pixels: int = photos.MOST_PIXELS
  requests: int = 256
  seconds: float = 30.0


class Service:
  """Serves one predictor, in one event loop.

  Attributes:
    ready: whether everything is compiled.
  """

  def __init__(
    self,
    predictor: predictor_lib.Predictor,
    threshold: float,
    limits: Limits,
    about: Mapping[str, Any],
  ):
    """Starts nothing: `run` does.

    Args:
      predictor: its largest batch is the most images that are answered at once.
      threshold: from `Predictor.threshold_for`.
      limits: see `Limits`.
      about: what `GET /` answers.
    """
    self._predictor, self._limits, self._about = predictor, limits, dict(about)
    self._decoders = concurrent.futures.ThreadPoolExecutor(predictor_lib.decoders())
    self.ready, self._ending, self._unanswered = False, False, 0
    self._uploads: dict[asyncio.Timeout, float] = {}  # Under way, with when they began, in order.
    side = predictor.preparation.resolution
    self._shape = side, side, 3
    self._counts = counts.Counts(
      predictor.sizes[-1], lambda: len(self._batches), lambda: self._unanswered
    )
    self._batches = Batches(
      lambda pixels, top_k: predictor.answers(pixels, threshold, top_k=top_k),
      sizes=predictor.sizes,
      wait=limits.batch_wait,
      on_batch=self._counts.batch,
    )
    shown = {'/': self._tell, '/health': self._health, '/metrics': self._metrics}
    self._routes = {
      '/predict': {'POST': self._predict},
      **{path: {'GET': answer, 'HEAD': answer} for path, answer in shown.items()},
    }

  async def run(self) -> None:
    """Compiles, then answers until it is cancelled."""
    began, count = time.monotonic(), len(self._predictor.sizes)

    def tell(done):
      seconds = time.monotonic() - began
      print(f'Compiling: {done} of {counted(count, "program")} in {seconds:.0f} s.', flush=True)

    await self._batches.warm_up(self._shape, tell)
    self.ready = True
    print('Ready.', flush=True)
    await self._batches.run()

  def refused(self, status: int) -> None:
    """Counts a request that was answered without the service, with this status."""
    self._counts.request('other', status)

  def hurry(self) -> None:
    """Call this when no more connections will come."""
    self._ending = True
    self._batches.hurry()

  async def __call__(self, scope, receive, send) -> None:
    """Answers one request, whatever it is."""
    began = time.perf_counter()
    request = Request(scope, receive)
    path = request.path if request.path in self._routes else 'other'
    try:
      answer = await self._answer(request, began)
    except Gone:
      self._counts.request(path, _GONE)
      return
    except asyncio.CancelledError:
      if not self._ending:
        raise
      # A second Ctrl-C waits for nobody. (Uvicorn would log a stack trace for each request.)
      answer = Answer.of_refusal(Refusal(503, 'The server ends, and answers no more.'))
    self._counts.request(path, answer.status)
    # If the body was not asked for, what comes next may be the body or another request.
    unclear = request.holds_back and not request.complete
    await answer.send(send, last=self._ending or unclear)

  async def _answer(self, request, began):
    try:
      return await self._handler(request)(request, began)
    except Refusal as refusal:
      if not request.complete and refusal.status != 408:
        await request.drop_body()
      return Answer.of_refusal(refusal)
    except Gone:
      raise
    except Exception:
      logging.exception('%s %s fails.', request.method, request.path)
      return Answer.of_refusal(Refusal(500, 'The server fails at this request; its log tells why.'))

  def _handler(self, request):
    if request.path not in self._routes:
      raise Refusal(
        404, f'There is no {request.path[:80]}; there are {", ".join(sorted(self._routes))}.'
      )
    methods = self._routes[request.path]
    if request.method not in methods:
      wanted, *_ = methods
      raise Refusal(
        405,
        f'{request.path} is asked by {wanted}, not by {request.method[:20]}.',
        {'allow': ', '.join(methods)},
      )
    return methods[request.method]

  async def _predict(self, request, began):
    top_k = self._check(request)
    if not self.ready:
      raise self._not_ready()
    if self._unanswered >= self._limits.requests and not self._end_slow_upload():
      raise Refusal(
        503,
        f'The queue is full, with {counted(self._unanswered, "request")}, the limit of this server '
        '(--queue); try again in a second.',
        {'retry-after': '1'},
      )
    self._unanswered += 1
    try:
      async with asyncio.timeout(self._limits.seconds):
        data = await self._body(request)
        answer = await _unless_gone(request, self._ask(data, top_k))
    except TimeoutError as error:
      seconds = f'{self._limits.seconds:g} seconds, the limit of this server (--request_timeout)'
      if not request.complete:
        raise Refusal(
          408, f'The body did not come within {seconds}; send a smaller image.',
          {'connection': 'close'},
        ) from error  # fmt: skip
      raise Refusal(
        504, f'There was no answer within {seconds}: too many ask; try again later.'
      ) from error
    finally:
      self._unanswered -= 1
    answer = answer._replace(
      labels=answer.labels[:top_k], probabilities=answer.probabilities[:top_k]
    )
    self._counts.answer(answer, time.perf_counter() - began)
    return Answer(200, folder.as_json(answer))

  async def _body(self, request):
    upload = asyncio.timeout(None)  # `_end_slow_upload` may set it.
    self._uploads[upload] = time.monotonic()
    try:
      async with upload:
        data = await request.body(self._limits.body)
    except TimeoutError as error:
      raise Refusal(
        408, f'The queue is full, and the body had not come within {_PATIENCE:g} seconds; send a '
        'smaller image.', {'connection': 'close'},
      ) from error  # fmt: skip
    finally:
      self._uploads.pop(upload, None)
    if not data:
      raise Refusal(400, 'The body is empty; it is to be the bytes of an image.')
    return data

  def _end_slow_upload(self) -> bool:
    """Ends the oldest upload if it is slow, or a few clients could stop all; returns whether."""
    if not self._uploads:
      return False
    upload, began = next(iter(self._uploads.items()))
    if time.monotonic() - began < _PATIENCE:
      return False
    del self._uploads[upload]
    upload.reschedule(0)
    return True

  async def _ask(self, data, top_k):
    loop = asyncio.get_running_loop()
    try:
      prepare = functools.partial(self._predictor.prepare, data, self._limits.pixels)
      pixels = await loop.run_in_executor(self._decoders, prepare)
    except UserError as error:
      raise Refusal(422, str(error)) from error
    return await self._batches.ask(pixels, top_k)

  def _check(self, request) -> int:
    """Returns how many labels are wanted; refuses what can be refused from the head alone."""
    kind = request.headers.get('content-type', '').split(';')[0].strip().lower()
    if kind and not kind.startswith('image/') and kind != 'application/octet-stream':
      raise Refusal(
        415,
        f'Content-Type: {kind[:80]}: the body is to be an image file itself, such as image/jpeg, '
        "image/png or image/webp (curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg).",
      )
    if coding := request.headers.get('content-encoding'):
      raise Refusal(415, f'Content-Encoding: {coding[:80]}: send the image file as it is.')
    if unknown := set(request.query) - {'top_k'}:
      raise Refusal(400, f'?{min(unknown)[:80]}= is not known; there is ?top_k=, how many labels.')
    most = len(self._predictor.labels)
    given = request.query.get('top_k', [str(min(self._limits.top_k, most))])[-1]
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
      raise Refusal(400, f'?top_k={given[:80]}: it is a number of labels, from 1 to {most}.')
    return min(int(given), most)

  async def _tell(self, request, began):
    return Answer(200, self._about)

  async def _health(self, request, began):
    if not self.ready:
      raise self._not_ready()
    if (seconds := self._batches.working()) > _HANGS * self._limits.seconds:
      raise Refusal(
        503, f'The network has worked on one batch for {seconds:.0f} seconds: it hangs.'
      )
    if self._batches.failing:  # Tries again: an unhealthy server may get no other requests.
      try:
        async with asyncio.timeout(self._limits.seconds):
          await self._batches.ask(np.zeros(self._shape, np.uint8), 1)
      except Exception as error:
        raise Refusal(503, 'The network fails; the log of the server tells why.') from error
    return Answer(200, {'status': 'ready'})

  async def _metrics(self, request, began):
    return Answer(200, self._counts.text(), kind=counts.KIND)

  def _not_ready(self):
    return Refusal(
      503, 'The network is being compiled; try again in a few seconds.', {'retry-after': '5'}
    )


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
  """Returns what `work` returns; cancels it and raises Gone if the client leaves before."""
  work, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.gone())
  try:
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
      raise Gone
    return work.result()
  finally:
    work.cancel()
    gone.cancel()
