"""Compares programs whose weights are stored in fewer bytes to the network, on real images."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from basisnet_jax.inference import exporting

Runs = Mapping[str, Callable[..., Sequence[Any]]]


class Agreement(NamedTuple):
  """Shares of the images, in [0, 1].

  Attributes:
    images: how many there are.
    right: share that the network answered correctly.
    exported_right: share that the programs answered correctly.
    same: share for which both gave the same label.
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
  """Returns {name: {program: Agreement}}, with 'early exit' added if there are two programs.

  'early exit' takes the second program's answer where the first is not confident enough.

  Args:
    programs: their inputs and outputs.
    network: {name of a program: function that runs it}, for the network itself.
    exported: {any name: the same for programs that were read back}.
    batches: images, float32 `[b, r, r, 3]` in [-1, 1], and labels `[b]`.
    threshold: confidence from which the first program's answer is final.
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
  """{program: labels `[b]`}; each program gets the results of those before it."""
  known, labels = {'images': images}, {}
  for program in programs:
    results = runs[program.name](*(known[name] for name in program.inputs))
    known |= zip(program.outputs, map(np.asarray, results), strict=True)
    labels[program.name] = known['probabilities'].argmax(-1)
  if len(programs) > 1:
    first, last = labels.values()
    labels['early exit'] = np.where(known['confidence'] >= threshold, first, last)
  return labels
