"""Exceptions whose messages are meant for users."""

from collections.abc import Iterator
import contextlib
import errno
import pathlib
import re

# Errors of the disk or of permissions, wherever they come up.
_OF_THE_DISK = (
  errno.ENOSPC,
  errno.EDQUOT,
  errno.EROFS,
  errno.EACCES,
  errno.EPERM,
  errno.ENOTDIR,
  errno.EISDIR,
)


class UserError(Exception):
  """A mistake that the user can fix.

  Its message is one sentence or two: what was received, what was wanted, how to
  fix it. `main` prints the message alone, without a stack trace, and exits with 2.
  """


class Preempted(Exception):
  """The process was told to end and has saved its state; `main` prints this and exits with 143."""


class Missing(Exception):
  """A process or a bucket did not answer, but may yet; `main` prints this and exits with 3."""


@contextlib.contextmanager
def of_the_disk(workdir: str) -> Iterator[None]:
  """Turns disk errors inside, and all errors of files in the workdir, into a UserError."""
  try:
    yield
  except OSError as error:
    name = str(error.filename or '')
    within = name and pathlib.PurePath(name).is_relative_to(workdir)
    if error.errno not in _OF_THE_DISK and not within:
      raise
    raise UserError(
      f'{name or "A file"} cannot be written or read ({error.strerror}; the workdir is '
      f'{workdir}); mend that, and the same command continues from the last checkpoint.'
    ) from error


@contextlib.contextmanager
def of_buckets(kind: type[Exception] = UserError) -> Iterator[None]:
  """Turns errors inside about buckets (gs://...) that cannot be reached into a sentence.

  For trainings `kind` is Missing, because launchers do not retry after a UserError.
  """
  try:
    yield
  except Exception as error:
    # TensorFlow reads and writes buckets; it is not imported just to know its exceptions. For
    # schemes that it does not know, such as ftp://, etils raises KeyErrors.
    told = ' '.join(str(error).split())
    names = re.findall(r'\w+://[^\s,;\'"]*', told)
    theirs = type(error).__module__.startswith('tensorflow.') or isinstance(error, KeyError)
    if not names or not theirs:
      raise
    raise kind(
      f'{names[-1]} cannot be written or read ({told[:300]}); look at its name, your rights there '
      'and the network.'
    ) from error
