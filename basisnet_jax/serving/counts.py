"""A server's metrics, for Prometheus."""

from collections.abc import Callable

import prometheus_client as prometheus

from basisnet_jax.inference.prediction import Prediction

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
KIND = prometheus.CONTENT_TYPE_LATEST


class Counts:
  """All counts since the start."""

  def __init__(self, most: int, waiting: Callable[[], int], unanswered: Callable[[], int]):
    """`most` is the largest batch; the functions tell how many images and requests wait now."""
    self._registry = registry = prometheus.CollectorRegistry()
    prometheus.ProcessCollector(registry=registry)
    self._requests = prometheus.Counter(
      'basisnet_requests', 'By path and status; 499: the client left.', ['path', 'status'],
      registry=registry,
    )  # fmt: skip
    self._seconds = prometheus.Histogram(
      'basisnet_answer_seconds', 'From the head of a request to the answer for its image.',
      buckets=_SECONDS, registry=registry,
    )  # fmt: skip
    self._batches = prometheus.Histogram(
      'basisnet_batch_images', 'Images that were answered together.', registry=registry,
      buckets=[1 << i for i in range(most.bit_length())],
    )  # fmt: skip
    self._answers = prometheus.Counter(
      'basisnet_answers', 'By the stage that answered: those of the lightweight one ended early.',
      ['stage'], registry=registry,
    )  # fmt: skip
    self._madds = prometheus.Counter(
      'basisnet_madds', 'Multiply-adds of all answers.', registry=registry
    )
    for name, about, function in (
      ('basisnet_queue_images', 'Images that wait for a batch.', waiting),
      ('basisnet_requests_unanswered', 'Requests for answers that are accepted.', unanswered),
    ):
      prometheus.Gauge(name, about, registry=registry).set_function(function)

  def request(self, path: str, status: int) -> None:
    """Counts a request that was answered; 499 if its client had left."""
    self._requests.labels(path, str(status)).inc()

  def batch(self, size: int) -> None:
    """Counts a batch that went through the network."""
    self._batches.observe(size)

  def answer(self, answer: Prediction, seconds: float) -> None:
    """Counts an image that has its answer, and the seconds that it took."""
    self._answers.labels(answer.stage).inc()
    self._madds.inc(answer.madds)
    self._seconds.observe(seconds)

  def text(self) -> bytes:
    """The metrics in Prometheus' format, of content type `KIND`."""
    return prometheus.generate_latest(self._registry)
