"""The progress line, judged by a terminal."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import time

import pytest

from basisnet_jax.training import progress as progress_lib
from basisnet_jax.training.progress import Progress


class Clock:
  """Stands for the `time` module; moves only when told."""

  def __init__(self):
    self.now = 1000.0

  def monotonic(self):
    return self.now


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress_lib, 'time', clock)
  return clock


def test_compiling_does_not_count_into_speed_or_time_left(clock, capsys):
  with Progress(1000, batch_size=64) as progress:
    clock.now += 300  # Compiling.
    progress.update(1)
    assert progress.images_per_second is None
    for step in range(2, 102):
      clock.now += 0.5
      progress.update(step, {'loss': 2.34567, 'specialist/top1': 0.5})
  assert progress.images_per_second == pytest.approx(128)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == 'training   0%  0/1,000  compiling...'
  assert lines[1] == 'training   0%  1/1,000'
  assert lines[-1] == (
    'training  10%  101/1,000  128 images/s  7:30 left  loss 2.346  specialist/top1 50.0%'
  )
  assert len(lines) == 2 + 5  # The start, then every ten of 50 seconds.


def test_speed_follows_a_change_within_a_minute(clock):
  progress = Progress(10**6, enabled=False)
  for step in range(1000):
    clock.now += 0.1
    progress.update(step)
  assert progress.images_per_second == pytest.approx(10)
  for step in range(1000, 1060):
    clock.now += 1
    progress.update(step)
  assert progress.images_per_second == pytest.approx(1)


def test_speed_is_right_when_updates_come_in_bursts(clock):
  progress = Progress(10**6, enabled=False)
  for step in range(1, 2001):  # 100 steps are dispatched at once, every 10 seconds.
    clock.now += 10 * (step % 100 == 0)
    progress.update(step)
  assert progress.images_per_second == pytest.approx(10)


def test_evaluation_within_training_does_not_lower_the_speed(clock):
  progress = Progress(10**6, enabled=False)
  for step in range(20):
    clock.now += 1
    if step == 10:
      with progress.paused():
        clock.now += 500
    progress.update(step)
  assert progress.images_per_second == pytest.approx(1)


def test_resumed_run_continues_the_count(clock, capsys):
  with Progress(200, start_step=100) as progress:
    progress.update(101)
    clock.now += 20
    progress.update(111)
  lines = capsys.readouterr().err.splitlines()
  assert lines[0] == 'training  50%  100/200  compiling...'
  assert lines[-1] == 'training  56%  111/200  0.5 images/s  2:58 left'


def test_disabled_progress_is_silent(capfd):
  with Progress(10, enabled=False) as progress:
    progress.update(1)
    progress.write('hello')
  assert capfd.readouterr() == ('', '')


RUN = textwrap.dedent("""
  import time
  from basisnet_jax.training.progress import Progress
  with Progress(40, batch_size=8) as progress:
    time.sleep(0.3)
    for step in range(1, 41):
      time.sleep(0.02)
      progress.update(step, {'loss': 1 / step, '{odd}': 3})
      if step == 20:
        progress.write('checkpoint saved')
        with progress.paused(), Progress(100, name='evaluation') as inner:
          for done in range(0, 101, 10):
            time.sleep(0.02)
            inner.update(done)
""")


def in_terminal(columns):
  """Returns what RUN sends to a terminal so wide."""
  leader, follower = pty.openpty()
  fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
  process = subprocess.Popen([sys.executable, '-c', RUN], stdout=follower, stderr=follower)
  os.close(follower)
  received = b''
  try:
    while chunk := os.read(leader, 4096):
      received += chunk
  except OSError:  # How Linux says that the other end is closed.
    pass
  os.close(leader)
  assert process.wait() == 0
  return received.decode()


def screen(text):
  """Returns the lines that stay on a terminal's screen, and every state they passed through."""
  rows, row, column, states = [[]], 0, 0, []
  for token in re.findall(r'\x1b\[A|\r|\n|[^\r\n\x1b]+', text):
    if token == '\r':
      column = 0
    elif token == '\n':
      row += 1
      rows += [[] for _ in range(row + 1 - len(rows))]
    elif token == '\x1b[A':
      row -= 1
    else:
      rows[row] += ' ' * (column - len(rows[row]))
      rows[row][column : column + len(token)] = token
      column += len(token)
      states.append(''.join(rows[row]).rstrip())
  return [''.join(line).rstrip() for line in rows], states


def test_terminal_shows_one_live_line_and_messages_above_it():
  lines, states = screen(in_terminal(100))
  lines = [line for line in lines if line]
  assert lines[0] == 'checkpoint saved'
  assert re.fullmatch(
    r'training 100% \|█+\| 40/40  \d[\d.,]* images/s  loss 0.025  \{odd\} 3', lines[1]
  )
  assert len(lines) == 2  # The inner bar is gone.
  assert any(re.match(r'training   0% \|.*\| 0/40  compiling\.\.\.$', state) for state in states)
  assert any(state.startswith('evaluation') for state in states)
  assert len({state for state in states if 'training' in state}) > 5  # It lives.
  assert max(map(len, states)) <= 100


def test_narrow_terminal_is_never_overrun():
  _, states = screen(in_terminal(40))
  assert max(map(len, states)) <= 40


def test_pipe_gets_a_few_plain_lines():
  began = time.monotonic()
  run = subprocess.run([sys.executable, '-c', RUN], capture_output=True, text=True, check=True)
  assert run.stdout == 'checkpoint saved\n'
  assert '\r' not in run.stderr and '\x1b' not in run.stderr
  lines = run.stderr.splitlines()
  assert lines[0] == 'training   0%  0/40  compiling...'
  assert re.fullmatch(r'training 100%  40/40  [\d.,]+ images/s  loss 0.025  \{odd\} 3', lines[-1])
  assert len(lines) <= 6 + (time.monotonic() - began) / 10
