"""Metrics of each stage's logits."""

from clu import metrics
import jax
import jax.numpy as jnp
import numpy as np
import optax

from basisnet_jax.models import basisnet

STAGES = ('lightweight', 'specialist', 'network')


def stage_logits(outputs) -> dict[str, jax.Array]:
  """{stage: float32 logits `[b, classes]`}; a single network's stage is 'network'."""
  if isinstance(outputs, basisnet.Outputs):
    return {'lightweight': outputs.lightweight, 'specialist': outputs.specialist}
  return {'network': outputs.astype(jnp.float32)}


def per_image(logits, labels) -> dict[str, jax.Array]:
  """Computes loss (cross-entropy, nats), top1 and top5 (0 or 1), float32 `[b]` each.

  Takes logits, float32 `[b, classes]`, and labels, int32 `[b]`. With fewer than five classes, top5
  considers all. Among equal logits the first class wins; NaN beats all others and is never right.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  # By rank, since `lax.top_k` would gather the logits of all devices on each.
  earlier = jnp.arange(logits.shape[-1]) < labels[:, None]
  rank = (~(logits <= own) | ((logits == own) & earlier)).sum(axis=-1)
  return {
    'loss': optax.softmax_cross_entropy_with_integer_labels(logits, labels),
    'top1': (rank < 1).astype(jnp.float32),
    'top5': (rank < min(5, logits.shape[-1])).astype(jnp.float32),
  }


def mean(values: np.ndarray) -> float:
  """The mean over images, on the host; in float64, so that shares equal those of `early_exit`."""
  return float(values.mean(dtype=np.float64)) if values.size else float('nan')


def collection(keys: tuple[str, ...]) -> type[metrics.Collection]:
  """A CLU collection that averages each key over all images it sees."""
  return metrics.Collection.create(**{key: metrics.Average.from_output(key) for key in keys})
