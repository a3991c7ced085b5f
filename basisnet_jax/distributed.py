"""The processes of one training: how they find each other and how they end together."""

import glob
import importlib.util
import json
import os
import signal
import socket
import threading
import time

import jax
from jax.experimental import multihost_utils

from basisnet_jax.errors import Missing, UserError

# Seconds of silence after which a process is taken for dead; the others then end, too.
_HEARTBEAT = 30
_GREETING = 'basisnet_jax'
_AGAIN = 0.2  # Seconds between two attempts to reach process 0.
# Variables of schedulers from which JAX finds the processes by itself, and tests of whether there
# are several.
_CLUSTERS = {
  'SLURM_NTASKS': lambda value: int(value) > 1,
  'OMPI_COMM_WORLD_SIZE': lambda value: int(value) > 1,
  'TPU_WORKER_HOSTNAMES': lambda value: ',' in value,
  'MEGASCALE_COORDINATOR_ADDRESS': bool,
}


def initialize(
  address: str | None, num_processes: int | None, process_id: int | None, timeout: float
) -> None:
  """Joins this process to the others; call it before JAX is used.

  With an address, the processes (if there are several) call the roll there first. Without one, JAX
  finds those of a TPU pod, of Slurm or of Open MPI; any other process is alone.

  Args:
    address: host:port of process 0.
    num_processes: how many processes there are.
    process_id: which one this is, from 0.
    timeout: seconds to wait for all.

  Raises:
    UserError: only some of the three are given, or they do not fit together.
    Missing: a process did not come within `timeout`.
  """
  given = {
    '--coordinator_address': address,
    '--num_processes': num_processes,
    '--process_id': process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given):
    if _on_tpu_vm() or any(
      test(os.environ[name]) for name, test in _CLUSTERS.items() if os.environ.get(name)
    ):
      jax.distributed.initialize(
        initialization_timeout=int(timeout), heartbeat_timeout_seconds=_HEARTBEAT
      )
    return
  if missing:
    raise UserError(
      f'{" and ".join(missing)} must be given, too: {", ".join(given)} belong together.'
    )
  if not 0 <= process_id < num_processes:
    raise UserError(
      f'--process_id={process_id} is not one of {num_processes} processes; they count from 0.'
    )
  if num_processes == 1:
    return  # Nobody to talk to; on CPU even its own devices would use sockets.
  call_roll(address, num_processes, process_id, timeout)
  jax.distributed.initialize(
    address,
    num_processes,
    process_id,
    initialization_timeout=int(timeout),
    heartbeat_timeout_seconds=_HEARTBEAT,
  )


def _on_tpu_vm():
  """Whether the machine has TPUs: then JAX finds the other machines in its metadata."""
  devices = glob.glob('/dev/accel*') + glob.glob('/dev/vfio/[0-9]*')
  return bool(devices) and importlib.util.find_spec('libtpu') is not None


def call_roll(address: str, num_processes: int, process_id: int, timeout: float) -> None:
  """Waits until all processes have called process 0; JAX alone would abort and name none.

  Raises:
    UserError: the address cannot be used, or a process does not belong to the others.
    Missing: not all came within `timeout` seconds.
  """
  host, colon, port = address.rpartition(':')
  if not (host and colon and port.isdecimal()):
    raise UserError(f'--coordinator_address={address!r} is not HOST:PORT, such as 10.0.0.2:8476.')
  if process_id == 0:
    _listen(int(port), num_processes, time.monotonic() + timeout)
  else:
    mine = {'greeting': _GREETING, 'processes': num_processes, 'process': process_id}
    _report(host.strip('[]'), int(port), mine, time.monotonic() + timeout)


