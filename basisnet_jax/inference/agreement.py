"""How programs whose weights are stored in less answer for real images, beside the network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basisnet_jax.inference import exporting

Runs = Mapping[str, Callable[..., Sequence[Any]]]


class Agreement(NamedTuple):
  """Shares in [0, 1] of the images, by the answer that each gets.

  Attributes:
    images: how many.
    right: of the network.
    exported_right: of the programs.
    same: both gave the same label.
  """

  images: int
  right: float
  exported_right: float
  same: float


def measure(
  programs: Sequence[exporting.Program],
  network: Runs,
  exported: Mapping[str, Runs],
  batches: Iterable[tuple[np.ndarray, np.ndarray]],
  threshold: float,
) -> dict[str, dict[str, Agreement]]:
  """{name: {program: Agreement}}, and of 'early exit' where there are two programs.

  That is the answer of the second where the first is not sure.

  Args:
    programs: what they take and give.
    network: {name of a program: calls it}, of the network itself.
    exported: the same of what was read again, by names of any kind.
    batches: images, float32 `[b, r, r, 3]` in [-1, 1], and labels `[b]`.
    threshold: the first program's confidence from which its answer stands.
  """
  answers: dict[tuple[str, str], list[tuple[np.ndarray, ...]]] = {}
  for images, labels in batches:
    own = _answers(programs, network, images, threshold)
    for name, runs in exported.items():
      for program, theirs in _answers(programs, runs, images, threshold).items():
        answers.setdefault((name, program), []).append((own[program], theirs, labels))
  found: dict[str, dict[str, Agreement]] = {name: {} for name in exported}
  for (name, program), parts in answers.items():
    own, theirs, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    shares = (own == labels).mean(), (theirs == labels).mean(), (own == theirs).mean()
    found[name][program] = Agreement(len(labels), *map(float, shares))
  return found


def _answers(programs, runs, images, threshold):
  """{program: labels `[b]`}, each program with the results of those before."""
  known, labels = {'images': images}, {}
  for program in programs:
    results = runs[program.name](*(known[name] for name in program.inputs))
    known |= zip(program.outputs, map(np.asarray, results), strict=True)
    labels[program.name] = known['probabilities'].argmax(-1)
  if len(programs) > 1:
    first, last = labels.values()
    labels['early exit'] = np.where(known['confidence'] >= threshold, first, last)
  return labels
