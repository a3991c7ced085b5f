"""Early termination in one compiled function: the specialist runs only for undecided images.

images -> preview -> sure? -> answered
                     else  -> gathered into chunks -> specialize -> answered
Nothing goes to the host in between, whatever share of the images exits.
"""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.counting import is_count
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence as confidence_lib
from basisnet_jax.evaluation import thresholds
from basisnet_jax.models import BasisNet, microbatches, target

# How many images the specialist runs for at once, then how many of those that remain. On CPU an
# image takes 5.5 ms alone, 4.3 in a batch of two, 4.0 of three, 3.2 of four, 3.0 of eight, and no
# less in larger ones (measured).
_CHUNKS = {'cpu': (8, 4, 3, 2, 1)}
_USUAL_CHUNKS = (64, 16)


class Predictions(NamedTuple):
  """Predictions of a two-stage model.

  Attributes:
    logits: of the stage that answered, divided by its temperature, float32 `[b, classes]`.
    confidence: of the first prediction, float32 `[b]`.
    exited: whether the first prediction is the answer, bool `[b]`.
  """

  logits: jax.Array
  confidence: jax.Array
  exited: jax.Array


def make_predict(
  model: BasisNet,
  *,
  rule: str = 'max_softmax',
  temperatures: Mapping[str, float] | None = None,
  chunks: tuple[int, ...] | None = None,
) -> Callable[[Any, jax.Array, float | jax.Array], Predictions]:
  """Returns `predict(variables, images, threshold, real=True)`, to be jitted.

  Outside of `jax.jit` it works, too, if the threshold is any finite number (else a UserError).
  Images `[b, h, w, 3]` in [-1, 1] exit if the confidence is at least the threshold; with one above
  1 none do. Rows where `real`, bool `[b]`, is False are padding, which always exits. The
  specialist's batch normalisation uses its running averages, so that it does not matter which
  images it sees together.

  Args:
    model: of two stages.
    rule: of `confidence.RULES`.
    temperatures: {'lightweight': ..., 'specialist': ...}, as far as fitted; 1 for the others.
    chunks: batch sizes that the specialist may run for, descending; each is one more copy of it
      in the program. None: what suits the backend.

  Raises:
    UserError: a network of one stage, an unknown rule, or invalid temperatures or chunks;
      `predict` raises it for images of another kind.
  """
  if not isinstance(model, BasisNet):
    raise UserError(
      f'{type(model).__name__} is of one stage; only a BasisNet of two can end early.'
    )
  confidence_lib.check(
    rule, {f'temperatures[{stage!r}]': value for stage, value in (temperatures or {}).items()}
  )
  temperature = {'lightweight': 1.0, 'specialist': 1.0}
  if unknown := set(temperatures or {}) - set(temperature):
    raise UserError(
      f'temperatures[{unknown.pop()!r}] is of no stage; there are {" and ".join(temperature)}.'
    )
  temperature |= temperatures or {}
  counts = isinstance(chunks, Sequence) and len(chunks) > 0 and all(map(is_count, chunks))
  if not (chunks is None or counts):
    raise UserError(f'chunks={chunks!r} are no numbers of images; give whole ones, as (8, 4, 1).')

  def predict(variables, images, threshold, real=True):
    images = jnp.asarray(images)  # NumPy's have no `at`.
    right = images.ndim == 4 and 0 not in images.shape
    if not right or not jnp.issubdtype(images.dtype, jnp.floating):
      raise UserError(
        'Images are an array in [-1, 1], float [batch, height, width, 3]; this is '
        f'{images.dtype} {list(images.shape)}.'
      )
    if not isinstance(threshold, jax.Array | np.ndarray):
      threshold = thresholds.number('threshold', threshold)
    preview = functools.partial(model.apply, variables, method='preview')
    batch = images.shape[0]
    real = jnp.broadcast_to(jnp.asarray(real, bool), batch)  # On integers `~` is not `not`.
    first, coefficients = microbatches.call(preview, images, wanted=real)
    confidence = confidence_lib.of(first, rule, temperature['lightweight'])
    exited = (confidence >= threshold) | ~real
    at_once = chunks or _CHUNKS.get(target.platform(), _USUAL_CHUNKS)
    sizes = sorted({min(size, batch) for size in at_once}, reverse=True)
    kept = batch - exited.sum()
    # Undecided images first. Rows past them belong to no image: their results are dropped.
    order = jnp.where(jnp.arange(batch) < kept, jnp.argsort(exited, stable=True), batch)
    order = jnp.pad(order, (0, sizes[0]), constant_values=batch)

    def specialize(size, done, logits):
      rows = jax.lax.dynamic_slice_in_dim(order, done, size)
      # A batch of one has the same row in each iteration: without the barrier XLA would hoist what
      # depends on it out of the loop, and run the specialist for confident images, too.
      some = lambda x: jax.lax.optimization_barrier((x.at[rows].get(mode='clip'), done))[0]  # noqa: E731
      final = model.apply(
        variables, some(images), some(coefficients), some(first), method='specialize'
      )
      return done + size, logits.at[rows].set(final / temperature['specialist'], mode='drop')

    done, logits = 0, first / temperature['lightweight']
    for size in sizes:
      least = 1 if size == sizes[-1] else size
      done, logits = jax.lax.while_loop(
        lambda state, least=least: kept - state[0] >= least,
        lambda state, size=size: specialize(size, *state),
        (done, logits),
      )
    return Predictions(logits, confidence, exited)

  return predict
