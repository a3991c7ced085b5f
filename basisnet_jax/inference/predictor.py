"""Predictions of a trained network: early termination, any number of images, any thread."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
import concurrent.futures
import contextlib
import functools
import itertools
import os
import statistics
import threading
import time
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import numpy as np

from basisnet_jax import photos
from basisnet_jax.counting import is_count
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import thresholds
from basisnet_jax.evaluation.chosen import NOTHING, Chosen
from basisnet_jax.inference import answering, fixed
from basisnet_jax.inference.prediction import Prediction, prediction
from basisnet_jax.models import BasisNet
from basisnet_jax.models.cost import Cost

BATCH_SIZE = 32
_TIMED = 11  # Calls, of which the median counts.


class Preparation(NamedTuple):
  """How images are prepared, as in the evaluation (`photos.central_square`)."""

  resolution: int
  share: float = 1.0
  method: str = 'bilinear'


class Predictor:
  """Answers for images in batches; the specialist runs only for undecided ones.

  All methods may be called from several threads at the same time. Each batch of a stream goes to
  one device, the least busy: how long it takes depends on how many of its images are undecided, and
  if one program ran on all devices, they would wait for the slowest. A caller of one batch at a
  time gets the first device, and the others compile nothing.

  Attributes:
    labels: of the classes.
    preparation: see `Preparation`.
    cost: of the network.
    threshold: the one that was chosen for the checkpoint; if none was, no image exits.
    sizes: batch sizes that programs are compiled for, ascending; fewer images are padded to one.
      Powers of two; on CPU none between four and the largest, which skips padding.
  """

  def __init__(
    self,
    model: nn.Module,
    variables: Any,
    *,
    labels: Sequence[str],
    preparation: Preparation,
    cost: Cost,
    chosen: Chosen = NOTHING,
    batch_size: int = BATCH_SIZE,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Compiles nothing yet: a device compiles when it first sees a batch of a size.

    Args:
      model: of one stage or two.
      variables: of the model.
      chosen: the early termination of the checkpoint.
      batch_size: the most images at once, a power of two.
      devices: None: all accelerators of this host, or its CPU.

    Raises:
      UserError: an invalid batch size, devices or early termination, an argument of another type,
        or a cost of another number of stages.
    """
    for name, given, kind in (
      ('model', model, nn.Module),
      ('labels', labels, Iterable),
      ('preparation', preparation, Preparation),
      ('cost', cost, Cost),
      ('chosen', chosen, Chosen),
    ):
      if not isinstance(given, kind):
        raise UserError(f'{name} is of the type {kind.__name__}; this is {type(given).__name__}.')
    fixed.check_variables(variables)
    if not is_count(batch_size) or batch_size & (batch_size - 1):
      raise UserError(f'batch_size={batch_size!r} is no power of two; use 1, 2, 4, 8, ...')
    self.labels, self.preparation, self.cost = tuple(labels), preparation, cost
    self.threshold = chosen.threshold
    self._chosen = chosen
    self._two_stages = cost.lightweight_madds is not None
    if self._two_stages != isinstance(model, BasisNet):
      raise UserError('cost is of another network; give that of `model`, from `cost.count`.')
    answer = answering.make_answer(model, chosen)
    devices = fixed.devices_for(devices)
    self._runs = [fixed.fix(answer, variables, device) for device in devices]
    self.sizes = _sizes(batch_size, on_cpu=devices[0].platform == 'cpu')
    self._busy, self._lock = [0] * len(self._runs), threading.Lock()
    self._latencies, self._measuring = None, threading.Lock()

  def predict(self, images: Iterable[Any], *, top_k: int = 5, **budget: float) -> list[Prediction]:
    """Returns the answers, in order.

    Args:
      images: paths, bytes, Pillow images or arrays, uint8 `[h, w, 3]`.
      top_k: how many labels per image.
      budget: at most one of `threshold`, `average_madds` and `max_latency`; see `threshold_for`.

    Raises:
      UserError: one of them is not an image, or the budget is invalid.
    """
    answers = []
    for _, answer in self.stream(images, self.threshold_for(**budget), top_k=top_k):
      if isinstance(answer, UserError):
        raise answer
      answers.append(answer)
    return answers

  def stream(
    self, images: Iterable[Any], threshold: float | None = None, *, top_k: int = 5
  ) -> Iterator[tuple[Any, Prediction | UserError]]:
    """Yields (image, answer or what is wrong with the image), in order.

    Other threads decode the next images meanwhile. `images` and `top_k` are as in `predict`;
    `threshold` is one from `threshold_for`, None the predictor's own. If the iteration over images
    raises, the exception comes after the answers for those before. An array must not change before
    its answer comes.
    """
    images = photos.several(images)
    threshold = self._checked(threshold, top_k)
    count, least = len(self._runs), 1
    batch: list = []  # (image, future of the prepared image).
    working: deque = deque()  # (batch, function that returns its answers).
    with (
      concurrent.futures.ThreadPoolExecutor(decoders()) as pool,
      concurrent.futures.ThreadPoolExecutor(count) as networks,
    ):
      try:
        for image in _with_end(images):
          last = isinstance(image, _End)
          if not last:
            batch.append((image, pool.submit(self._prepared, image)))
          if len(batch) == self.sizes[-1] or (last and batch):
            least = max(least, len(batch))  # So that the last few compile no own program.
            ask = functools.partial(self._answers, batch, threshold, top_k, least)
            # One device needs no thread, and handing over to one would cost time.
            working.append((batch, ask if count == 1 else networks.submit(ask).result))
            batch = []
          while len(working) > count or (last and working):
            yield from working[0][1]()
            working.popleft()
        if image.error is not None:
          raise image.error
      finally:
        for _, future in itertools.chain(batch, *(ready for ready, _ in working)):
          future.cancel()

  def threshold_for(
    self,
    *,
    threshold: float | None = None,
    average_madds: float | None = None,
    max_latency: float | None = None,
  ) -> float:
    """Returns the confidence at which images exit.

    The last two are met on average, for images like those held out when the checkpoint's early
    termination was chosen.

    Args:
      threshold: the confidence itself.
      average_madds: millions of multiply-adds that an image may cost.
      max_latency: milliseconds that an image may take when it comes alone (`latencies`).

    Raises:
      UserError: more than one is given, or it cannot be kept, or nothing is known about held-out
        images.
    """
    given = {'threshold': threshold, 'average_madds': average_madds, 'max_latency': max_latency}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
      return self.threshold
    if len(given) > 1:
      raise UserError('threshold, average_madds and max_latency exclude each other; give one.')
    ((name, budget),) = given.items()
    budget = thresholds.number(name, budget)
    if not self._two_stages:
      raise UserError('This network has one stage: no image can exit early, whatever the budget.')
    if threshold is not None:
      return budget
    if average_madds is not None:
      least, most = self.cost.lightweight_madds / 1e6, self.cost.total_madds / 1e6
      unit = 'million'
    else:
      (least, most), unit = self.latencies(), 'ms'
    if budget < least:
      raise UserError(
        f'{name}={budget:g} {unit} cannot be kept: the first prediction alone takes {least:.4g}.'
      )
    if budget >= most:
      return thresholds.NOBODY
    quantiles = self._chosen.heldout.get('confidence_quantiles')
    if not quantiles:
      raise UserError(
        f'{name} needs the confidences of held-out images, which were not kept with this '
        'checkpoint; evaluate it again (--mode=evaluate, with config.data.heldout_split set), or '
        'give a threshold.'
      )
    return thresholds.of_exit_rate((most - budget) / (most - least), quantiles)

  def about(self, threshold: float) -> dict[str, Any]:
    """What exports and servers tell about the network, for JSON.

    'chosen' tells how the threshold was chosen and how it did on the images that it was chosen on;
    None if `threshold` is another one, or none was chosen.
    """
    chosen = None
    if self._chosen.heldout and self._two_stages and threshold == self.threshold:
      names = 'data', 'split', 'images', 'exit_rate', 'average_madds', 'top1', 'specialist_top1'
      chosen = {'reason': self._chosen.reason} | {n: self._chosen.heldout[n] for n in names}
    return {
      'labels': list(self.labels),
      'resolution': self.preparation.resolution,
      'crop': self.preparation.share,
      'resize': self.preparation.method,
      'threshold': threshold,
      'chosen': chosen,
      'madds': {'first': self.cost.lightweight_madds, 'all': self.cost.total_madds},
    }

  def latencies(self) -> tuple[float, float]:
    """Milliseconds of one image that exits, and of one that does not: medians, measured once."""
    with self._measuring:  # Two threads would disturb each other.
      self._latencies = self._latencies or self._measured()
    return self._latencies

  def prepare(self, image: Any, most_pixels: int = photos.MOST_PIXELS) -> np.ndarray:
    """Returns what the network sees of an image as for `predict`: uint8 `[r, r, 3]`.

    Raises:
      UserError: it is not an image, or has more pixels.
    """
    return photos.central_square(photos.read(image, most_pixels), *self.preparation)

  def answers(
    self, pixels: np.ndarray, threshold: float, *, top_k: int = 5, least: int = 1
  ) -> Iterator[Prediction]:
    """Yields answers for prepared images, uint8 `[b, r, r, 3]`, at most a batch; see `stream`.

    The program that runs is one for at least `least` images, or for the largest batch.

    Raises:
      UserError: the arrays are different ones, or more.
    """
    threshold = self._checked(threshold, top_k)
    side, most = self.preparation.resolution, self.sizes[-1]
    shape, dtype = getattr(pixels, 'shape', ()), getattr(pixels, 'dtype', None)
    if dtype != np.uint8 or shape[1:] != (side, side, 3) or shape[0] > most:
      raise UserError(
        f'Prepared images are an array, uint8 [{most} or fewer, {side}, {side}, 3]; this is '
        f'{type(pixels).__name__}, {dtype} {list(shape)}.'
      )
    count = len(pixels)
    size = next(size for size in self.sizes if size >= max(count, min(least, most)))
    padded = np.concatenate([pixels, np.zeros((size - count, *pixels.shape[1:]), np.uint8)])
    with self._least_busy() as run:
      answer = jax.device_get(run(padded, np.arange(size) < count, threshold))
    told = functools.partial(prediction, labels=self.labels, cost=self.cost, top_k=top_k)
    yield from map(told, *(part[:count] for part in answer))

  def _checked(self, threshold, top_k) -> float:
    if not is_count(top_k):
      raise UserError(f'top_k={top_k!r} is no number of labels; give a whole one, from 1.')
    return self.threshold if threshold is None else thresholds.number('threshold', threshold)

  def _measured(self):
    side = self.preparation.resolution
    image, real = np.zeros((1, side, side, 3), np.uint8), np.ones(1, bool)
    found = []
    for threshold in (-1.0, thresholds.NOBODY):
      times = []
      for _ in range(_TIMED + 1):
        began = time.perf_counter()
        jax.block_until_ready(self._runs[0](image, real, threshold))
        times.append(1e3 * (time.perf_counter() - began))
      found.append(statistics.median(times[1:]))  # The first compiles.
    return found[0], found[1]

  def _prepared(self, image):
    try:
      return self.prepare(image)
    except UserError as error:
      return error

  def _answers(self, batch, threshold, top_k, least):
    prepared = [(image, future.result()) for image, future in batch]
    pixels = [array for _, array in prepared if not isinstance(array, UserError)]
    asked = functools.partial(self.answers, threshold=threshold, top_k=top_k, least=least)
    answers = iter(asked(np.stack(pixels)) if pixels else ())
    return [
      (image, array if isinstance(array, UserError) else next(answers)) for image, array in prepared
    ]

  @contextlib.contextmanager
  def _least_busy(self):
    with self._lock:
      index = self._busy.index(min(self._busy))
      self._busy[index] += 1
    try:
      yield self._runs[index]
    finally:
      with self._lock:
        self._busy[index] -= 1


class _End(NamedTuple):
  error: Exception | None


def _with_end(images: Iterator[Any]) -> Iterator[Any]:
  end = _End(None)
  try:
    yield from images
  except Exception as error:
    end = _End(error)
  yield end


def _sizes(batch_size: int, on_cpu: bool) -> list[int]:
  """Few sizes, since each is a program, which may take half a minute to compile on two cores."""
  powers = [1 << i for i in range(int(batch_size).bit_length())]
  return [size for size in powers if not on_cpu or size <= 4 or size == batch_size]


def decoders() -> int:
  """Number of decoding threads: one per core, less one for the network if there are several."""
  return max(1, (os.cpu_count() or 2) - 1)
