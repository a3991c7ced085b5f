"""Two processing units, as in the paper: a frame's specialist runs beside the next one's preview.

frames -> waiting (bounded) -> preview, on one device -> between -> answers
The thread that previews a frame also sends it on to the specialist's device, unless the preview is
confident enough, and takes the next; another thread waits for the specialist, so that both devices
work at the same time and neither waits for Python.
"""

import collections
from collections.abc import Iterable, Iterator
import contextlib
import functools
import numbers
import queue
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.counting import is_count
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence as confidence_lib
from basisnet_jax.evaluation import thresholds
from basisnet_jax.inference import fixed
from basisnet_jax.models import BasisNet, basisnet

WHEN_FULL = ('wait', 'drop_oldest')
_UNDER_WAY = 4  # Frames: one in each stage, one between them, and an answer not yet taken.
_END = object()


class Answer(NamedTuple):
  """The answers of both stages for a frame.

  Attributes:
    number: of the frame, from 0; missing ones were dropped.
    first, final: logits, `[b, classes]`, on the devices of the stages; the same if it exited.
    confidence: of the first, float32 `[b]`.
    exited: whether the first are the answer, since all images of the frame are confident enough.
    reused: whether the specialist of an earlier frame answered.
    milliseconds: from the frame's arrival to its answer.
  """

  number: int
  first: jax.Array
  final: jax.Array
  confidence: jax.Array
  exited: bool
  reused: bool
  milliseconds: float


class StreamingPredictor:
  """A two-stage model on two devices, for frames that come one after another.

  Attributes:
    metrics: of the last stream so far: the 'frames' that came, 'dropped', 'answered', of these
      'exited' and 'reused', and for each stage the average milliseconds per frame that it saw,
      'lightweight_ms' and 'specialist_ms'. Those of the first stream include compiling.
  """

  def __init__(
    self,
    model: BasisNet,
    variables: Any,
    *,
    lightweight_device: jax.Device,
    specialist_device: jax.Device,
    depth: int = 2,
    when_full: str = 'wait',
    reuse: float | None = None,
    threshold: float = thresholds.NOBODY,
    rule: str = 'max_softmax',
    temperature: float = 1.0,
  ):
    """Puts each stage's variables onto its device.

    Args:
      model: of two stages.
      variables: of the model.
      lightweight_device, specialist_device: where the stages run; they may be the same.
      depth: frames that may wait for the preview.
      when_full: what happens when as many wait: 'wait' holds up their source (a file);
        'drop_oldest' drops the one that has waited longest (a camera).
      reuse: largest distance, 0 or more, of any coefficient from those of the current specialist
        at which that specialist answers this frame, too, without blending its weights anew. Needs
        frames of one image. None: every frame has its own specialist.
      threshold: the confidence from which a frame is answered by its preview alone.
      rule: of the confidence, one of `confidence.RULES`.
      temperature: of the preview's logits.

    Raises:
      UserError: a network of one stage, or invalid variables, device, `depth`, `when_full`,
        `reuse`, `threshold`, `rule` or `temperature`.
    """
    if not isinstance(model, BasisNet):
      raise UserError(f'{type(model).__name__} is of one stage; a stream is for a BasisNet of two.')
    fixed.check_variables(variables)
    for device in (lightweight_device, specialist_device):
      if not isinstance(device, jax.Device | None):
        raise UserError(f'{device!r} is no JAX device, such as jax.devices()[0].')
    if not is_count(depth) or when_full not in WHEN_FULL:
      raise UserError(
        f'depth={depth!r}, when_full={when_full!r}: at least one frame waits, and when_full is '
        f'{" or ".join(map(repr, WHEN_FULL))}.'
      )
    reuse = None if reuse is None else _distance(reuse)
    threshold = thresholds.number('threshold', threshold)
    confidence_lib.check(rule, {'temperature': temperature})
    self._devices = lightweight_device, specialist_device
    self._depth, self._drop, self._reuse = depth, when_full == 'drop_oldest', reuse
    light, special = basisnet.of_stages(variables)

    def preview(variables, images):
      first, coefficients = model.apply(variables, images, method='preview')
      confidence = confidence_lib.of(first, rule, temperature)
      return first, coefficients, confidence, (confidence >= threshold).all()

    self._preview = fixed.fix(preview, light, lightweight_device)
    if reuse is None:
      specialize = functools.partial(model.apply, method='specialize')
      self._specialize = fixed.fix(specialize, special, specialist_device)
    else:
      blend = functools.partial(basisnet.blended, model)
      self._blend = fixed.fix(blend, special, specialist_device)
      call = lambda _, *args: basisnet.call_blended(model, *args)  # noqa: E731
      self._call_blended = fixed.fix(call, {}, specialist_device)
    self.metrics: dict[str, float] = {}

  def __call__(self, frames: Iterable[np.ndarray]) -> Iterator[Answer]:
    """Yields answers, in the order of the frames; what `frames` raises is raised here.

    Args:
      frames: batches of images in [-1, 1], float `[b, h, w, 3]`. They are copied as they come: a
        camera may write all into one array.

    Raises:
      UserError: a frame is not images (raised in place of its answer), or `frames` not an iterable.
    """
    if not isinstance(frames, Iterable):
      raise UserError(f'Frames come as [frame, ...]; this is {type(frames).__name__}.')
    stop, counts, (light, special) = threading.Event(), collections.Counter(), self._devices
    waiting = _Waiting(self._depth, self._drop, stop)
    # A slow consumer only holds up the preview: else its time would count as the specialist's.
    under_way = threading.Semaphore(_UNDER_WAY)
    between, answers = queue.SimpleQueue(), queue.SimpleQueue()
    self.metrics = {}

    def read():
      end = _END
      try:
        for number, frame in enumerate(frames):
          counts['frames'] += 1
          _check(frame)
          waiting.put((number, frame.copy(), time.perf_counter()))
          if stop.is_set():
            return
      except BaseException as error:  # SystemExit, too: else the consumer would wait forever.
        end = error
      waiting.close(end)

    def preview():
      answer = self._scenes() if self._reuse is not None else self._each
      while under_way.acquire() and isinstance(item := waiting.get(), tuple):
        number, frame, arrived = item
        began = time.perf_counter()
        found = jax.block_until_ready(self._preview(jax.device_put(frame, light)))
        sent = time.perf_counter()
        counts['lightweight_s'] += sent - began
        counts['lightweight'] += 1
        first, coefficients, confidence, exited = found
        final, reused = first, False
        if not exited:  # The device starts it when done with the frame before.
          final, reused = answer(*jax.device_put((frame, coefficients, first), special))
        said = first, final, confidence, bool(exited), reused
        between.put((number, arrived, sent, said))
      between.put(item)

    def finish():
      done = 0.0
      while isinstance(item := between.get(), tuple) and not stop.is_set():
        number, arrived, sent, (first, final, confidence, exited, reused) = item
        jax.block_until_ready(final)
        before, done = done, time.perf_counter()
        counts['specialist_s'] += 0 if exited else done - max(sent, before)
        counts['answered'] += 1
        counts['exited'] += exited
        counts['reused'] += reused
        milliseconds = 1e3 * (done - arrived)
        answers.put(Answer(number, first, final, confidence, exited, reused, milliseconds))
      answers.put(item)

    # Errors go the way of the frames, and come after the answers for those before them.
    threads = [
      threading.Thread(target=_guarded, args=(work, line), daemon=True)
      for work, line in ((read, between), (preview, between), (finish, answers))
    ]
    for thread in threads:
      thread.start()
    try:
      while isinstance(item := answers.get(), Answer):
        under_way.release()
        self.metrics = _metrics(counts, waiting.dropped)
        yield item
      self.metrics = _metrics(counts, waiting.dropped)
      if isinstance(item, BaseException):
        raise item
    finally:
      stop.set()
      waiting.close()
      under_way.release()  # The preview may wait for it.
      for thread in threads[1:]:  # The first may be waiting for a camera.
        thread.join()

  def _each(self, frame, coefficients, first):
    return self._specialize(frame, coefficients, first), False

  def _scenes(self):
    """Answers as `_each` does, but by the current specialist if the coefficients are near."""
    blended, made_by = None, None

    def answer(frame, coefficients, first):
      nonlocal blended, made_by
      if len(frame) != 1:
        raise UserError(f'reuse is for frames of one image; this one has {len(frame)}.')
      # In NumPy: JAX would compile it while the first frames are waiting.
      now = np.asarray(coefficients)
      # `all`: a cascade has none.
      near = made_by is not None and bool((np.abs(now - made_by) <= self._reuse).all())
      if not near:
        blended, made_by = self._blend(coefficients), now
      return self._call_blended(blended, frame, first), near

    return answer


