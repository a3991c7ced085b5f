"""Files that are written whole or not at all, by whoever comes last."""

import contextlib
import os

from etils import epath


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes beside the file and renames, so that readers never see half of it.

  Makes the folder if need be. The process's number is in the name: two may write the same file.

  Args:
    path: local or gs://.
    content: text is written as UTF-8.
  """
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  unfinished = path.parent / f'{os.getpid()}.{path.name}.unfinished'
  try:
    unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
    unfinished.replace(path)
  except OSError:
    with contextlib.suppress(OSError):  # A part would fill a full disk up.
      unfinished.unlink()
    raise
