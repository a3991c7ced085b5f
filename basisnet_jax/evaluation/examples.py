"""A few images of an evaluation to look at: those that exit surest, those that go on, ..."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from basisnet_jax import sharding

# From an evaluation step's values, `[b]` each, to how much each image is worth showing, `[b]`; -inf
# if it is not.
Score = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class Example(NamedTuple):
  """One image.

  Attributes:
    image: uint8 `[h, w, 3]`.
    values: numbers of `evaluate.make_eval_step`: 'label', 'lightweight_prediction', ...
    coefficients: `[layers, K]`; None for a single network.
  """

  image: np.ndarray
  values: dict[str, float]
  coefficients: np.ndarray | None


class Examples:
  """Keeps the best few images by each score, at most one per class."""

  def __init__(self, scores: Mapping[str, Score], count: int = 6):
    self._scores, self._count = scores, count
    self._kept = {name: [] for name in scores}  # {name: [(score, Example)]}, best first.

  def watch(self, values: Mapping, batch: Mapping) -> None:
    """Looks at this host's rows of a batch; pass it to `evaluate.run`."""
    coefficients = values.get('coefficients')
    rows = {
      name: sharding.local_rows(value)
      for name, value in values.items()
      if name != 'coefficients' and not name.endswith('_logits')
    }
    images = None
    for name, score in self._scores.items():
      scores = np.where(rows['mask'] > 0, score(rows), -np.inf)
      kept = self._kept[name]
      least = kept[-1][0] if len(kept) == self._count else -np.inf
      order = np.argsort(-scores, kind='stable')
      _, firsts = np.unique(rows['label'][order], return_index=True)  # The best of each class.
      for row in order[np.sort(firsts)][: self._count]:
        if not scores[row] > least:
          break
        if images is None:  # Rarely, after the first batches.
          images = sharding.local_rows(batch['image'])
          blends = None if coefficients is None else sharding.local_rows(coefficients)
        example = Example(
          images[row].copy(),
          {key: value[row].item() for key, value in rows.items()},
          None if blends is None else blends[row].copy(),
        )
        kept.append((float(scores[row]), example))
      self._kept[name] = self._best(kept)

  def _best(self, kept):
    best, labels = [], set()
    for score, example in sorted(kept, key=lambda pair: -pair[0]):
      label = example.values['label']
      if label not in labels and len(best) < self._count:
        best.append((score, example))
        labels.add(label)
    return best

  def best(self) -> dict[str, list[Example]]:
    """{name of the score: its images, best first}."""
    return {name: [example for _, example in kept] for name, kept in self._kept.items()}


def of_two_stages(threshold: float) -> dict[str, Score]:
  """Scores for two stages: 'early', 'late', 'rescued' and 'lost'.

  The surest images that exit, the least sure that go on and, where only the specialist is right,
  those that go on and those that exit.
  """

  def among(eligible, score):
    return lambda values: np.where(eligible(values), score(values), -np.inf)

  def exits(values):
    return values['confidence'] >= threshold

  def only_specialist(values):
    return (values['specialist_top1'] > 0) & (values['lightweight_top1'] == 0)

  def sure(values):
    return np.nan_to_num(values['confidence'])

  def unsure(values):
    return -sure(values)

  return {
    'early': among(exits, sure),
    'late': among(lambda v: ~exits(v), unsure),
    'rescued': among(lambda v: ~exits(v) & only_specialist(v), unsure),
    'lost': among(lambda v: exits(v) & only_specialist(v), sure),
  }


def of_one_network() -> dict[str, Score]:
  """Scores for one network: 'surest', 'unsure', and 'mistakes', the surest wrong answers."""

  def sure(values):
    return np.nan_to_num(values['network_probability'])

  return {
    'surest': sure,
    'unsure': lambda values: -sure(values),
    'mistakes': lambda values: np.where(values['network_top1'] == 0, sure(values), -np.inf),
  }
