"""Programs started in a moment: forks of a process that has imported the libraries.

Importing them is most of what a short run does, and tests start the program a hundred times. A fork
is a process like others: it has its own arguments, environment, directory and output, can be
stopped and killed, and ends as Python does.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

# None of the project's own: each program imports them, as new.
_LIBRARIES = [
  *('absl.app', 'clu.metric_writers', 'flax.linen', 'jax.experimental.multihost_utils'),
  *('matplotlib.backends.backend_agg', 'matplotlib.figure', 'ml_collections.config_flags', 'optax'),
  *('orbax.checkpoint', 'PIL.Image', 'safetensors.numpy', 'scipy.stats', 'sklearn.datasets'),
  *('tensorboard.plugins.hparams.api', 'tensorflow', 'tensorflow_datasets', 'tqdm'),
]
# The program starts itself again without the first two (basisnet_jax/environment.py);
# data/quiet_tensorflow.py sets the others.
_ENVIRONMENT = {
  'GLIBC_TUNABLES': ':'.join(
    f'glibc.malloc.{name}' for name in ('hugetlb=1', 'mmap_max=0', f'trim_threshold={2**62}')
  ),
  'PYTHONUTF8': '1',
  'TF_CPP_MIN_LOG_LEVEL': '2',
  'TF_ENABLE_ONEDNN_OPTS': '0',
}


def environment(devices: int) -> dict[str, str]:
  """This process's, with so many simulated devices: of a flag the last one counts."""
  flags = f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count={devices}'
  return os.environ | {'XLA_FLAGS': flags}


def start(*arguments, cwd, env, stderr=subprocess.PIPE, anew=False) -> 'Fork | subprocess.Popen':
  """`Server.start`, of a server that stays until the tests end; `anew` imports all by itself."""
  if anew or not hasattr(os, 'pidfd_open'):  # It has it on Linux.
    command, pipe = [sys.executable, *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=pipe, stderr=stderr, text=True)
  return _server().start(*arguments, cwd=cwd, env=env, stderr=stderr)


@functools.cache
def _server():
  server = Server()
  atexit.register(server.close)
  return server


def kill_when(process, moment):
  """Kills it as soon as `moment()` is true; it must not have ended before."""
  until = time.monotonic() + 300
  while not moment():
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < until
    time.sleep(0.001)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def free_port() -> int:
  """A port of this machine that nobody listens on."""
  with socket.socket() as probe:
    probe.bind(('', 0))
    return probe.getsockname()[1]


class Server:
  """A process that forks; threads may share it."""

  def __init__(self, *prefix: str):
    """Starts it, by a command that runs another one if there is a prefix."""
    self._lock = threading.Lock()
    self._process = subprocess.Popen(
      [*prefix, sys.executable, __file__],
      env=os.environ | _ENVIRONMENT,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    self.pid = self._process.pid
    self._process.stdout.readline()  # It is ready.

  def start(self, *arguments, cwd, env, stderr=subprocess.PIPE) -> 'Fork':
    """Does what Popen does with `python ARGUMENTS`, which begin with a file, '-m' or '-c'.

    Its output is kept in files; `stderr` may be `subprocess.STDOUT`.
    """
    files = [tempfile.NamedTemporaryFile('w+') for _ in range(2)]
    if stderr == subprocess.STDOUT:
      files.pop().close()
    pid = self._ask(
      arguments=list(map(str, arguments)),
      cwd=str(cwd),
      env=env | _ENVIRONMENT,
      files=[files[0].name, files[-1].name],
    )
    return Fork(pid, files, lambda: self._ask(pid=pid))

  def close(self):
    self._process.stdin.close()
    self._process.wait()
    self._process.stdout.close()

  def _ask(self, **order):
    with self._lock:
      self._process.stdin.write(json.dumps(order) + '\n')
      self._process.stdin.flush()
      return int(self._process.stdout.readline())


class Fork:
  """What is used of `subprocess.Popen`."""

  def __init__(self, pid, files, reap):
    self.pid, self.returncode = pid, None
    self._files, self._said, self._reap = files, None, reap
    self._end = os.pidfd_open(pid)

  def poll(self, timeout=0):
    if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
      self.returncode = os.waitstatus_to_exitcode(self._reap())
      os.close(self._end)
    return self.returncode

  def communicate(self, timeout=None):
    if self.poll(timeout) is None:
      raise subprocess.TimeoutExpired(f'process {self.pid}', timeout)
    if not self._said:
      for file in self._files:
        file.seek(0)
      self._said = tuple(file.read() for file in self._files)
      for file in self._files:
        file.close()
    return self._said

  def send_signal(self, number):
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self):
    self.send_signal(signal.SIGKILL)


def _serve():
  """Forks as it is asked to; returns in a fork, with the arguments of its Python."""
  for name in _LIBRARIES:
    importlib.import_module(name)
  gc.freeze()  # What all share is not looked through by each.
  print('ready', flush=True)
  for line in iter(sys.stdin.readline, ''):
    order = json.loads(line)
    if 'pid' in order:
      _, answer = os.waitpid(order['pid'], 0)
    else:
      answer = os.fork()
      if not answer:
        return _become(**order)
    print(answer, flush=True)
  sys.exit()


def _become(arguments, cwd, env, files):
  os.environ.clear()
  os.environ.update(env)
  os.chdir(cwd)
  for descriptor, name in enumerate(['/dev/null', *files]):
    file = os.open(name, os.O_RDWR | os.O_APPEND)
    os.dup2(file, descriptor)
    os.close(file)
  sys.orig_argv = [sys.executable, *arguments]
  return arguments


if __name__ == '__main__':
  first, *sys.argv = _serve()
  sys.path[0] = os.getcwd()
  if first == '-m':
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
  elif first == '-c':
    program, sys.argv[0] = sys.argv[0], first
    exec(program, {'__name__': '__main__'})
  else:
    sys.argv.insert(0, first)
    sys.path[0] = os.path.dirname(first)
    runpy.run_path(first, run_name='__main__')
