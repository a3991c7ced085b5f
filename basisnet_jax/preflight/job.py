"""The job to check, and the form of its checks."""

from collections import Counter
from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import ml_collections


@dataclasses.dataclass
class Job:
  """The job to run, and what the checks find out for each other.

  Attributes:
    config: the resolved recipe.
    workdir: the run's workdir.
    process: the index of this process.
    hosts: {process: its host}, when known.
    token: the same in all processes, and unique to this preflight.
    mesh: the mesh of all devices.
    dataset: the recipe's dataset.
  """

  config: ml_collections.ConfigDict
  workdir: str
  process: int
  hosts: dict[int, str] = dataclasses.field(default_factory=dict)
  token: str = ''
  mesh: jax.sharding.Mesh | None = None
  dataset: Any = None

  def name(self, process: int) -> str:
    """What sentences call a process."""
    return f'process {process} ({self.hosts[process]})' if self.hosts else f'process {process}'

  def differences(self, found: dict[int, dict[str, Any]]) -> str:
    """Says which processes have values that differ from the majority's; '' if none."""
    sentences = []
    for key in dict.fromkeys(key for values in found.values() for key in values):
      values = {process: values.get(key) for process, values in found.items()}
      # In a tie the first value counts, which is process 0's.
      usual, _ = Counter(map(str, values.values())).most_common(1)[0]
      others = 'the others have' if len(found) > 2 else f'{self.name(0)} has'
      sentences += [
        f'{self.name(process)} has {key} = {value}, {others} {usual}'
        for process, value in values.items()
        if str(value) != usual
      ]
    more = f'; and {len(sentences) - 3} more' if len(sentences) > 3 else ''
    return '; '.join(sentences[:3]) + more


# (the finding in words, the problem or ''), made from {process: what `look` returned}.
Judgement = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Check:
  """One row of the table.

  Attributes:
    name: the row's name.
    look: what each process does; may raise a UserError.
    judge: judges the findings of all processes.
    together: whether the processes wait for each other in `look`.
    quick: whether it takes only seconds.
  """

  name: str
  look: Callable[[Job], Any]
  judge: Callable[[Job, dict[int, Any]], Judgement]
  together: bool = False
  quick: bool = True
