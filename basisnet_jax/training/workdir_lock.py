"""One run at a time in a workdir."""

from collections.abc import Iterator
import contextlib
import os
import socket

from basisnet_jax.errors import UserError

try:
  import fcntl
except ImportError:  # Windows has no such locks.
  fcntl = None


@contextlib.contextmanager
def exclusive(workdir: str, name: str = '.lock', *, wait: bool = False) -> Iterator[None]:
  """Holds the workdir; a process that ends in any way lets go of it.

  Nothing is held on object stores (gs://...), which have no locks, nor on file systems without.

  Args:
    workdir: a folder, which is made if it is not there.
    name: of the file in it that is locked; others do not hinder each other.
    wait: for another process to let go.

  Raises:
    UserError: another process holds it, without `wait`.
  """
  if '://' in workdir or fcntl is None:
    yield
    return
  os.makedirs(workdir, exist_ok=True)
  with open(os.path.join(workdir, name), 'a+') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      file.seek(0)
      raise UserError(
        f'Another run is at work in {workdir} ({file.read().strip() or "unknown"}); wait for its '
        'end, or give this one another --workdir.'
      ) from None
    except OSError:
      pass
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    yield
