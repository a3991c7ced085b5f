"""What a step makes small: from parameters and a batch to the loss of each image."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
import jax

from basisnet_jax.evaluation import metrics
from basisnet_jax.models import basisnet, preprocessing
from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.training import losses

Batch = dict[str, jax.Array]


class Terms(NamedTuple):
  """The parts of the loss and what is reported beside them.

  The loss is the weighted sum of `losses`, as means over the images that count, and `penalties`.

  Attributes:
    losses: {stage, or what else is of each image: float32 `[b]`}.
    weights: {the same: number}.
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
  annealed: Callable[[jax.Array], coefficients_lib.Annealed],
  load_balance: float = 0.0,
  coefficient_entropy: float = 0.0,
) -> Objective:
  """Returns `objective(params, batch_stats, batch, key, step) -> Terms`.

  `batch` has 'image', uint8 `[b, h, w, 3]`, 'label', int32 `[b]`, and 'mask', float32 `[b]`, for
  what is of a batch as a whole; for all else it is the step's affair. `key` is for what is random
  in the step, whose number `step` the schedules see. The values are loss (without smoothing),
  top-1 and top-5 of each stage, and the entropy of the coefficients if it has a weight.

  Args:
    model: to be trained.
    label_smoothing: see `losses.cross_entropy`.
    lightweight_weight: of the first stage's loss; the second's has 1.
    annealed: from the step's number to what the coefficients are annealed by.
    load_balance: weight of `losses.load_balance`, over the images that count.
    coefficient_entropy: weight of the mean `coefficients.entropy` over an image's layers: above
      0 it makes an image choose few bases, below 0 many.
  """
  two_stage = isinstance(model, basisnet.BasisNet)
  has_coefficients = two_stage and len(model.layers) > 0

  def objective(params, batch_stats, batch, key, step):
    outputs, updates = model.apply(
      {'params': params, 'batch_stats': batch_stats},
      preprocessing.normalize(batch['image']),
      train=True,
      rngs={'dropout': key},
      mutable=['batch_stats'],
      **({'annealed': annealed(step)} if two_stage else {}),
    )
    by_stage, weights, values, penalties = {}, {}, {}, {}
    for stage, logits in metrics.stage_logits(outputs).items():
      weights[stage] = lightweight_weight if stage == 'lightweight' else 1.0
      by_stage[stage] = losses.cross_entropy(logits, batch['label'], label_smoothing)
      for name, value in metrics.per_image(logits, batch['label']).items():
        values[f'{stage}_{name}'] = value
    if has_coefficients and load_balance:
      uneven = losses.load_balance(outputs.coefficients, batch['mask'])
      penalties['load_balance'] = load_balance * uneven
    if has_coefficients and coefficient_entropy:
      name = 'coefficient_entropy'
      values[name] = coefficients_lib.entropy(outputs.coefficients).mean(-1)
      by_stage[name], weights[name] = values[name], coefficient_entropy
    return Terms(by_stage, weights, values, penalties, {}, updates.get('batch_stats', {}))

  return objective
