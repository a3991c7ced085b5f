"""How a server ends, and what it does when there are more than it can take."""

import concurrent.futures
import contextlib
import http.client
import json
import signal
import socket

import forks
import pytest
import servers
from servers import FEW, LONG, PNG, assert_is, over, talk


def test_a_full_queue_and_a_long_wait_are_told(workdir, images):
  server = servers.Server(workdir, LONG, '--queue=3', '--request_timeout=5', '--batch_size=4')
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
  server = servers.Server(workdir, *flags, '--request_timeout=120')
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
  server = servers.Server(workdir)
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


def test_who_closes_one_half_of_a_connection_is_gone(workdir, images):
  server = servers.Server(workdir, LONG)
  head = f'POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(images[0])}\r\n\r\n'
  with socket.create_connection(('127.0.0.1', server.port), timeout=60) as connection:
    connection.sendall(head.encode() + images[0])
    server.until_unanswered(1)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b''
  server.until_unanswered(0)
  assert server.metric('basisnet_requests_total{path="/predict",status="499"}') == 1
  assert server.end()[0] == 0


def test_a_server_that_compiles_ends_at_once(workdir):
  forever = (
    'import time; from basisnet_jax.inference import predictor; '
    'predictor.Predictor.answers = lambda *a, **k: time.sleep(600); '
  )
  port = forks.free_port()
  process = servers.start('--mode=serve', f'--workdir={workdir}', f'--port={port}', files=forever)
  status = None
  while status is None:
    assert process.poll() is None
    connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    with contextlib.suppress(ConnectionError), contextlib.closing(connection):
      connection.request('GET', '/health')
      with connection.getresponse() as answer:
        status = answer.status
  assert status == 503
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0 and not err, err
  assert out.endswith('It compiles first.\nCompiling: 0 of 4 programs in 0 s.\n')


def test_more_connections_than_files_are_refused_in_a_sentence(workdir, images, expected):
  server = servers.Server(workdir, f'--threshold={expected[0]!r}', '--top_k=10', files=FEW)
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
  assert server.metric('basisnet_requests_total{path="other",status="503"}') > 200
  code, out, err = server.end()
  assert code == 0 and 'Traceback' not in err and len(err) < 1000
