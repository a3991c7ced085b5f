"""The exceptions that users are meant to read."""


class UserError(Exception):
  """A mistake that the user can mend.

  Its message is one sentence or two: what was received, what was wanted, how to
  mend it. `main` prints the message alone, without a stack trace, and exits 2.
  """


class Preempted(Exception):
  """The process was asked to end and has saved its state; `main` prints the message, exits 143."""


class MissingProcess(Exception):
  """A process of several did not come; `main` prints the message, exits 3: it may come yet."""
