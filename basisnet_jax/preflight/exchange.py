"""Questions to all processes of a job, whose answers come within a time or count as missing.

They go through the key-value store of JAX's coordination service and not through the devices, so
that hosts that differ or are stuck can be named instead of waited for.
"""

from collections.abc import Callable
import dataclasses
import json
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # JAX shows the store nowhere else.

from basisnet_jax.errors import UserError

_AGAIN = 0.05  # Seconds between two looks at the answers.
# Where one process has failed, others that work with it will not come to an end.
_GRACE = 5.0


@dataclasses.dataclass(frozen=True)
class Answer:
  """What one process found, anything that JSON has, or what is wrong there ('' if nothing)."""

  found: Any
  problem: str = ''


class Exchange:
  """The processes of a job.

  Attributes:
    process: which one this is, from 0.
    count: how many there are.
  """

  def __init__(self):
    state = distributed.global_state
    self.process, self.count = state.process_id, state.num_processes
    self._client = state.client  # None where a process is alone.
    self._own: dict[str, str] = {}

  def ask(
    self, question: str, look: Callable[[], Any], seconds: float, together: bool = False
  ) -> dict[int, Answer]:
    """Lets every process look, and returns the answers of all to each of them.

    Args:
      question: its name; all processes ask the same questions in the same order, each once.
      look: finds this process's answer. A UserError's sentence is an answer, too.
      seconds: for the looking and the answers. What still runs then is left behind.
      together: the processes wait for each other while they look, so that when one has failed
        the others need not be waited for.

    Returns:
      {process: answer}. A process that did not answer has that as its problem, unless another
      one's problem explains it: then it is left out.
    """
    box: list[Answer] = []
    worker = threading.Thread(target=lambda: box.append(_answer(look)), daemon=True)
    worker.start()
    deadline, told = time.monotonic() + seconds, False
    while True:
      if box and not told:
        self._tell(question, box[0])
        told = True
      answers = self._answers(question)
      if len(answers) == self.count:
        return answers
      failed = [process for process, answer in answers.items() if answer.problem]
      if failed and together:
        deadline = min(deadline, time.monotonic() + _GRACE)
        together = False  # The deadline is set once.
      if time.monotonic() > deadline:
        break
      time.sleep(_AGAIN)
    if failed:
      return answers
    missing = {p: Answer(None, f'no answer within {seconds:.0f} s') for p in range(self.count)}
    return missing | answers

  def leave(self) -> None:
    """Ends the exchange; process 0, which keeps the store, waits for the others."""
    self._tell('leave', Answer(None))
    deadline = time.monotonic() + _GRACE
    if self.process == 0:
      while len(self._answers('leave')) < self.count and time.monotonic() < deadline:
        time.sleep(_AGAIN)
      time.sleep(0.5 if self.count > 1 else 0)  # For their way from the answer to the exit.

  def _tell(self, question, answer):
    text = json.dumps(dataclasses.asdict(answer))
    if self._client is None:
      self._own[question] = text
      return
    try:
      self._client.key_value_set(f'preflight/{question}/{self.process}', text)
    except jax.errors.JaxRuntimeError as error:
      raise _lost(error) from error

  def _answers(self, question):
    if self._client is None:
      texts = {0: self._own[question]} if question in self._own else {}
    else:
      try:
        entries = self._client.key_value_dir_get(f'preflight/{question}/')
      except jax.errors.JaxRuntimeError as error:
        raise _lost(error) from error
      texts = {int(key.rpartition('/')[2]): text for key, text in entries}
    return {process: Answer(**json.loads(texts[process])) for process in sorted(texts)}


def _answer(look):
  try:
    return Answer(look())
  except UserError as error:
    return Answer(None, str(error))
  except Exception as error:  # Whatever a host meets, the others are to hear it.
    lines = str(error).strip().splitlines() or ['']
    return Answer(None, f'{type(error).__name__}: {lines[0][:300]}')


def _lost(error):
  return UserError(f'Process 0 does not answer any more ({str(error).splitlines()[0][:200]}).')
