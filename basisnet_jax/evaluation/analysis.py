"""What a report shows of an evaluation, as numbers: bounds, groups, classes, calibration, bases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from basisnet_jax.evaluation import calibration, early_exit


def stages_of(results: Mapping[str, Any]) -> list[str]:
  """['lightweight', 'specialist'], or ['network']."""
  return [key.removesuffix('_top1') for key in results if key.endswith('_top1')]


def curve(
  results: Mapping[str, np.ndarray], lightweight_madds: float, total_madds: float
) -> dict[str, list[float]]:
  """`early_exit.cost_accuracy_curve` of an evaluation."""
  return early_exit.cost_accuracy_curve(
    results['confidence'],
    results['lightweight_top1'],
    results['specialist_top1'],
    lightweight_madds=lightweight_madds,
    total_madds=total_madds,
  )


def groups(results: Mapping[str, np.ndarray], threshold: float) -> dict[str, dict[str, float]]:
  """{'exited', 'kept'}: how many 'images' and what each stage has right of them.

  The accuracies ('lightweight_top1', 'specialist_top1') are NaN where a group is empty.
  """
  exits = results['confidence'] >= threshold
  return {
    name: {'images': int(chosen.sum())}
    | {f'{stage}_top1': _mean(results[f'{stage}_top1'][chosen]) for stage in stages_of(results)}
    for name, chosen in (('exited', exits), ('kept', ~exits))
  }


def bounds(results: Mapping[str, np.ndarray], exit_rate: float) -> dict[str, float]:
  """The accuracy of exits at random, 'random', and of the best ones, 'oracle', at an exit rate."""
  light, special = (results[f'{stage}_top1'] for stage in ('lightweight', 'specialist'))
  oracle = early_exit.oracle_curve(light, special, lightweight_madds=0, total_madds=1)
  return {
    'random': float(special.mean() + exit_rate * (light.mean() - special.mean())),
    'oracle': float(np.interp(exit_rate, oracle['exit_rate'], oracle['top1'])),
  }


def classes(
  results: Mapping[str, np.ndarray], label_names: Sequence[str], threshold: float | None
) -> list[dict[str, Any]]:
  """A row for each class that has images: 'name', 'images', the stages' 'top1' and, for two
  stages, 'exit_rate' and 'top1' with early termination.
  """
  labels, count = results['label'], len(label_names)
  images = np.bincount(labels, minlength=count)
  columns = {f'{stage}_top1': results[f'{stage}_top1'] for stage in stages_of(results)}
  if 'confidence' in results:
    exits = results['confidence'] >= threshold
    columns['exit_rate'] = exits
    columns['top1'] = np.where(exits, results['lightweight_top1'], results['specialist_top1'])
  sums = {name: np.bincount(labels, values, count) for name, values in columns.items()}
  return [
    {'name': label_names[c], 'images': int(images[c])}
    | {name: float(sums[name][c] / images[c]) for name in columns}
    for c in np.flatnonzero(images)
  ]


def calibrations(
  results: Mapping[str, np.ndarray], temperatures: Mapping[str, float] | None
) -> dict[str, tuple[calibration.Reliability, calibration.Reliability | None]]:
  """{stage: (before, after)} of the temperatures; after is None where there are none."""
  found = {}
  for stage in stages_of(results):
    correct = results[f'{stage}_top1']
    before = calibration.reliability(results[f'{stage}_probability'], correct)
    after = calibration.reliability(results[f'{stage}_calibrated'], correct)
    found[stage] = before, after if temperatures else None
  return found


def as_dict(
  results: Mapping[str, Any],
  *,
  label_names: Sequence[str],
  layers: Sequence[str],
  threshold: float | None,
  temperatures: Mapping[str, float] | None,
) -> dict[str, Any]:
  """All of the above for JSON, with the use of the bases, layer by layer."""
  found = {'classes': classes(results, label_names, threshold), 'calibration': {}}
  for stage, (before, after) in calibrations(results, temperatures).items():
    about = {'ece_before': before.ece, 'bins_before': _bins(before)}
    if after is not None:
      about |= {'temperature': temperatures[stage], 'ece_after': after.ece}
      about['bins_after'] = _bins(after)
    found['calibration'][stage] = about
  if 'confidence' in results:
    exits = results['confidence'] >= threshold
    found |= {'threshold': threshold, 'groups': groups(results, threshold)}
    found['bounds'] = bounds(results, float(exits.mean()))
  if 'coefficient_statistics' in results:
    s = results['coefficient_statistics']
    found['bases'] = [
      {
        'layer': layer,
        'mean': s.mean[i],
        'deviation': s.deviation[i],
        'effective_bases': s.effective_bases[i],
        'input_dependence': s.input_dependence[i],
      }
      for i, layer in enumerate(layers)
    ]
  return found


def _bins(reliability):
  return reliability._asdict()


def _mean(values):
  return float(values.mean()) if values.size else float('nan')
