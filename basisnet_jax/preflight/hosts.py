"""Checks of the hosts without devices: all are present, agree, and share a workdir."""

import hashlib
import json
import pathlib
import socket
import statistics
import time
import uuid

from etils import epath

import basisnet_jax
from basisnet_jax import config as config_lib
from basisnet_jax.errors import UserError
from basisnet_jax.preflight.job import Check, Job

LARGEST_CLOCK_DIFFERENCE = 5.0  # Seconds.


def _look_for_processes(job):
  return {'host': socket.gethostname(), 'token': uuid.uuid4().hex[:8]}


def _judge_processes(job, found):
  job.hosts = {process: about['host'] for process, about in found.items()}
  job.token = found[0]['token']
  hosts = list(dict.fromkeys(job.hosts.values()))
  shown = ', '.join(hosts[:4]) + (', ...' if len(hosts) > 4 else '')
  return f'{len(found)} on {shown}', ''


def _look_for_versions(job):
  package, source = pathlib.Path(basisnet_jax.__file__).parent, hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    source.update(f'{path.relative_to(package)}\n'.encode() + path.read_bytes())
  return config_lib.versions() | {'basisnet_jax source': source.hexdigest()[:8]}


def _judge_versions(job, found):
  shown = ('python', 'jax', 'flax', 'basisnet_jax source')
  return ', '.join(f'{name} {found[0][name]}' for name in shown), job.differences(found)


def _look_for_recipe(job):
  keys = {f'config.{key}': repr(value) for key, value in config_lib.flatten(job.config).items()}
  return keys | {'workdir': repr(job.workdir)}


def _judge_recipe(job, found):
  digest = hashlib.sha256(json.dumps(found[0], sort_keys=True).encode()).hexdigest()
  return f'{job.config.name}, hash {digest[:12]}', job.differences(found)


def _look_at_clock(job):
  return time.time()  # All have just received the same answers, so this is the same moment.


def _judge_clocks(job, found):
  usual = statistics.median_low(found.values())
  wrong = [
    f'the clock of {job.name(process)} differs by {now - usual:+,.1f} s'
    for process, now in found.items()
    if abs(now - usual) > LARGEST_CLOCK_DIFFERENCE
  ]
  spread = max(found.values()) - min(found.values())
  return f'equal within {spread:.2f} s', '; '.join(wrong)


def _probe(job):
  return epath.Path(job.workdir) / f'.preflight-{job.token}'


def _write_to_workdir(job):
  if job.process == 0:
    try:
      _probe(job).parent.mkdir(parents=True, exist_ok=True)
      _probe(job).write_text(job.token)
    except Exception as error:  # From the system, or from a bucket's client.
      raise UserError(
        f'the workdir {job.workdir} cannot be written ({_first_line(error)}); choose another '
        '--workdir'
      ) from error


def _judge_workdir(job, found):
  return f'{job.workdir} can be written', ''


def _read_from_workdir(job):
  try:
    _probe(job).read_text()  # Its name is unique to this preflight.
  except Exception as error:
    raise UserError(
      f'what process 0 has written to the workdir {job.workdir} is not there '
      f'({_first_line(error)}); all need one folder, on a shared disk or in a bucket'
    ) from error


def _judge_shared_workdir(job, found):
  return f'seen by all {len(found)}', ''


def clean(job: Job) -> None:
  """Removes the file that the checks wrote."""
  if job.process == 0 and job.token:
    try:
      _probe(job).unlink(missing_ok=True)
    except Exception:  # Then it could not be written either.
      pass


def _first_line(error):
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200] + '...' * (len(lines[0]) > 200)


PROCESSES = Check('processes', _look_for_processes, _judge_processes)
VERSIONS = Check('versions', _look_for_versions, _judge_versions)
RECIPE = Check('recipe', _look_for_recipe, _judge_recipe)
CLOCKS = Check('clocks', _look_at_clock, _judge_clocks)
WORKDIR = Check('workdir', _write_to_workdir, _judge_workdir)
SHARED_WORKDIR = Check('workdir shared', _read_from_workdir, _judge_shared_workdir)
