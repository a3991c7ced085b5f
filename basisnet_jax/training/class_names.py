"""The names of a run's classes, as its workdir keeps them."""

from collections.abc import Sequence

from etils import epath

from basisnet_jax.errors import UserError


def labels(workdir: str) -> tuple[str, ...]:
  """The names of the classes; () if the run has not written them.

  Raises:
    UserError: they cannot be read.
  """
  path = epath.Path(workdir) / 'labels.txt'
  try:
    return tuple(path.read_bytes().decode('utf-8-sig').splitlines()) if path.exists() else ()
  except (OSError, UnicodeDecodeError) as error:
    raise UserError(
      f'{path} cannot be read ({error}); it has the names of the classes, one a line, in UTF-8: '
      'save it as that.'
    ) from error


def check(names: Sequence[str], workdir: str) -> None:
  """Raises a UserError if a class of the run has another number in the data.

  That happens when folders of photos are renamed. A name that the data lacks tells nothing: someone
  may have edited labels.txt.

  Args:
    names: of the data's classes.
    workdir: of the run.
  """
  numbers = {name: number for number, name in enumerate(names)}
  for number, name in enumerate(labels(workdir)):
    if numbers.get(name, number) != number and name not in names[number : number + 1]:
      raise UserError(
        f'Class {number} of the run in {workdir} is {name!r}, and in the data that is class '
        f'{numbers[name]}, because classes were renamed, added or removed; give them their old '
        'names, or train with another --workdir.'
      )
