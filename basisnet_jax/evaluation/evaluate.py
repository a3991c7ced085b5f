"""Runs a model over a split, every image once, and keeps each stage's answer."""

from collections.abc import Callable, Iterable, Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from basisnet_jax import sharding
from basisnet_jax.evaluation import coefficients as coefficients_lib
from basisnet_jax.evaluation import confidence, early_exit, metrics
from basisnet_jax.models import basisnet, microbatches, preprocessing, target
from basisnet_jax.models import cost as cost_lib

# Images that a single device sees at once; in BasisNet-MobileNetV3, 2,048 would take 23 GB.
_AT_ONCE = 512


def make_eval_step(
  model: nn.Module,
  mesh: jax.sharding.Mesh,
  shardings=None,
  *,
  rule: str = 'max_softmax',
  exchange: bool = False,
) -> Callable[..., tuple[dict[str, jax.Array], coefficients_lib.Sums | None]]:
  """Returns the compiled `step(variables, batch, temperatures) -> (values, sums)`.

  The values are per image, `[b]`: 'mask', float32, and 'label', int32; for each stage
  (`specialist_top1`, ...) loss, top1, top5, 'probability' (the largest softmax) and 'calibrated'
  (the same after its temperature), all float32, 'prediction', int32, and 'logits' `[b, classes]`.
  A BasisNet adds 'confidence', by the rule of `confidence.RULES` from the lightweight model's
  calibrated logits, and 'coefficients' `[b, layers, K]`. The sums are those of the coefficients
  over the batch's real images; None if no layer has any.

  `shardings` are those of the variables (None: replicated). `temperatures` are {stage: number}, 1
  for a missing stage. `exchange` runs the specialist once more, if the batch can hold more than one
  image, and adds 'exchanged', float32: whether it is right with another image's coefficients.
  """

  def step(variables, batch, temperatures):
    variables = sharding.gather(mesh)(variables)

    def ask(pixels, *arguments, **options):
      return model.apply(variables, preprocessing.normalize(pixels), *arguments, **options)

    def some(function, *arrays):
      if mesh.size > 1:  # The devices share a batch.
        return function(*arrays)
      return microbatches.call(function, *arrays, most=_AT_ONCE)

    outputs = some(functools.partial(ask, train=False), batch['image'])
    values, sums = {'mask': batch['mask'], 'label': batch['label']}, None
    for stage, logits in metrics.stage_logits(outputs).items():
      found = metrics.per_image(logits, batch['label'])
      found['prediction'] = logits.argmax(axis=-1).astype(jnp.int32)
      found['probability'] = confidence.of(logits, 'max_softmax')
      found['calibrated'] = confidence.of(logits, 'max_softmax', temperatures.get(stage, 1.0))
      found['logits'] = logits
      values |= {f'{stage}_{name}': value for name, value in found.items()}
    if isinstance(outputs, basisnet.Outputs):
      values['confidence'] = confidence.of(
        outputs.lightweight, rule, temperatures.get('lightweight', 1.0)
      )
      values['coefficients'] = outputs.coefficients
      if outputs.coefficients.shape[1]:
        num_classes = outputs.specialist.shape[-1]
        sums = coefficients_lib.sums(
          outputs.coefficients, batch['label'], batch['mask'], num_classes
        )
        if exchange and len(batch['mask']) > 1:  # Otherwise there is no other image.
          others = outputs.coefficients[_another(batch['mask'])]
          specialize = functools.partial(ask, method='specialize')
          logits = some(specialize, batch['image'], others, outputs.lightweight)
          values['exchanged'] = metrics.per_image(logits, batch['label'])['top1']
    return values, sums

  whole, split = sharding.replicated(mesh), sharding.over_data(mesh)
  held = whole if shardings is None else shardings
  step = sharding.inside(mesh, step)
  return jax.jit(
    step,
    in_shardings=(held, split, whole),
    out_shardings=(split, whole),
    compiler_options=target.compiler_options(),
  )