def _distance(reuse):
  with contextlib.suppress(OverflowError):  # A fraction, or a whole number, may be too large.
    if isinstance(reuse, numbers.Real) and not isinstance(reuse, bool) and reuse >= 0:
      return float(reuse)
  raise UserError(
    f'reuse={reuse!r} is no distance; give 0 or more, such as 0.02, or None for a specialist of '
    'its own for every frame.'
  )


def _check(frame):
  shape, dtype = getattr(frame, 'shape', ()), getattr(frame, 'dtype', None)
  right = isinstance(frame, np.ndarray | jax.Array)
  right = right and len(shape) == 4 and shape[3] == 3 and 0 not in shape
  if not right or not jnp.issubdtype(dtype, jnp.floating):
    raise UserError(
      'A frame is an array of images in [-1, 1], float [batch, height, width, 3]; this is '
      f'{type(frame).__name__}, {dtype} {list(shape)}.'
    )


class _Waiting:
  """A queue of at most `depth` frames. After the last comes what it is closed with."""

  def __init__(self, depth, drop, stop):
    self._frames, self._depth, self._drop, self._stop = collections.deque(), depth, drop, stop
    self._changed, self._closed, self._end = threading.Condition(), False, _END
    self.dropped = 0

  def put(self, frame):
    with self._changed:
      while len(self._frames) >= self._depth and not self._closed:
        if self._drop:
          self._frames.popleft()
          self.dropped += 1
        else:
          self._changed.wait()
      self._frames.append(frame)
      self._changed.notify_all()

  def get(self):
    with self._changed:
      while not self._frames and not self._closed:
        self._changed.wait()
      frame = self._frames.popleft() if self._frames and not self._stop.is_set() else self._end
      self._changed.notify_all()
      return frame

  def close(self, end=_END):
    with self._changed:
      if not self._closed:
        self._closed, self._end = True, end
      self._changed.notify_all()


def _guarded(work, line):
  """Runs the work of a thread, and puts any exception into its queue."""
  try:
    work()
  except BaseException as error:
    line.put(error)


def _metrics(counts, dropped):
  found = {name: counts[name] for name in ('frames', 'answered', 'exited', 'reused')}
  found['dropped'] = dropped
  seen = {'lightweight': counts['lightweight'], 'specialist': counts['answered'] - counts['exited']}
  for stage, frames in seen.items():
    found[f'{stage}_ms'] = 1e3 * counts[f'{stage}_s'] / max(frames, 1)
  return found
