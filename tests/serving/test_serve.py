"""The server, as users run it: a process on loopback, many clients, and an end by a signal."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import re
import signal
import socket
import threading
import time

import forks
import numpy as np
from PIL import Image
import pytest
from servers import PNG, ROOT, SAME, Server, assert_is, start, talk


@pytest.fixture(scope='module')
def server(workdir, expected):
  flags = f'--threshold={expected[0]!r}', '--batch_size=8', '--max_body=0.1', '--top_k=10'
  server = Server(workdir, *flags, '--batch_wait=2', '--request_timeout=60', '--queue=100')
  yield server
  server.process.kill()
  server.process.communicate()


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


def test_targets_may_name_the_host(server):
  found = talk(server, b'GET http://b.c/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  assert found.startswith('HTTP/1.1 200 ') and found.endswith('{"status": "ready"}\n')


def test_what_is_no_http_is_refused_and_counted(server):
  found = talk(server, b'how are you?\r\n\r\n')
  assert server.metric('basisnet_requests_total{path="other",status="400"}') == 1
  assert found.startswith('HTTP/1.1 400 ')
  assert json.loads(found.split('\r\n\r\n')[1])['error'].startswith('This is no HTTP, or its head')
  endless = b'GET / HTTP/1.1\r\nA: ' + b'b' * 20_000_000
  assert talk(server, endless).startswith('HTTP/1.1 400 ')  # No reset, though it sends more.


def test_what_is_no_http_after_an_answer_ends_the_connection(server):
  head = b'POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n'
  with socket.create_connection(('127.0.0.1', server.port), timeout=60) as connection:
    connection.sendall(head + b'Content-Type: text/plain\r\n\r\n')
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    assert answer.status == 415 and 'text/plain' in json.loads(answer.read())['error']
    connection.sendall(b'no chunk\r\n')
    assert connection.recv(1) == b''  # And no stack: see the last test of this server.


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


@pytest.mark.parametrize(
  'flag, sentence',
  [
    ('--port={port}', r'--host=127.0.0.1 --port={port}: nobody can listen there \(.*in use'),
    ('--host=', '--host is empty; give an address to listen on'),
    ('--host=köln..de', r'--host=köln\.\.de --port=8000: nobody can listen there \(encoding'),
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
