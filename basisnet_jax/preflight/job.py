"""The job that is checked, and what a check of it is."""

from collections import Counter
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import ml_collections


@dataclasses.dataclass
class Job:
  """What is to be run, and what the checks find out for each other.

  Attributes:
    config: the resolved recipe.
    workdir: of the run.
    process: which process this is.
    hosts: the processes' hosts, when known.
    token: the same in all processes, and in no other preflight.
    mesh: of all devices.
    dataset: of the recipe.
  """

  config: ml_collections.ConfigDict
  workdir: str
  process: int
  hosts: dict[int, str] = dataclasses.field(default_factory=dict)
  token: str = ''
  mesh: jax.sharding.Mesh | None = None
  dataset: Any = None

  def name(self, process: int) -> str:
    """How a sentence calls a process."""
    return f'process {process} ({self.hosts[process]})' if self.hosts else f'process {process}'

  def differences(self, found: dict[int, dict[str, Any]]) -> str:
    """Says which processes have another value than most, and of what; '' if none."""
    sentences = []
    for key in dict.fromkeys(key for values in found.values() for key in values):
      values = {process: values.get(key) for process, values in found.items()}
      # Of equally many the first, so process 0's.
      usual, _ = Counter(map(str, values.values())).most_common(1)[0]
      others = 'the others have' if len(found) > 2 else f'{self.name(0)} has'
      sentences += [
        f'{self.name(process)} has {key} = {value}, {others} {usual}'
        for process, value in values.items()
        if str(value) != usual
      ]
    more = f'; and {len(sentences) - 3} more' if len(sentences) > 3 else ''
    return '; '.join(sentences[:3]) + more


# (what is found in words, what is wrong or ''), from {process: what `look` returned}.
Judgement = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Check:
  """One row of the table.

  Attributes:
    name: of the row.
    look: what each process does; it may raise a UserError.
    judge: sees what all have found.
    together: the processes wait for each other while they look.
    quick: it needs seconds.
  """

  name: str
  look: Callable[[Job], Any]
  judge: Callable[[Job, dict[int, Any]], Judgement]
  together: bool = False
  quick: bool = True
