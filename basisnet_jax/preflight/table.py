"""Makes the checks of a job one after another, and prints them as a growing table."""

import functools
import sys

import ml_collections

from basisnet_jax.preflight import hosts, work
from basisnet_jax.preflight.exchange import Exchange
from basisnet_jax.preflight.job import Job

_QUICK = 60.0  # Time limit in seconds for a check that takes a few.
_NAME, _FOUND = 16, 82  # Widths of the columns.

# All checks of a stage are made; the next stage follows only if none has failed.
STAGES = (
  (hosts.PROCESSES,),
  (hosts.VERSIONS, hosts.RECIPE, hosts.CLOCKS, hosts.WORKDIR),
  (hosts.SHARED_WORKDIR, work.DEVICES),
  (work.DATA,),
  (work.TRAINING_STEP,),
  (work.ALL_REDUCE,),
)


def run(config: ml_collections.ConfigDict, workdir: str, time_limit: float) -> list[str]:
  """Makes the checks and prints the findings; all processes must call this.

  Args:
    config: a resolved recipe.
    workdir: the run's workdir.
    time_limit: seconds for each check.

  Returns:
    A sentence for each check that failed, the same in all processes; none if all is well.

  Raises:
    UserError: process 0, through which the others communicate, is gone.
  """
  exchange = Exchange()
  job = Job(config, workdir, exchange.process)
  try:
    failed = _run(exchange, job, time_limit, print if exchange.process == 0 else _say_nothing)
  finally:
    hosts.clean(job)
  exchange.leave()
  return failed


def _run(exchange, job, time_limit, say):
  say(f'{"check":<{_NAME}}{"found":<{_FOUND}} verdict')
  say('-' * (_NAME + _FOUND + 8))
  failed = []
  for stage in STAGES:
    for check in stage:
      if sys.stdout.isatty():
        say(f'{check.name} ...', end='\r', flush=True)
      limit = min(_QUICK, time_limit) if check.quick else time_limit
      look = functools.partial(check.look, job)
      answers = exchange.ask(check.name, look, limit, together=check.together)
      found, problem = _judge(check, job, answers, exchange.count)
      say(f'{check.name:<{_NAME}}{found:<{_FOUND}} {"FAILED" if problem else "ok"}', flush=True)
      if problem:
        failed.append(f'{check.name}: {problem}')
      if any(answer.late for answer in answers.values()):
        return failed  # That process would be late for every other check, too.
    if failed:
      break
  return failed


def _say_nothing(*_, **__):
  pass


def _judge(check, job, answers, count):
  """(the finding, the problem or '') of a check."""
  problems = {process: answer.problem for process, answer in answers.items() if answer.problem}
  if not problems:
    return check.judge(job, {process: answer.found for process, answer in answers.items()})
  # A problem of all processes is that of the recipe or of something shared: it names none.
  said = {}
  for process, problem in problems.items():
    said.setdefault(problem.rstrip('.'), []).append(process)
  sentences = [
    problem if len(processes) == count else f'{", ".join(map(job.name, processes))}: {problem}'
    for problem, processes in said.items()
  ]
  return '', '; '.join(sentences)
