"""Telemetry, judged by TensorBoard's own reader, and the progress line, by a terminal."""

import fcntl
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import time

import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from basisnet_jax.training import progress as progress_lib
from basisnet_jax.training.progress import Progress
from basisnet_jax.training.telemetry import Telemetry


def tensors(folder, tag):
  """[(step, value)] as TensorBoard reads them."""
  events = EventAccumulator(str(folder), size_guidance={'tensors': 0}).Reload().Tensors(tag)
  return [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in events]


def hparams(folder):
  metadata = EventAccumulator(str(folder)).Reload().SummaryMetadata(
    '_hparams_/session_start_info'
  )
  data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
  return {
    name: getattr(value, value.WhichOneof('kind'))
    for name, value in data.session_start_info.hparams.items()
  }


def test_scalars_are_read_back_at_their_steps(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    for step in (100, 200):
      telemetry.scalars(step, {
        'train/loss': jnp.float32(step / 8), 'eval/specialist/top1': np.float64(0.5), 'epoch': 3,
      })
  assert tensors(tmp_path, 'train/loss') == [(100, 12.5), (200, 25.0)]
  assert tensors(tmp_path, 'eval/specialist/top1') == [(100, 0.5), (200, 0.5)]
  assert tensors(tmp_path, 'epoch') == [(100, 3.0), (200, 3.0)]


def test_loss_that_is_not_finite_is_kept_visible(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.scalars(1, {'train/loss': math.nan})
    telemetry.scalars(2, {'train/loss': math.inf})
    telemetry.scalars(3, {'train/loss': 1.0})
  values = [float(value) for _, value in tensors(tmp_path, 'train/loss')]
  np.testing.assert_array_equal(values, [math.nan, math.inf, 1.0])


@pytest.mark.parametrize('bad', [np.zeros(2), 'high', None, 1j])
def test_bad_scalar_is_reported_where_it_is_passed_and_spoils_nothing(tmp_path, bad):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    with pytest.raises(ValueError, match="metric 'train/loss'"):
      telemetry.scalars(1, {'train/loss': bad})
    telemetry.scalars(2, {'train/loss': 7})
  assert tensors(tmp_path, 'train/loss') == [(2, 7.0)]


def test_histograms_count_every_finite_entry(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.histograms(5, {
      'coefficients': jnp.linspace(0, 1, 60, dtype=jnp.bfloat16).reshape(3, 4, 5),
      'broken': np.array([math.nan, 1.0, math.inf, 3.0]),
      'lost': np.array([math.nan]),
    })
  for tag, low, high, count in (('coefficients', 0, 1, 60), ('broken', 1, 3, 2)):
    (step, buckets), = tensors(tmp_path, tag)  # Rows of: left edge, right edge, count.
    assert step == 5
    assert (buckets[0, 0], buckets[-1, 1], buckets[:, 2].sum()) == (low, high, count)
  assert 'lost' not in EventAccumulator(str(tmp_path)).Reload().Tags()['tensors']


def test_text_is_a_code_block_whatever_it_contains(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.text(0, {'config': 'seed: 0\n```\nname: *x*'})
  (_, value), = tensors(tmp_path, 'config')
  assert value.item().decode() == '    seed: 0\n    ```\n    name: *x*'


def test_hyper_parameters_keep_their_names_and_types(tmp_path):
  config = ml_collections.ConfigDict({
    'seed': 0,
    'model': {'name': 'basisnet', 'coefficients': {'shared': True, 'temperature': 1.5}},
    'evaluation': {'thresholds': (0.3, 0.7)},
    'steps': None,
  })
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.hparams(config)
  found = hparams(tmp_path)
  assert found == {
    'seed': 0, 'model.name': 'basisnet', 'model.coefficients.shared': True,
    'model.coefficients.temperature': 1.5, 'evaluation.thresholds': '(0.3, 0.7)', 'steps': 'None',
  }
  assert found['model.coefficients.shared'] is True


def test_flushed_values_are_in_the_file_before_close(tmp_path):
  telemetry = Telemetry(str(tmp_path), enabled=True)
  telemetry.scalars(1, {'loss': 2})
  telemetry.flush()
  assert tensors(tmp_path, 'loss') == [(1, 2.0)]
  telemetry.close()
  telemetry.close()
  telemetry.scalars(2, {'loss': 2})
  assert len(tensors(tmp_path, 'loss')) == 1


def test_other_processes_write_nothing_and_load_no_tensorflow(tmp_path):
  code = f"""
    import sys
    from basisnet_jax.training.telemetry import Telemetry
    with Telemetry({str(tmp_path)!r}, enabled=False) as telemetry:
      telemetry.scalars(1, {{'loss': 'not a number'}})
      telemetry.flush()
    sys.exit('tensorflow' in sys.modules)
  """
  assert subprocess.run([sys.executable, '-c', textwrap.dedent(code)]).returncode == 0
  assert not list(tmp_path.iterdir())


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
      rows[row][column:column + len(token)] = token
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
