"""An evaluation's numbers for the report: bounds, groups, classes, calibration, bases."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from basisnet_jax.evaluation import calibration, early_exit, evaluate, metrics
from basisnet_jax.evaluation.chosen import Chosen
from basisnet_jax.evaluation.examples import Example


class Subject(NamedTuple):
  """What was evaluated.

  Attributes:
    name: the recipe's name.
    data: the dataset's name.
    split: the evaluated split.
    label_names: class names, by label.
    layers: paths of the layers with bases; () if there are none.
    lightweight_madds: multiply-adds per image of the first stage; None for a single network.
    total_madds: multiply-adds per image in total.
  """

  name: str
  data: str
  split: str
  label_names: Sequence[str]
  layers: Sequence[str]
  lightweight_madds: float | None
  total_madds: float


@dataclasses.dataclass(frozen=True)
class Findings:
  """An evaluation and what follows from it. Early termination needs two stages.

  Attributes:
    subject: what was evaluated.
    summary: from `evaluate.summarize`.
    results: from `evaluate.run`.
    threshold: for early termination of two stages, the chosen one or one to show.
    chosen: how it was chosen, with the temperatures of `results`; None if it was not.
    examples: from `Examples.best`.
  """

  subject: Subject
  summary: Mapping[str, Any]
  results: Mapping[str, Any]
  threshold: float
  chosen: Chosen | None
  examples: Mapping[str, Sequence[Example]]

  @property
  def two_stages(self) -> bool:
    """Whether there is early termination."""
    return self.subject.lightweight_madds is not None

  @property
  def _madds(self):
    subject = self.subject
    return {'lightweight_madds': subject.lightweight_madds, 'total_madds': subject.total_madds}

  @functools.cached_property
  def point(self) -> dict[str, float]:
    """`early_exit.operating_point` at the threshold."""
    return early_exit.operating_point(
      self.threshold, *evaluate.answers(self.results), **self._madds
    )

  @functools.cached_property
  def curve(self) -> dict[str, list[float]]:
    """`early_exit.cost_accuracy_curve`."""
    return early_exit.cost_accuracy_curve(*evaluate.answers(self.results), **self._madds)

  @functools.cached_property
  def oracle(self) -> dict[str, list[float]]:
    """`early_exit.oracle_curve`."""
    return early_exit.oracle_curve(*evaluate.answers(self.results)[1:], **self._madds)

  @property
  def bounds(self) -> dict[str, float]:
    """The accuracy at this exit rate of random exits, 'random', and of the best ones, 'oracle'."""
    rate, (_, *both) = self.point['exit_rate'], evaluate.answers(self.results)
    light, special = map(metrics.mean, both)
    return {
      'random': special + rate * (light - special),
      'oracle': float(np.interp(rate, self.oracle['exit_rate'], self.oracle['top1'])),
    }

  @property
  def groups(self) -> dict[str, dict[str, float]]:
    """For the 'exited' and the 'kept' images, their number and each stage's accuracy on them.

    Each has 'images', 'lightweight_top1' and 'specialist_top1'; accuracies of an empty group are
    NaN.
    """
    sure, light, special = evaluate.answers(self.results)
    exits = sure >= self.threshold
    return {
      name: {
        'images': int(group.sum()),
        'lightweight_top1': metrics.mean(light[group]),
        'specialist_top1': metrics.mean(special[group]),
      }
      for name, group in (('exited', exits), ('kept', ~exits))
    }

  @functools.cached_property
  def classes(self) -> list[dict[str, Any]]:
    """A row for each class with images: 'name', 'images', each stage's accuracy.

    Two stages add 'exit_rate' and 'top1', the accuracy with early termination.
    """
    labels, names = self.results['label'], self.subject.label_names
    columns = {key: value for key, value in self.results.items() if key.endswith('_top1')}
    if self.two_stages:
      sure, light, special = evaluate.answers(self.results)
      exits = sure >= self.threshold
      columns |= {'exit_rate': exits, 'top1': np.where(exits, light, special)}
    images = np.bincount(labels, minlength=len(names))
    sums = {key: np.bincount(labels, values, len(names)) for key, values in columns.items()}
    return [
      {'name': names[c], 'images': int(images[c])}
      | {key: float(sums[key][c] / images[c]) for key in columns}
      for c in np.flatnonzero(images)
    ]

  @functools.cached_property
  def calibration(
    self,
  ) -> dict[str, tuple[calibration.Reliability, calibration.Reliability | None]]:
    """{stage: reliability (before, after) temperature scaling}; after is None if there is none."""
    found = {}
    for key, correct in self.results.items():
      stage = key.removesuffix('_top1')
      if stage != key:
        before, after = (
          calibration.reliability(self.results[f'{stage}_{name}'], correct)
          for name in ('probability', 'calibrated')
        )
        found[stage] = before, None if self.chosen is None else after
    return found

  @functools.cached_property
  def bases(self) -> list[dict[str, Any]]:
    """The use of the bases, layer by layer (`coefficients.Statistics`); [] if there are none."""
    statistics = self.results.get('coefficient_statistics')
    names = ('mean', 'deviation', 'effective_bases', 'input_dependence')
    return [
      {'layer': layer} | {name: getattr(statistics, name)[i] for name in names}
      for i, layer in enumerate(self.subject.layers if statistics else ())
    ]

  @property
  def exchanged_top1(self) -> float | None:
    """The specialist's top-1 with another image's coefficients; None if it was not evaluated."""
    exchanged = self.results.get('exchanged')
    return None if exchanged is None else metrics.mean(exchanged)

  def as_dict(self) -> dict[str, Any]:
    """Everything but the curve, for JSON."""
    found = {'classes': self.classes, 'bases': self.bases, 'calibration': {}}
    for stage, (before, after) in self.calibration.items():
      about = {'ece_before': before.ece, 'bins_before': before._asdict()}
      if after is not None:
        about |= {'temperature': self.chosen.temperatures[stage], 'ece_after': after.ece}
        about['bins_after'] = after._asdict()
      found['calibration'][stage] = about
    if self.exchanged_top1 is not None:
      found['exchanged_top1'] = self.exchanged_top1
    if self.two_stages:
      found |= {'early_exit': self.point, 'bounds': self.bounds, 'groups': self.groups}
    return found
