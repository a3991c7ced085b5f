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
  """Locks the workdir; the lock is released however the process ends.

  There is no lock on object stores (gs://...) and on file systems without locks.

  Args:
    workdir: a folder, created if missing.
    name: file in it to lock; locks on different files are independent.
    wait: whether to wait until another process releases the lock.

  Raises:
    UserError: another process holds the lock, and `wait` is False.
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
