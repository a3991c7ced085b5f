"""Predictions for many files, as a table: CSV, or one JSON object per line."""

from collections.abc import Callable, Iterable, Iterator
import csv
import glob
import json
import os
import pathlib
import re
import types
from typing import Any, NamedTuple, TextIO

from basisnet_jax import photos
from basisnet_jax.errors import UserError
from basisnet_jax.inference.prediction import Prediction

FORMATS = ('.csv', '.jsonl')
_WANTED = "a folder of images, a pattern such as 'photos/*.jpg', or a file"


class Total(NamedTuple):
  """What happened to the files.

  Attributes:
    predicted: how many have an answer.
    exited: how many of them the lightweight model answered.
    madds: multiply-adds in total.
    unreadable: what is wrong with the others, a sentence each.
  """

  predicted: int
  exited: int
  madds: int
  unreadable: list[str]


def files(pattern: str, flag: str = '--images', wanted: str = _WANTED) -> list[str]:
  """Lists images: all below a folder, those matching a pattern such as `photos/*.jpg`, or one.

  Links to folders are followed. Files of known but unsupported kinds are listed, too, and folders
  that cannot be opened: reading them tells what is wrong.

  Raises:
    UserError: there are none; it names the flag, and what is wanted if there is no such folder.
  """
  closed: list[str] = []
  if os.path.isdir(pattern):
    found = [
      str(path)
      for folder, names in _folders(pattern, closed)
      for path in map(pathlib.Path(folder).joinpath, names)
      if path.suffix.lower() in photos.SUFFIXES + photos.UNREAD
      and not path.name.startswith('.')
      # Reading a pipe would block. What cannot be inspected is reported later, as unreadable.
      and (os.path.isfile(path) or not os.path.exists(path))
    ]
    what = f'no images ({", ".join(photos.SUFFIXES)}) in the folder'
  else:
    # A file whose name has brackets is not a pattern.
    found = _fitting(pattern, closed) if not os.path.isfile(pattern) else [pattern]
    found = {path for path in found if os.path.isfile(path)}
    what = 'no such folder, and no files fit it'
    if not closed:
      what += f'; give {wanted}'
  if not found:
    if closed:
      what += f', as far as one can look: {min(closed)} is not yours to read'
    raise UserError(f'{flag}={pattern}: {what}.')
  return sorted({*found, *closed})


def _folders(
  top: str, closed: list[str], hidden: bool = True, above: tuple = ()
) -> Iterator[tuple[str, list[str]]]:
  """Yields a folder ('' is the current one) and all those below it, with the names in each.

  Links are followed, except to a folder that they are in. Folders that cannot be opened are added
  to `closed`.
  """
  here = top or '.'
  try:
    about = os.stat(here)
    own = about.st_dev, about.st_ino
    if own in above:
      return
    names = os.listdir(here) if os.access(here, os.X_OK) else None  # Without it, only names.
  except OSError:
    names = None
  if names is None:
    closed.append(str(pathlib.Path(here)))
    return
  yield top, names
  for name in names:
    path = os.path.join(top, name)
    if os.path.isdir(path) and (hidden or not name.startswith('.')):
      yield from _folders(path, closed, hidden, (*above, own))


def _fitting(pattern: str, closed: list[str]) -> Iterator[str]:
  """Like `glob.glob`, but not in circles: in ** that follows a link back up some forty times.

  Folders that it would have to read but may not are added to `closed`.
  """
  deep = re.fullmatch(r'((?:.*?/)??)\*\*(?:/+(.+))?', pattern, re.DOTALL)
  if not deep:
    above, name = os.path.split(pattern)
    right = os.X_OK if name == glob.escape(name) else os.X_OK | os.R_OK
    for folder in _fitting(above, closed) if above not in ('', pattern) else [above]:
      if os.path.isdir(folder) and not os.access(folder, right):
        closed.append(folder)
      else:
        yield from glob.glob(os.path.join(glob.escape(folder), name))
    return
  start, rest = deep.groups()
  for top in _fitting(start, closed) if start else ['']:
    for folder, _ in _folders(top, closed, hidden=False):
      yield from _fitting(os.path.join(glob.escape(folder), rest or '*'), closed)


def check_output(path: str | None) -> None:
  """Raises a UserError for a file that `write` cannot write; None is stdout."""
  if path is not None and not path.endswith(FORMATS):
    raise UserError(f'--output={path}: the name ends in {" or ".join(FORMATS)}.')


def write(
  answers: Iterable[tuple[str, Prediction | UserError]],
  file: TextIO,
  suffix: str,
  top_k: int,
  on_answer: Callable[[int], None],
) -> Total:
  """Writes rows as the answers come, and tells `on_answer` how many have come.

  The table is UTF-8: other bytes of a path are written as \\udc...
  """
  row = _csv(file, top_k) if suffix == '.csv' else _json_lines(file)
  total = Total(0, 0, 0, [])
  for count, (path, answer) in enumerate(answers, 1):
    if isinstance(answer, UserError):
      total.unreadable.append(str(answer))
    else:
      row(photos.as_text(path), answer)
      total = total._replace(
        predicted=total.predicted + 1,
        exited=total.exited + (answer.stage == 'lightweight'),
        madds=total.madds + answer.madds,
      )
    on_answer(count)
  return total


def _csv(file, top_k):
  # Lines end in \n. If Python's writer knew, it would not quote a name that contains \r.
  lines = types.SimpleNamespace(write=lambda row: file.write(row.removesuffix('\r\n') + '\n'))
  writer = csv.writer(lines)
  pairs = [(f'label_{i}', f'probability_{i}') for i in range(1, top_k + 1)]
  writer.writerow(
    ['file', 'stage', 'confidence', 'madds', *(name for pair in pairs for name in pair)]
  )

  def row(path, answer):
    pairs = zip(answer.labels, map(_rounded, answer.probabilities), strict=True)
    best = [value for pair in pairs for value in pair]
    writer.writerow([path, answer.stage, _rounded(answer.confidence), answer.madds, *best])

  return row


def _json_lines(file):
  def row(path, answer):
    file.write(json.dumps({'file': path, **as_json(answer)}, ensure_ascii=False) + '\n')

  return row


def as_json(answer: Prediction) -> dict[str, Any]:
  """The answer as a dict for JSON, numbers with six digits."""
  return answer._asdict() | {
    'confidence': _rounded(answer.confidence),
    'probabilities': [_rounded(value) for value in answer.probabilities],
  }


def _rounded(value):
  return float(f'{value:.6g}')
