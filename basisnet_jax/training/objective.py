"""The objective that a step minimises: from parameters and a batch to the loss of each image."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

from flax import linen as nn
import jax

from basisnet_jax.evaluation import metrics
from basisnet_jax.models import basisnet, preprocessing, routed
from basisnet_jax.models import coefficients as coefficients_lib
from basisnet_jax.training import losses

Batch = dict[str, jax.Array]


class Terms(NamedTuple):
  """The parts of the loss and the metrics reported with them.

  The loss is the weighted sum of `losses`, averaged over the images that count, plus `penalties`.

  Attributes:
    losses: {stage or other per-image term: float32 `[b]`}.
    weights: {the same keys: number}.
    values: {metric: float32 `[b]`}, reported as means over the images that count.
    penalties: {metric: float32 scalar}, terms of the batch as a whole, already weighted; reported.
    batch_stats: batch normalisation's statistics after this batch.
  """

  losses: dict[str, jax.Array]
  weights: dict[str, float]
  values: dict[str, jax.Array]
  penalties: dict[str, jax.Array]
  batch_stats: Any


# (params, batch_stats, batch, key, step, the teacher's variables or None) -> Terms
Objective = Callable[[Any, Any, Batch, jax.Array, jax.Array, Any], Terms]


def make_objective(
  model: nn.Module,
  *,
  label_smoothing: float,
  lightweight_weight: float,
  annealed: Callable[[jax.Array], coefficients_lib.Annealed],
  distill: Callable | None = None,
  exit_weight: Callable[[jax.Array], jax.Array] | None = None,
  load_balance: float = 0.0,
  coefficient_entropy: float = 0.0,
  remat_preview: bool = False,
) -> Objective:
  """Returns `objective(params, batch_stats, batch, key, step, teacher=None) -> Terms`.

  `batch` has 'image', pixel values `[b, h, w, 3]`, 'label', int32 `[b]`, and 'target' if images
  belong to several classes (`mixing.make_mixer`). Its 'mask' is used only for the penalties; the
  step applies it to everything else. `key` is the step's randomness, and `step` its number, for the
  schedules. The values are loss (without smoothing), top-1 and top-5 of each stage, by the labels,
  and the entropy of the coefficients if it has a weight.

  Args:
    model: the network to train.
    label_smoothing: see `losses.cross_entropy`.
    lightweight_weight: weight of the lightweight stage's loss; the specialist's is 1.
    annealed: from the step number to the annealing of the coefficients.
    distill: from `distillation.make_distill`.
    exit_weight: from the lightweight logits to each image's weight for the specialist, `[b]`.
    load_balance: weight of `losses.load_balance` over the images that count.
    coefficient_entropy: weight of `coefficients.entropy`, averaged over an image's layers: above
      0 it makes an image choose few bases, below 0 many.
    remat_preview: for two stages; see `basisnet.apply_in_turn`.
  """
  two_stage = isinstance(model, basisnet.BasisNet)
  blends = isinstance(model, basisnet.BasisNet | routed.Routed)
  has_coefficients = two_stage and len(model.layers) > 0
  if two_stage and remat_preview:
    run = functools.partial(basisnet.apply_in_turn, model)
  else:
    run = functools.partial(model.apply, train=True, mutable=['batch_stats'])

  def objective(params, batch_stats, batch, key, step, teacher=None):
    images, targets = preprocessing.normalize(batch['image']), batch.get('target', batch['label'])
    outputs, updates = run(
      {'params': params, 'batch_stats': batch_stats},
      images,
      rngs={'dropout': key},
      **({'annealed': annealed(step)} if blends else {}),
    )
    losses_of, weights, values, penalties = {}, {}, {}, {}
    logits_of = metrics.stage_logits(outputs)
    for stage, logits in logits_of.items():
      weights[stage] = lightweight_weight if stage == 'lightweight' else 1.0
      losses_of[stage] = losses.cross_entropy(logits, targets, label_smoothing)
      for name, value in metrics.per_image(logits, batch['label']).items():
        values[f'{stage}_{name}'] = value
    if distill is not None:
      losses_of, reported = distill(losses_of, logits_of, images, batch['label'], teacher)
      values |= reported
    if exit_weight is not None:
      values['specialist_weight'] = exit_weight(logits_of['lightweight'])
      losses_of['specialist'] *= values['specialist_weight']
    if has_coefficients and load_balance:
      uneven = losses.load_balance(outputs.coefficients, batch['mask'])
      penalties['load_balance'] = load_balance * uneven
    if has_coefficients and coefficient_entropy:
      name = 'coefficient_entropy'
      values[name] = coefficients_lib.entropy(outputs.coefficients).mean(-1)
      losses_of[name], weights[name] = values[name], coefficient_entropy
    return Terms(losses_of, weights, values, penalties, updates.get('batch_stats', {}))

  return objective
