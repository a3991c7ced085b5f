"""The answer for one image: what it is, which stage gave it, and at what cost."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.models.cost import Cost


class Prediction(NamedTuple):
  """The answer for one image.

  Attributes:
    labels: the most likely first.
    probabilities: of the labels.
    stage: which one answered: 'lightweight', 'specialist' or, if there is only one, 'network'.
    confidence: of the first prediction, by the rule; for a single network, its largest probability.
    madds: multiply-adds that it cost.
  """

  labels: tuple[str, ...]
  probabilities: tuple[float, ...]
  stage: str
  confidence: float
  madds: int


def stage(cost: Cost, exited: bool) -> str:
  """Which stage answers for an image that exited, or did not; temperatures have the same names."""
  if cost.lightweight_madds is None:
    return 'network'
  return 'lightweight' if exited else 'specialist'


def prediction(
  probabilities: np.ndarray,
  confidence: float,
  exited: bool,
  *,
  labels: Sequence[str],
  cost: Cost,
  top_k: int,
) -> Prediction:
  """Makes the answer from probabilities `[classes]` of the stage that answered.

  `confidence` is the first prediction's.

  Raises:
    UserError: there are more labels than classes, or fewer.
  """
  if len(labels) != len(probabilities):
    raise UserError(
      f'labels has {len(labels):,} names, and the network {len(probabilities):,} classes; give a '
      'name of each.'
    )
  best = np.argsort(-probabilities, kind='stable')[:top_k]
  return Prediction(
    tuple(labels[i] for i in best),
    tuple(float(probabilities[i]) for i in best),
    stage(cost, exited),
    float(confidence),
    cost.lightweight_madds if exited else cost.total_madds,
  )
