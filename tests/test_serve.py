"""The server, as users run it: a process on loopback, many clients, and an end by a signal."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import pathlib
import re
import signal
import socket
import threading
import time

import forks
import numpy as np
from PIL import Image
import pytest
import tiny

import basisnet_jax

ROOT = pathlib.Path(__file__).parents[1]
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


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, data_flag):
  folder = tmp_path_factory.mktemp('runs') / 'served'
  process = start(*tiny.RUN, data_flag, f'--workdir={folder}')
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  return folder


@pytest.fixture(scope='module')
def images():
  """PNG files, all different."""
  random, found = np.random.default_rng(0), []
  for i in range(160):
    pixels = random.integers(0, 256, (2 + i % 5, 3 + i % 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((40 + i, 30)).save(file, 'PNG')
    found.append(file.getvalue())
  return found


@pytest.fixture(scope='module')
def expected(workdir, images):
  """(threshold, the answers): of the predictor; about half exit, none near the threshold."""
  predictor = basisnet_jax.load(str(workdir))
  sure = sorted(answer.confidence for answer in predictor.predict(images, threshold=0.0))
  middle = sure[len(sure) // 4 : -len(sure) // 4]
  gap = max(range(len(middle) - 1), key=lambda i: middle[i + 1] - middle[i])
  threshold = (middle[gap] + middle[gap + 1]) / 2
  return threshold, predictor.predict(images, threshold=threshold, top_k=10)


@pytest.fixture(scope='module')
def server(workdir, expected):
  flags = f'--threshold={expected[0]!r}', '--batch_size=8', '--max_body=0.1', '--top_k=10'
  server = Server(workdir, *flags, '--batch_wait=2', '--request_timeout=60', '--queue=100')
  yield server
  server.process.kill()
  server.process.communicate()


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


def test_clients_at_once_get_each_their_own_answer(server, images, expected):
  _, answers = expected
  assert {answer.stage for answer in answers} == {'lightweight', 'specialist'}
  far = sorted(answer.probabilities[0] for answer in answers)
  assert far[-1] - far[0] > 100 * SAME['rel']  # A mix-up would show.
  names = [f'basisnet_answers_total{{stage="{s}"}}' for s in ('lightweight', 'specialist')]
  names += ['basisnet_batch_images_sum', 'basisnet_answer_seconds_count']
  before = [server.metric(name) for name in names]

  def client(seed):
    connection = http.client.HTTPConnection('127.0.0.1', server.port, timeout=120)
    asked = np.random.default_rng(seed).integers(0, len(images), 15)
    for i in asked:
      answer = server.ask('POST', '/predict', images[i], PNG, connection)
      assert_is(answer, answers[i])
    connection.close()
    return [answers[i].stage for i in asked]

  with concurrent.futures.ThreadPoolExecutor(64) as pool:
    stages = sum(pool.map(client, range(64)), [])
  gone = [server.metric(name) - old for name, old in zip(names, before, strict=True)]
  light = stages.count('lightweight')
  assert gone == [light, 960 - light, 960, 960]
  assert server.metric('basisnet_batch_images_count') < 480 + before[2]  # They were together.


def test_the_server_tells_what_it_serves(server, expected):
  status, _, about = server.ask('GET', '/')
  assert status == 200 and about['labels'] == [str(i) for i in range(10)]
  assert about['resolution'] == 16 and about['threshold'] == expected[0]
  assert about['chosen'] is None  # It was given.
  assert {answer.madds for answer in expected[1]} == set(about['madds'].values())


def test_answers_are_sent_at_once(server):
  connection, took = http.client.HTTPConnection('127.0.0.1', server.port, timeout=120), []
  for _ in range(60):
    began = time.perf_counter()
    server.ask('GET', '/health', connection=connection)
    took.append(time.perf_counter() - began)
  connection.close()
  # It is a third of a millisecond; 40 where a packet waits for the receipt of another.
  assert np.median(took[30:]) < 0.03


def giant():
  file = io.BytesIO()
  Image.new('1', (8001, 8000)).save(file, 'PNG')
  return file.getvalue()


@pytest.mark.parametrize(
  'method, path, body, headers, status, sentence',
  [
    ('POST', '/predict', b'no image', PNG, 422, '8 bytes: not an image of a kind that is known.'),
    ('POST', '/predict', b'\x89PNG\r\n\x1a\n0000', PNG, 422, '12 bytes: not '),
    ('POST', '/predict', giant(), PNG, 422, '8001 x 8000 pixels are more than 64,000,000'),
    ('POST', '/predict', b'', PNG, 400, 'The body is empty'),
    ('POST', '/predict', b'{}', {'Content-Type': 'application/json'}, 415, 'application/json'),
    ('POST', '/predict', b'1' * 100_001, PNG, 413, '100,001 bytes: the body is larger than'),
    # In chunks, of which nobody knows how many will come; and more than sockets hold.
    ('POST', '/predict', iter([b'1' * 4096] * 1000), PNG, 413, 'bytes and more: the body is'),
    ('PUT', '/predict', b'1', PNG, 405, '/predict is asked by POST, not by PUT'),
    ('GET', '/favicon.ico', None, {}, 404, 'There is no /favicon.ico'),
  ],
  ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_what_is_refused_gets_a_sentence(server, method, path, body, headers, status, sentence):
  found, _, content = server.ask(method, path, body, headers)
  assert found == status
  assert set(content) == {'error'} and sentence in content['error']


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


def test_what_is_no_http_is_refused(server):
  assert talk(server, b'how are you?\r\n\r\n').startswith('HTTP/1.1 400 ')
  endless = b'GET / HTTP/1.1\r\nA: ' + b'b' * 200_000
  assert talk(server, endless)[:13] in ('HTTP/1.1 400 ', '')


def test_chunks_of_one_byte_hold_up_nobody(server):
  head = b'POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n'
  end, took = threading.Event(), []

  def flood():
    while not end.is_set():
      with socket.create_connection(('127.0.0.1', server.port), timeout=60) as connection:
        connection.sendall(head)
        with contextlib.suppress(ConnectionError):
          while not end.is_set():
            connection.sendall(b'1\r\nx\r\n' * 20_000)

  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    floods = [pool.submit(flood) for _ in range(4)]
    time.sleep(0.5)
    for _ in range(5):
      began = time.perf_counter()
      assert server.ask('GET', '/health')[0] == 200
      took.append(time.perf_counter() - began)
    end.set()
    for done in floods:
      done.result()
  assert np.median(took) < 1.5  # It is 0.3; 4.8 where the server takes all that has come at once.


def test_the_server_lives_after_all_of_it(server, images, expected):
  assert_is(server.ask('POST', '/predict', images[0], PNG), expected[1][0])
  code, _, err = server.end(signal.SIGINT)
  assert code == 0 and 'Traceback' not in err


def test_a_full_queue_and_a_long_wait_are_told(workdir, images):
  server = Server(workdir, LONG, '--queue=3', '--request_timeout=5', '--batch_size=4')
  head = b'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n'
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    waiting = [pool.submit(server.ask, 'POST', '/predict', images[0], PNG) for _ in range(2)]
    slow_body, slow_head = (
      pool.submit(talk, server, head, b'\r\n1234'),
      pool.submit(talk, server, head),
    )
    server.until_unanswered(3)
    status, headers, content = server.ask('POST', '/predict', images[0], PNG)
    assert status == 503 and headers['Retry-After'] == '1'
    assert content['error'].startswith('The queue is full, with 3 requests, the limit')
    for answer in waiting:
      status, _, content = answer.result()
      assert status == 504 and 'within 5 seconds' in content['error']
    said = slow_body.result()
    assert said.startswith('HTTP/1.1 408 ') and 'did not come within 5 seconds' in said
    assert slow_head.result() == ''
  for status, count in ((503, 1), (504, 2), (408, 1)):
    name = f'basisnet_requests_total{{path="/predict",status="{status}"}}'
    assert server.metric(name) == count
  assert server.end()[0] == 0


def test_the_end_loses_no_accepted_request(workdir, images, expected):
  threshold, answers = expected
  flags = LONG, f'--threshold={threshold!r}', '--batch_size=8', '--top_k=10'
  server = Server(workdir, *flags, '--request_timeout=120')
  head = f'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(images[9])}\r\n\r\n'
  with (
    concurrent.futures.ThreadPoolExecutor(7) as pool,
    socket.create_connection(('127.0.0.1', server.port), timeout=120) as slow,
  ):
    waiting = [pool.submit(server.ask, 'POST', '/predict', images[i], PNG) for i in range(7)]
    slow.sendall(head.encode() + images[9][:50])  # Half of a body.
    server.until_unanswered(8)
    server.process.send_signal(signal.SIGTERM)
    for i, answer in enumerate(waiting):
      assert_is(answer.result(), answers[i])
    assert server.process.poll() is None  # It waits for the other half.
    with pytest.raises(ConnectionError):
      server.ask('GET', '/health')
    slow.sendall(images[9][50:])
    answer = http.client.HTTPResponse(slow)
    answer.begin()
    assert_is((answer.status, None, json.loads(answer.read())), answers[9])
  _, err = server.process.communicate(timeout=120)
  assert server.process.returncode == 0 and 'Traceback' not in err


def test_a_second_ctrl_c_leaves_who_is_not_answered(workdir, images):
  server = Server(workdir)
  head = f'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(images[0])}\r\n\r\n'
  with socket.create_connection(('127.0.0.1', server.port), timeout=120) as slow:
    slow.sendall(head.encode() + images[0][:50])
    server.until_unanswered(1)
    server.process.send_signal(signal.SIGINT)
    with pytest.raises(ConnectionError):
      while True:
        server.ask('GET', '/health')
    assert server.process.poll() is None  # It waits for the other half.
    code, _, err = server.end(signal.SIGINT)
    answer = http.client.HTTPResponse(slow)
    answer.begin()
    assert answer.status == 503 and 'The server ends' in answer.read().decode()
  assert code == 0 and not err, err


def test_more_connections_than_files_are_refused_in_a_sentence(workdir, images, expected):
  server = Server(workdir, f'--threshold={expected[0]!r}', '--top_k=10', files=FEW)
  with contextlib.ExitStack() as stack:

    def connect():
      return stack.enter_context(socket.create_connection(('127.0.0.1', server.port), timeout=60))

    idle = [connect() for _ in range(300)]  # 100 of 200 files are for connections.
    status, headers, content = server.ask('GET', '/health', connection=over(connect()))
    assert status == 503 and headers['Retry-After'] == '1'
    assert content['error'] == 'There are too many connections; try again in a second.'
    for connection in idle:
      connection.close()
    assert_is(server.ask('POST', '/predict', images[0], PNG), expected[1][0])
  code, out, err = server.end()
  assert code == 0 and 'Traceback' not in err and len(err) < 1000


@pytest.mark.parametrize(
  'flag, sentence',
  [
    ('--port={port}', r'--host=127.0.0.1 --port={port}: nobody can listen there \(.*in use'),
    ('--batch_size=3', 'batch_size=3 is no power of two'),
    ('--average_madds=1e-9', 'average_madds=1e-09 million cannot be kept'),
  ],
)
def test_mistakes_end_in_a_sentence(workdir, flag, sentence):
  with socket.create_server(('127.0.0.1', 0)) as taken:
    port = taken.getsockname()[1]
    process = start('--mode=serve', f'--workdir={workdir}', flag.format(port=port))
    out, err = process.communicate(timeout=120)
  assert process.returncode == 2 and re.search(sentence.format(port=port), err)
  assert 'Traceback' not in out + err


def test_a_missing_library_is_named(workdir):
  without = 'import sys; sys.modules["uvicorn"] = None; sys.argv[0] = "main"'
  program = f'{without}; from basisnet_jax import main; main.run()'
  process = forks.start(
    '-c', program, '--mode=serve', f'--workdir={workdir}', cwd=ROOT, env=forks.environment(1)
  )
  _, err = process.communicate(timeout=120)
  assert process.returncode == 2
  assert err.strip() == '--mode=serve needs uvicorn: pip install basisnet_jax[serve].'
