"""Reads what a sweep's runs wrote to their folders, and keeps the sweep's own records there."""

from collections.abc import Sequence
import json
import pathlib
from typing import Any, NamedTuple

from basisnet_jax.evaluation import report


class Run(NamedTuple):
  """One run of a sweep.

  Attributes:
    row: the name of its row.
    seed: the value of `config.seed`.
    folder: its workdir.
  """

  row: str
  seed: int
  folder: pathlib.Path

  @property
  def name(self) -> str:
    """The run's name for people."""
    return f'{self.row}, seed {self.seed}'


def of(sweep, workdir: str) -> list[Run]:
  """The runs of a sweep (`Sweep`) in the order of running, in folders <row>/seed_<n>."""
  root = pathlib.Path(workdir)
  return [Run(row, seed, root / row / f'seed_{seed}') for row, seed in sweep.runs()]


def read(run: Run, name: str) -> dict[str, Any] | None:
  """Reads a JSON file of the run; None if it is missing or incomplete."""
  try:
    found = json.loads((run.folder / name).read_text())
  except (OSError, ValueError):
    return None
  return found if isinstance(found, dict) else None


def write(run: Run, seconds: float, *, finished: bool) -> None:
  """Records the time that the run has taken so far and, once it has finished, its evaluation."""
  evaluation = read(run, 'evaluation.json') if finished else None
  report.write_json(
    str(run.folder / 'sweep.json'), {'seconds': seconds, **_identity(evaluation or {})}
  )


def is_finished(run: Run) -> bool:
  """Whether training is complete and the evaluation is the one that ended it.

  After --mode=evaluate of another checkpoint, on other images or with another choice of the
  threshold the run counts as unfinished: the sweep evaluates it again.
  """
  record, evaluation = read(run, 'sweep.json'), read(run, 'evaluation.json')
  if not (record and evaluation):
    return False
  # Older sweeps recorded the step alone.
  return all(record.get(key, value) == value for key, value in _identity(evaluation).items())


def _identity(evaluation):
  """What tells a run's evaluations apart."""
  threshold = (evaluation.get('chosen') or {}).get('threshold')
  return {
    'step': evaluation.get('step'),
    'images': evaluation.get('images'),
    # Rounded, since other devices compute other last digits.
    'threshold': None if threshold is None else round(threshold, 3),
  }


def seconds(run: Run) -> float:
  """Wall-clock time that the run has taken so far, including start, compilation and evaluation."""
  return (read(run, 'sweep.json') or {'seconds': 0.0})['seconds']


def seconds_left(runs: Sequence[Run], current: Run, elapsed: float) -> float | None:
  """Estimates the sweep's remaining time; None before the first run is finished.

  A run is expected to take as long as its row's finished runs on average, or else those of all
  rows.
  """
  taken: dict[str, list[float]] = {}
  for run in filter(is_finished, runs):
    taken.setdefault(run.row, []).append(seconds(run))
  if not taken:
    return None
  every = [value for values in taken.values() for value in values]

  def expected(run):
    values = taken.get(run.row, every)
    spent = elapsed if run == current else seconds(run)
    return max(0.0, sum(values) / len(values) - spent)

  return sum(expected(run) for run in runs if not is_finished(run))


def last_line(run: Run) -> str:
  """The last line of the run's log, '' if there is none."""
  try:
    with (run.folder / 'log.txt').open('rb') as file:
      file.seek(0, 2)
      file.seek(max(0, file.tell() - 4096))
      lines = file.read().decode(errors='replace').splitlines()
  except OSError:
    return ''
  return next((line.strip() for line in reversed(lines) if line.strip()), '')
