"""How the processes of one training find each other: the roll call at process 0."""

import re
import socket
import threading
import time

from forks import free_port
import pytest

from basisnet_jax import distributed
from basisnet_jax.errors import Missing, UserError


def roll_call(*processes, timeout=10.0, port=None):
  """What each of (number, count) is told; '' is well."""
  port, told = port or free_port(), {}

  def call(number, count):
    try:
      distributed.call_roll(f'127.0.0.1:{port}', count, number, timeout)
      told[number] = ''
    except (UserError, Missing) as error:
      told[number] = str(error)

  threads = [threading.Thread(target=call, args=process) for process in processes]
  for thread in reversed(threads):  # The first is the last to come.
    thread.start()
    time.sleep(0.1)
  for thread in threads:
    thread.join()
  return told


def test_roll_call_is_over_when_all_are_there():
  assert roll_call((0, 3), (1, 3), (2, 3)) == {0: '', 1: '', 2: ''}


def test_other_count_is_told_to_all():
  told = roll_call((0, 3), (1, 3), (2, 4))
  assert told[0] == told[2] and 'Process 2 of 4 at 127.0.0.1 called' in told[0]


def test_missing_process_zero_is_named_with_its_address():
  told = roll_call((1, 2), timeout=1.0, port=free_port())
  assert re.match(r'Process 1 cannot reach process 0 at 127.0.0.1:\d+ \(.*refused\)', told[1])


def test_strangers_do_not_count():
  port = free_port()

  def knock():
    for text in (b'GET / HTTP/1.1\r\n\r\n', b'{"process": 1}\n', b'\xff\n', b'[]\n'):
      time.sleep(0.1)
      with socket.create_connection(('127.0.0.1', port)) as connection:
        connection.sendall(text)

  thread = threading.Timer(0.5, knock)
  thread.start()
  told = roll_call((0, 2), timeout=3.0, port=port)
  thread.join()
  assert told[0].startswith('Of 2 processes these did not come in time: 1;')


def test_taken_port_is_one_clear_sentence():
  with socket.create_server(('', 0)) as taken:
    port = taken.getsockname()[1]
    told = roll_call((0, 2), timeout=1.0, port=port)
  assert told[0].startswith(f'Process 0 cannot listen at port {port} (Address already in use')


@pytest.mark.parametrize(
  ('arguments', 'sentence'),
  [
    (('a:1', None, 0), '--num_processes must be given, too'),
    ((None, 2, None), '--coordinator_address and --process_id must be given, too'),
    (('a:1', 2, 2), '--process_id=2 is not one of 2 processes; they count from 0'),
    (('a', 2, 1), "--coordinator_address='a' is not HOST:PORT"),
  ],
  ids=str,
)
def test_flags_that_do_not_fit_are_one_clear_sentence(arguments, sentence):
  with pytest.raises(UserError, match=re.escape(sentence)):
    distributed.initialize(*arguments, timeout=1.0)
