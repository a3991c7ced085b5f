"""The folder of an export: checked before any work is done, and written all at once."""

from collections.abc import Mapping
import os
import pathlib

from etils import epath

from basisnet_jax.errors import UserError

ABOUT = 'model.json'
# How each export's README.md begins: a folder with such a README may be exported into again.
TITLE = '# A network of basisnet_jax'
_READ_BY_PEOPLE = ('README.md', 'run.py', ABOUT)
_UNFINISHED = 'unfinished'


def check(output: str, programs: Mapping[str, str], every: Mapping[str, str]) -> None:
  """Checks that an export may go into a folder.

  Args:
    output: the folder, which may not exist yet; local, or gs://.
    programs: {file of a program: its format}.
    every: the same for all files that any export may have.

  Raises:
    UserError: the folder cannot be written, has files that no export wrote and this one would
      replace, or programs of another export that this one would leave beside its own.
  """
  folder = epath.Path(output)
  if '://' not in output:
    _check_writable(pathlib.Path(output))
  kept = [name for name in _READ_BY_PEOPLE if (folder / name).exists()]
  readme = folder / 'README.md'
  if kept and not (readme.exists() and readme.read_bytes().startswith(TITLE.encode())):
    raise UserError(
      f'--output={output}: no export wrote its {" and ".join(kept)}, which this one would '
      'replace; name a new folder.'
    )
  left = sorted(name for name in set(every) - set(programs) if (folder / name).exists())
  if left:
    own = list(dict.fromkeys(programs.values()))
    formats = list(dict.fromkeys([*own, *(every[name] for name in left)]))
    # Those of a network with other stages stay, whichever formats are named.
    more = f', or all formats (--format={",".join(formats)})' if formats != own else ''
    raise UserError(
      f'--output={output}: {", ".join(left)} of an earlier export would stay beside other '
      f'programs; name a new folder{more}.'
    )


def write(output: str, files: Mapping[str, str | bytes]) -> None:
  """Writes {name: content}, all of them or none.

  The files of an earlier export stay until all new ones are on disk; then its model.json is
  removed first and the new one moved in last, so that a process that is killed in between leaves
  no folder that looks like an export.

  Raises:
    UserError: it cannot be written.
  """
  folder = epath.Path(output)
  unfinished = folder / _UNFINISHED
  order = sorted(files, key=lambda name: (name == ABOUT, name not in _READ_BY_PEOPLE, name))
  try:
    if unfinished.exists():  # Left by a process that was killed.
      unfinished.rmtree()
    for name in order:
      content = files[name]
      for path in (unfinished / name, folder / name):
        path.parent.mkdir(parents=True, exist_ok=True)
      (unfinished / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / ABOUT).unlink(missing_ok=True)
    for name in order:
      (unfinished / name).replace(folder / name)
  except OSError as error:
    raise UserError(
      f'--output={output} cannot be written ({error.strerror or error}); mend that, or name '
      'another folder.'
    ) from error
  finally:
    if unfinished.exists():
      unfinished.rmtree()


def _check_writable(folder):
  there = folder.absolute()
  while not there.exists():
    there = there.parent
  if not there.is_dir():
    raise UserError(f'--output={folder}: {there} is a file; name a folder.')
  if not os.access(there, os.W_OK | os.X_OK):
    raise UserError(f'--output={folder} cannot be written: {there} is not yours to write in.')