def _listen(port, num_processes, deadline):
  try:
    server = socket.create_server(('', port))
  except OSError as error:
    raise UserError(
      f'Process 0 cannot listen at port {port} ({error.strerror}); choose a free one in '
      '--coordinator_address.'
    ) from error
  present = {}
  with server:
    while len(present) < num_processes - 1:
      server.settimeout(max(0.01, deadline - time.monotonic()))
      try:
        connection, (where, *_) = server.accept()
      except TimeoutError:
        names = ', '.join(str(n) for n in range(1, num_processes) if n not in present)
        _answer_all(
          present,
          Missing,
          f'Of {num_processes} processes these did not come in time: {names}; see what became of '
          'them, or give them longer by --processes_timeout.',
        )
      process, problem = _heard(connection, num_processes, where)
      if problem:
        _answer_all({**present, -1: connection}, UserError, problem)
      if process is not None:
        # A process that calls again has lost its first connection, or was restarted.
        present[process] = connection
    _answer_all(present, None, '')


def _heard(connection, num_processes, where):
  """Returns (the caller's process number or None for a stranger, what is wrong or '')."""
  connection.settimeout(5)
  try:
    caller = json.loads(connection.makefile().readline())
    process, processes = int(caller['process']), int(caller['processes'])
    known = caller['greeting'] == _GREETING
  except (OSError, ValueError, KeyError, TypeError):
    known = False
  if not known:
    connection.close()
    return None, ''
  if processes != num_processes or not 0 < process < num_processes:
    return process, (
      f'Process {process} of {processes} at {where} called, and process 0 is one of '
      f'{num_processes}: give all the same --num_processes and each its own --process_id.'
    )
  return process, ''


def _answer_all(connections, kind, problem):
  """Tells all callers what is wrong, and raises it here; '' means nothing is."""
  answer = {'problem': problem, 'missing': kind is Missing}
  for connection in connections.values():
    try:
      connection.sendall(f'{json.dumps(answer)}\n'.encode())
    except OSError:
      pass  # It will notice that nobody answers.
    connection.close()
  if problem:
    raise kind(problem)


def _report(host, port, mine, deadline):
  reason = 'no answer'
  while time.monotonic() < deadline:
    try:
      with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(f'{json.dumps(mine)}\n'.encode())
        # Process 0 answers when all are there, or at its own deadline, which may be later.
        connection.settimeout(max(1, deadline - time.monotonic()) + 60)
        answer = connection.makefile().readline()
      if answer:
        answer = json.loads(answer)
        if answer['problem']:
          raise (Missing if answer['missing'] else UserError)(answer['problem'])
        return
      reason = 'it hung up'
    except (OSError, ValueError) as error:
      reason = str(error)
    time.sleep(_AGAIN)
  raise Missing(
    f'Process {mine["process"]} cannot reach process 0 at {host}:{port} ({reason}); see whether it '
    'runs and whether a firewall is between them.'
  )


class Preemption:
  """Notices that the machine will be preempted (SIGTERM), at the same step on all hosts.

  A context manager. With several processes, JAX itself listens, from the start.
  """

  def __init__(self):
    self._noticed = False
    # Signals only reach the main thread; in another one nothing is noticed.
    self._alone = not jax.distributed.is_initialized()
    self._listens = self._alone and threading.current_thread() is threading.main_thread()

  def __enter__(self) -> 'Preemption':
    if self._listens:
      self._before = signal.signal(signal.SIGTERM, self._notice)
    return self

  def __exit__(self, *exception) -> None:
    if self._listens:
      signal.signal(signal.SIGTERM, self._before)

  def _notice(self, *_):
    self._noticed = True

  def reached(self, step: int) -> bool:
    """Whether to save after `step` and end; to be called once after each step."""
    return self._noticed if self._alone else multihost_utils.reached_preemption_sync_point(step)


def is_shared() -> bool:
  """Whether this process is one of several, or was meant to be."""
  return jax.distributed.is_initialized()


def leave() -> None:
  """Waits until all processes get here, so that none takes another's end for a crash."""
  if is_shared():
    jax.distributed.shutdown()
