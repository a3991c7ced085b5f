"""The clock of a start: it ends with the first step, with the process, or with its time."""

import sys
import time

import pytest

from benchmarks import ours, startup


def first_step(monkeypatch, tmp_path, program):
  monkeypatch.setattr(ours, 'command', lambda *_: [sys.executable, '-c', program])
  return startup._first_step(str(tmp_path), '', 0)


def test_the_first_step_is_seen(monkeypatch, tmp_path):
  program = "import time; print('training 20%| 1/5', flush=True); time.sleep(30)"
  assert 0 < first_step(monkeypatch, tmp_path, program) < 25


def test_a_process_that_ends_before_is_told_with_what_it_said(monkeypatch, tmp_path):
  with pytest.raises(SystemExit, match='No first step:\nno such data'):
    first_step(monkeypatch, tmp_path, "print('no such data')")


@pytest.mark.parametrize(
  'program', ['time.sleep(30)', "while True: print('...', flush=True)"], ids=['silent', 'loud']
)
def test_time_is_up_for_any_process(monkeypatch, tmp_path, program):
  monkeypatch.setattr(startup, '_TIMEOUT', 0.2)
  began = time.monotonic()
  with pytest.raises(SystemExit, match='No first step'):
    first_step(monkeypatch, tmp_path, f'import time\n{program}')
  assert time.monotonic() < began + 25
