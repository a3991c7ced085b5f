"""Questions to all processes of a job; answers that do not come in time count as missing.

They go through the key-value store of JAX's coordination service, not through the devices, so that
hosts that differ or are stuck can be named instead of waited for.
"""

from collections.abc import Callable
import dataclasses
import json
import threading
import time
from typing import Any

import jax
from jax._src import distributed  # JAX exposes the store nowhere else.

from basisnet_jax.errors import UserError

_AGAIN = 0.05  # Seconds between looks at the answers.
# Seconds that the others get after one has failed, and late processes for a sign of life.
_GRACE = 3.0


@dataclasses.dataclass(frozen=True)
class Answer:
  """What one process found, or what is wrong there.

  Attributes:
    found: its finding, any JSON value.
    problem: '' if nothing is wrong.
    late: whether the problem is that the process is not done, or gives no sign of life.
  """

  found: Any
  problem: str = ''
  late: bool = False


class Exchange:
  """The processes of a job.

  Attributes:
    process: the index of this process, from 0.
    count: the number of processes.
  """

  def __init__(self):
    state = distributed.global_state
    self.process, self.count = state.process_id, state.num_processes
    self._client = state.client  # None if there is only one process.
    self._own: dict[str, str] = {}

  def ask(
    self, question: str, look: Callable[[], Any], seconds: float, together: bool = False
  ) -> dict[int, Answer]:
    """Calls `look` in every process, and returns everybody's answers to each process.

    Args:
      question: its name; all processes ask the same questions in the same order, each once.
      look: finds this process's answer. The sentence of a UserError is an answer, too.
      seconds: time limit for looking and answering. A `look` that still runs is left behind.
      together: whether the processes wait for each other in `look`, so that after one has failed
        there is no need to wait for the others.

    Returns:
      {process: answer}. A process that is not done in time, or gives no sign of life, has that as
      its problem; with `together` it is left out if another process's problem explains it.
    """
    box: list[Answer] = []
    worker = threading.Thread(target=lambda: box.append(_answer(look)), daemon=True)
    worker.start()
    deadline, told, hurried = time.monotonic() + seconds, False, False
    while True:
      late = time.monotonic() > deadline
      if not told and (box or late):
        self._tell(question, box[0] if box else Answer(None, _late(seconds), late=True))
        told = True
      answers = self._answers(question)
      if len(answers) == self.count or time.monotonic() > deadline + _GRACE:
        break
      if together and not hurried and any(answer.problem for answer in answers.values()):
        deadline, hurried = min(deadline, time.monotonic() + _GRACE), True
      time.sleep(_AGAIN)
    silent = {
      process: Answer(None, f'no sign of life for {seconds:.0f} s', late=True)
      for process in range(self.count)
      if process not in answers
    }
    if not together:
      return answers | silent
    explains = any(answer.problem and not answer.late for answer in answers.values())
    if explains or silent:
      answers = {process: answer for process, answer in answers.items() if not answer.late}
    return answers if explains else answers | silent

  def leave(self) -> None:
    """Ends the exchange; process 0, which hosts the store, waits for the others."""
    self._tell('leave', Answer(None))
    deadline = time.monotonic() + _GRACE
    if self.process == 0:
      while len(self._answers('leave')) < self.count and time.monotonic() < deadline:
        time.sleep(_AGAIN)
      time.sleep(0.5 if self.count > 1 else 0)  # Lets them exit after their answer.

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
  except Exception as error:  # Whatever happens on a host, the others should hear of it.
    lines = str(error).strip().splitlines() or ['']
    return Answer(None, f'{type(error).__name__}: {lines[0][:300]}')


def _late(seconds):
  return f'not done after {seconds:.0f} s'


def _lost(error):
  return UserError(f'Process 0 does not answer any more ({str(error).splitlines()[0][:200]}).')
