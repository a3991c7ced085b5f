"""The early termination chosen for a checkpoint, kept in the workdir as early_exit.json."""

from collections.abc import Mapping
import dataclasses
import json
import os
import shlex
from typing import Any

from etils import epath

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence, report, thresholds

NAME = 'early_exit.json'
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Everything needed for early termination with a checkpoint, and how it was chosen.

  Attributes:
    rule: one of `confidence.RULES`.
    temperatures: {stage: T}; T divides the stage's logits.
    threshold: images exit if their confidence, by the rule from the lightweight model's calibrated
      logits, is at least this; 2 if none exits, as with a single network.
    goal: what the threshold had to reach: 'by' and its numbers.
    reason: how it was chosen, in words; '' for a single network.
    heldout: 'data' (the dataset) and 'split' of the held-out images; for two stages the number of
      'images' on which the threshold was chosen, and the results expected from them: 'exit_rate',
      'average_madds', 'top1', 'specialist_top1'.
    checkpoint: the folder in the workdir that holds the checkpoint.
    step: the checkpoint's step.
  """

  rule: str
  temperatures: Mapping[str, float]
  threshold: float
  goal: Mapping[str, Any]
  reason: str
  heldout: Mapping[str, Any]
  checkpoint: str
  step: int


# For checkpoints without a choice.
NOTHING = Chosen(
  rule='max_softmax',
  temperatures={},
  threshold=thresholds.NOBODY,
  goal={},
  reason='no threshold was chosen',
  heldout={},
  checkpoint='',
  step=0,
)


def save(workdir: str, chosen: Chosen) -> None:
  """Writes `<workdir>/early_exit.json`."""
  report.write_json(
    os.path.join(workdir, NAME),
    {'format_version': FORMAT_VERSION, **dataclasses.asdict(chosen)},
  )


def load(workdir: str, step: int) -> Chosen | None:
  """Loads what was chosen for the workdir's checkpoint of a step; None if nothing ever was.

  Raises:
    UserError: the choice is for another step, or the file is damaged or of a newer format.
  """
  path = epath.Path(workdir) / NAME
  if not path.exists():
    return None
  command = f'python -m basisnet_jax.main --mode=evaluate --workdir={shlex.quote(str(workdir))}'
  again = f'choose anew: {command}'
  try:
    found = json.loads(path.read_text())
    version = found.pop('format_version')
    if version > FORMAT_VERSION:
      raise UserError(
        f'{path} has format {version}, and this version of basisnet_jax reads up to '
        f'{FORMAT_VERSION}; install a newer one, or {again}'
      )
    chosen = _checked(Chosen(**found))
  except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
    reason = ' '.join(str(error).split()) or type(error).__name__
    raise UserError(f'{path} is damaged ({reason}); {again}') from error
  if chosen.step != step:
    raise UserError(
      f'{path} was chosen for the checkpoint of step {chosen.step:,}, and this one is of step '
      f'{step:,}; {again}'
    )
  return chosen


def _checked(chosen):
  heldout = chosen.heldout
  quantiles = heldout.get('confidence_quantiles')
  stages, costs = ('network',), ()
  if 'network' not in chosen.temperatures:
    stages = 'lightweight', 'specialist'
    costs = 'images', 'exit_rate', 'average_madds', 'top1', 'specialist_top1'
  wrong = [
    name
    for name, right in (
      ('rule', chosen.rule in confidence.RULES),
      (
        'temperatures',
        all(_is_number(t) and t > 0 for t in (chosen.temperatures[stage] for stage in stages)),
      ),
      ('threshold', _is_number(chosen.threshold)),
      ('goal', isinstance(chosen.goal['by'], str)),
      ('reason', isinstance(chosen.reason, str)),
      (
        'heldout',
        all(isinstance(heldout.get(name), str) for name in ('data', 'split'))
        and all(_is_number(heldout.get(name)) for name in costs),
      ),
      # Files of older versions have none.
      ('confidence_quantiles', quantiles is None or thresholds.are_quantiles(quantiles)),
      ('step', type(chosen.step) is int),
    )
    if not right
  ]
  if wrong:
    raise ValueError(f'it has no sensible {" and ".join(wrong)}')
  return chosen


def _is_number(value):
  return type(value) in (int, float) and 0 <= value < 1e300
