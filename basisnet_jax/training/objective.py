"""What a step makes small: from parameters and a batch to the loss of each image."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import optax

from basisnet_jax.evaluation import metrics
from basisnet_jax.models import basisnet, preprocessing
from basisnet_jax.training import losses

Batch = dict[str, jax.Array]


class Terms(NamedTuple):
  """The parts of the loss and what is reported beside them.

  The loss is the weighted sum of `losses`, as means over the images that count, and `penalties`.

  Attributes:
    losses: {stage: float32 `[b]`}.
    weights: {stage: number}.
    values: {metric: float32 `[b]`}, reported as their means over the images that count.
    penalties: {metric: float32 scalar}, weighted terms of a batch as a whole; reported, too.
    scalars: {metric: float32 scalar} of a batch as a whole that are reported alone.
    batch_stats: of the batch normalisation, after the batch.
  """

  losses: dict[str, jax.Array]
  weights: dict[str, float]
  values: dict[str, jax.Array]
  penalties: dict[str, jax.Array]
  scalars: dict[str, jax.Array]
  batch_stats: Any


# (params, batch_stats, batch, key, step) -> Terms
Objective = Callable[[Any, Any, Batch, jax.Array, jax.Array], Terms]


def make_objective(
  model: nn.Module,
  *,
  label_smoothing: float,
  lightweight_weight: float,
  uniform_mix: optax.Schedule,
) -> Objective:
  """Returns `objective(params, batch_stats, batch, key, step) -> Terms`.

  `batch` has 'image', uint8 `[b, h, w, 3]`, and 'label', int32 `[b]`; its 'mask' is the step's
  affair. `key` is for what is random in the step, whose number `step` the schedules see. The
  values are loss (without smoothing), top-1 and top-5 of each stage.
  """
  two_stage = isinstance(model, basisnet.BasisNet)

  def objective(params, batch_stats, batch, key, step):
    outputs, updates = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      preprocessing.normalize(batch['image']),
      train=True,
      rngs={'dropout': key},
      mutable=['batch_stats'],
      **({'uniform_mix': uniform_mix(step)} if two_stage else {}),
    )
    by_stage, weights, values = {}, {}, {}
    for stage, logits in metrics.stage_logits(outputs).items():
      weights[stage] = lightweight_weight if stage == 'lightweight' else 1.0
      by_stage[stage] = losses.cross_entropy(logits, batch['label'], label_smoothing)
      for name, value in metrics.per_image(logits, batch['label']).items():
        values[f'{stage}_{name}'] = value
    return Terms(by_stage, weights, values, {}, {}, updates.get('batch_stats', {}))

  return objective