def run(
  eval_step,
  variables,
  batches: Iterable[dict[str, jax.Array]],
  on_batch=lambda done: None,
  *,
  temperatures: Mapping[str, float] | None = None,
  keep_logits: bool = False,
  watch: Callable[..., None] | None = None,
) -> dict[str, Any]:
  """Evaluates all batches.

  Args:
    eval_step: from `make_eval_step`.
    variables: params and batch_stats.
    batches: dicts of 'image', 'label' and 'mask' (0 on padding), on the mesh.
    on_batch: called after each batch with the number of batches done, for a progress line.
    temperatures: {stage: temperature}; None: 1.
    keep_logits: whether to fetch the logits to the host, where those of many images could fill the
      memory.
    watch: called with each batch's values and the batch, still on the devices.

  Returns:
    The values of `make_eval_step` for the real images of all hosts, `[images, ...]`; coefficients
    only of the first batch, since all of them could fill the memory. Statistics of all coefficients
    are in 'coefficient_statistics' (`coefficients.Statistics`), if there are any.
  """
  # All stages, even at 1: other keys would make the step compile again.
  temperatures = {s: np.float32((temperatures or {}).get(s, 1.0)) for s in metrics.STAGES}
  results, total = [], None
  for i, batch in enumerate(batches):
    values, sums = eval_step(variables, batch, temperatures)
    if watch is not None:
      watch(values, batch)
    first = values.pop('coefficients', None)
    if i == 0 and first is not None:
      coefficients = _fetch(first)
    if not keep_logits:
      values = {key: value for key, value in values.items() if not key.endswith('_logits')}
    results.append(_fetch(values))
    if sums is not None:
      total = coefficients_lib.add(total, jax.device_get(sums))
    on_batch(i + 1)
  real = [r.pop('mask') > 0 for r in results]
  merged = {
    key: np.concatenate([r[key][m] for r, m in zip(results, real, strict=True)])
    for key in results[0]
  }
  if 'confidence' in merged:
    merged['coefficients'] = coefficients[real[0]]
  if total is not None and merged['label'].size:
    merged['coefficient_statistics'] = coefficients_lib.statistics(total)
  return merged


def summarize(
  results: dict[str, Any],
  *,
  cost: cost_lib.Cost,
  thresholds: Iterable[float],
  step: int,
  chosen: float | None = None,
) -> dict[str, Any]:
  """Summarizes results as the contents of `evaluation.json`.

  Args:
    results: from `run`.
    cost: the model's.
    thresholds: for the early-termination table.
    step: the checkpoint's step.
    chosen: the chosen threshold, if there is one.

  Returns:
    {'step', 'images', 'total_madds', stage: {'loss', 'top1', 'top5'}} and, for a BasisNet,
    'lightweight_madds', 'early_exit': [{'threshold', 'exit_rate', 'average_madds', 'top1'}],
    'chosen', another such point, if there is one, and 'coefficients': `Statistics.summary`.
    Accuracies are fractions, costs multiply-adds per image.
  """
  stages = [key.removesuffix('_top1') for key in results if key.endswith('_top1')]
  summary = {'step': step, 'images': len(results[f'{stages[0]}_top1'])}
  for stage in stages:
    summary[stage] = {
      name: metrics.mean(results[f'{stage}_{name}']) for name in ('loss', 'top1', 'top5')
    }
  summary['total_madds'] = cost.total_madds
  if 'confidence' in results:
    summary['lightweight_madds'] = cost.lightweight_madds
    summary['early_exit'] = early_exit.operating_points(
      thresholds, *answers(results), **madds(cost)
    )
    if chosen is not None:
      summary['chosen'] = early_exit.operating_point(chosen, *answers(results), **madds(cost))
  if 'coefficient_statistics' in results:
    summary['coefficients'] = results['coefficient_statistics'].summary()
  return summary


def answers(results) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(confidence, lightweight correct, specialist correct), each `[images]`."""
  return results['confidence'], results['lightweight_top1'], results['specialist_top1']


def madds(cost: cost_lib.Cost) -> dict[str, int]:
  """The cost arguments of the functions of `early_exit`."""
  return {'lightweight_madds': cost.lightweight_madds, 'total_madds': cost.total_madds}


def _another(mask):
  """Draws for each real image another one's index; at random, as data may be sorted by class."""
  size = len(mask)
  drawn = jax.random.permutation(jax.random.key(0), size)
  order = jnp.argsort(jnp.where(mask > 0, drawn, size + drawn))  # Real images first.
  before = (jnp.arange(size) - 1) % jnp.maximum(1, (mask > 0).sum())
  return jnp.zeros(size, int).at[order].set(order[before])


def _fetch(values):
  """Fetches values to NumPy, from all hosts."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(values, tiled=True)
  return jax.device_get(values)
