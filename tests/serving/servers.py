"""Servers of a run, and those who ask them."""

import contextlib
import http.client
import json
import pathlib
import signal
import socket
import time

import forks
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PNG = {'Content-Type': 'image/png'}
LONG = '--batch_wait=600000'  # Milliseconds: until the batch is full, or the server ends.
# Forward passes of so many images at once differ in the last digits.
SAME = {'rel': 2e-4, 'abs': 1e-6}
# A server that may open so few files, connections among them.
FEW = 'import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); '


def start(*arguments, files=''):
  environment = forks.environment(1)
  program = ('-c', f'{files}from basisnet_jax import main; main.run()') if files else (
    '-m', 'basisnet_jax.main'
  )  # fmt: skip
  return forks.start(*program, *arguments, cwd=ROOT, env=environment)


class Server:
  """One that is ready."""

  def __init__(self, workdir, *flags, files=''):
    self.port = forks.free_port()
    asked = '--mode=serve', f'--workdir={workdir}', f'--port={self.port}', *flags
    self.process = start(*asked, files=files)
    until = time.monotonic() + 300
    while self._health() != 200:
      assert self.process.poll() is None, self.process.communicate()
      assert time.monotonic() < until
      time.sleep(0.02)

  def _health(self):
    try:
      return self.ask('GET', '/health')[0]
    except ConnectionError:
      return None

  def ask(self, method, path, body=None, headers=(), connection=None):
    """(status, headers, what the content is: an object of JSON, or text)."""
    own = connection or http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
    try:
      own.request(method, path, body, dict(headers))
      answer = own.getresponse()
      content = answer.read().decode()
      if answer.headers['Content-Type'] == 'application/json':
        content = json.loads(content)
      return answer.status, answer.headers, content
    finally:
      if connection is None:
        own.close()

  def metric(self, name):
    """Of this name with labels, 0 where there is none."""
    lines = self.ask('GET', '/metrics')[2].splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f'{name} ')), 0)

  def until_unanswered(self, count):
    until = time.monotonic() + 120
    while self.metric('basisnet_requests_unanswered') != count:
      assert time.monotonic() < until
      time.sleep(0.01)

  def end(self, number=signal.SIGTERM):
    """Its exit code, and what it printed."""
    self.process.send_signal(number)
    out, err = self.process.communicate(timeout=120)
    return self.process.returncode, out, err


def assert_is(answer, wanted):
  """`answer` is (status, headers, JSON), `wanted` a Prediction."""
  status, _, content = answer
  assert status == 200, content
  assert set(content) == set(wanted._fields)
  assert (content['stage'], content['madds']) == (wanted.stage, wanted.madds)
  assert content['confidence'] == pytest.approx(wanted.confidence, **SAME)
  # By label: of two that are equally likely either may be first.
  found = dict(zip(content['labels'], content['probabilities'], strict=True))
  assert found == pytest.approx(dict(zip(wanted.labels, wanted.probabilities, strict=True)), **SAME)
  assert content['probabilities'] == sorted(found.values(), reverse=True)


def talk(server, *parts):
  """Sends parts on one connection and returns what comes until it is closed."""
  with socket.create_connection(('127.0.0.1', server.port), timeout=120) as connection:
    for part in parts:
      connection.sendall(part)
    found = b''
    with contextlib.suppress(ConnectionResetError):  # What it does not read it may reset.
      while part := connection.recv(65536):
        found += part
  return found.decode()


def over(connection):
  """A client over a connection that exists."""
  client = http.client.HTTPConnection('127.0.0.1', timeout=60)
  client.sock = connection
  return client
