"""Files that are written whole or not at all; the last writer wins."""

import contextlib
import os

from etils import epath


def write(path: str | os.PathLike, content: str | bytes) -> None:
  """Writes beside the file and renames, so that readers never see half of it.

  Makes the folder if need be. The temporary name has the process id: two may write the same file.

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
    with contextlib.suppress(OSError):  # A partial file would keep a full disk full.
      unfinished.unlink()
    raise
