"""A sweep's processes: in order, failing, killed, asked to end. The children are stand-ins."""

import json
import pathlib
import signal
import subprocess
import sys
import time

from basisnet_jax.sweep import Sweep, records, runner
from basisnet_jax.training import workdir_lock

ROOT = pathlib.Path(__file__).parents[2]
SWEEP = Sweep(rows={'a': {}, 'b': {}}, seeds=(0, 1))

# What a training does as a sweep sees it: holds its workdir, leaves an evaluation.
CHILD = """
import json, pathlib, signal, sys, time
from basisnet_jax.training import workdir_lock

folder = pathlib.Path(sys.argv[1])

def save(*_):
  (folder / 'saved').write_text('')
  sys.exit(143)

signal.signal(signal.SIGTERM, save)
with workdir_lock.exclusive(str(folder)):
  with (folder.parents[1] / 'started').open('a') as file:
    file.write(f'{folder.parent.name}{folder.name[-1]} ')
  print('working', flush=True)
  while (folder.parents[1] / 'hold').exists():
    time.sleep(0.01)
  if (folder / 'fail').exists():
    sys.exit('The disk is full.')
  (folder / 'evaluation.json').write_text(json.dumps({'step': 7}))
"""


def command(run):
  return [sys.executable, '-c', CHILD, str(run.folder)]


def start(workdir):
  """A sweep in a process of its own."""
  code = (
    'import sys; from basisnet_jax.sweep import records, runner; '
    'from tests.sweep import test_runner as t; '
    'sys.exit(runner.run(records.of(t.SWEEP, sys.argv[1]), t.command))'
  )
  with (workdir / 'told').open('a') as told:
    return subprocess.Popen([sys.executable, '-c', code, str(workdir)], cwd=ROOT, stderr=told)


def wait_for(condition):
  until = time.monotonic() + 60
  while not condition():
    assert time.monotonic() < until
    time.sleep(0.01)


def started(workdir):
  path = workdir / 'started'
  return path.read_text().split() if path.exists() else []


def test_all_rows_run_with_one_seed_and_then_with_the_next(tmp_path):
  ends = []
  runs = records.of(SWEEP, str(tmp_path))
  assert runner.run(runs, command, lambda: ends.append(started(tmp_path)[-1])) == 0
  assert started(tmp_path) == ends == ['a0', 'b0', 'a1', 'b1']
  assert runner.run(runs, command) == 0
  assert len(started(tmp_path)) == 4  # Finished ones are not run again.


def test_run_that_fails_is_named_with_its_reason_and_the_others_go_on(tmp_path, capsys):
  runs = records.of(SWEEP, str(tmp_path))
  runs[1].folder.mkdir(parents=True)
  (runs[1].folder / 'fail').touch()
  assert runner.run(runs, command) == 1
  assert started(tmp_path) == ['a0', 'b0', 'a1', 'b1']
  told = capsys.readouterr().err
  assert 'b, seed 0: FAILED with code 1: The disk is full.' in told
  assert [run.name for run in runs if not records.is_finished(run)] == ['b, seed 0']
  (runs[1].folder / 'fail').unlink()
  assert runner.run(runs, command) == 0
  assert started(tmp_path)[4:] == ['b0']


def test_run_that_was_evaluated_at_another_step_is_not_finished(tmp_path):
  runs = records.of(SWEEP, str(tmp_path))
  runner.run(runs, command)
  (runs[2].folder / 'evaluation.json').write_text(json.dumps({'step': 3}))
  assert [records.is_finished(run) for run in runs] == [True, True, False, True]
  (runs[3].folder / 'evaluation.json').write_text('{"step"')
  assert not records.is_finished(runs[3])


def test_run_that_was_evaluated_in_another_way_is_not_finished(tmp_path):
  run, *_ = records.of(SWEEP, str(tmp_path))
  run.folder.mkdir(parents=True)
  path = run.folder / 'evaluation.json'

  def evaluate(images, threshold):
    chosen = {'threshold': threshold, 'top1': 0.9}
    path.write_text(json.dumps({'step': 7, 'images': images, 'chosen': chosen}))

  evaluate(360, 0.8)
  records.write(run, 1.0, finished=True)
  assert records.is_finished(run)
  for images, threshold in ((50, 0.8), (360, 0.7)):
    evaluate(images, threshold)
    assert not records.is_finished(run)
  (run.folder / 'sweep.json').write_text(json.dumps({'seconds': 1.0, 'step': 7}))
  assert records.is_finished(run)  # Older sweeps did not record it.


def test_sweep_that_was_killed_continues_and_waits_for_the_child_it_left(tmp_path):
  runs = records.of(SWEEP, str(tmp_path))
  runner.run(runs[:1], command)
  (tmp_path / 'hold').touch()
  sweep = start(tmp_path)
  wait_for(lambda: started(tmp_path) == ['a0', 'b0'])
  sweep.kill()
  assert sweep.wait() == -signal.SIGKILL
  again = start(tmp_path)  # The child of the killed one is still at work.
  wait_for(lambda: 'b, seed 0: waiting. Another run is' in (tmp_path / 'told').read_text())
  (tmp_path / 'hold').unlink()
  assert again.wait() == 0
  assert started(tmp_path) == ['a0', 'b0', 'b0', 'a1', 'b1']
  assert all(map(records.is_finished, runs))


def test_two_sweeps_share_the_runs_and_both_end_with_all_of_them(tmp_path):
  (tmp_path / 'hold').touch()
  sweeps = [start(tmp_path), start(tmp_path)]
  wait_for(lambda: sorted(started(tmp_path)) == ['a0', 'b0'])
  (tmp_path / 'hold').unlink()
  assert [sweep.wait() for sweep in sweeps] == [0, 0]
  assert sorted(started(tmp_path)) == ['a0', 'a1', 'b0', 'b1']
  assert all(map(records.is_finished, records.of(SWEEP, str(tmp_path))))


def test_run_of_a_sweep_that_was_killed_is_taken_by_the_other(tmp_path):
  (tmp_path / 'hold').touch()
  first = start(tmp_path)
  wait_for(lambda: started(tmp_path) == ['a0'])
  first.send_signal(signal.SIGSTOP)  # It cannot note that its child has ended.
  other = start(tmp_path)
  wait_for(lambda: started(tmp_path) == ['a0', 'b0'])
  (tmp_path / 'hold').unlink()
  at_work = 'waiting for another sweep of this workdir, which is at a, seed 0'
  wait_for(lambda: at_work in (tmp_path / 'told').read_text())
  first.kill()
  first.wait()
  assert other.wait() == 0
  assert started(tmp_path) == ['a0', 'b0', 'a1', 'b1', 'a0']


def test_interrupted_sweep_lets_the_child_save_and_ends(tmp_path):
  (tmp_path / 'hold').touch()
  sweep = start(tmp_path)
  wait_for(lambda: started(tmp_path) == ['a0'])
  sweep.send_signal(signal.SIGINT)
  assert sweep.wait(60) == 128 + signal.SIGINT
  first, *others = records.of(SWEEP, str(tmp_path))
  assert (first.folder / 'saved').exists()
  assert not any(run.folder.exists() for run in others)
  with workdir_lock.exclusive(str(first.folder)):  # Nobody is left at work.
    pass


def test_time_of_a_run_adds_up_over_its_attempts(tmp_path):
  (run,) = records.of(Sweep(rows={'a': {}}, seeds=(0,)), str(tmp_path))
  records.write(run, 1000.0, finished=False)
  runner.run([run], command)
  assert 1000 < records.seconds(run) < 1060


def test_time_left_counts_what_rows_took_and_what_is_spent(tmp_path):
  runs = records.of(Sweep(rows={'a': {}, 'b': {}, 'c': {}}, seeds=(0, 1)), str(tmp_path))
  assert records.seconds_left(runs, runs[0], 5.0) is None
  for run, seconds in zip(runs[:2], (100.0, 300.0), strict=True):
    run.folder.mkdir(parents=True)
    (run.folder / 'evaluation.json').write_text(json.dumps({'step': 1}))
    records.write(run, seconds, finished=True)
  # c takes 200 on average, of which 20 are over, twice; a takes 100 and b 300.
  assert records.seconds_left(runs, runs[2], 20.0) == 180 + 100 + 300 + 200


def test_parent_never_loads_jax():
  code = (
    'import sys, basisnet_jax.main; from basisnet_jax.sweep import records, results, runner; '
    'sys.exit(bool({"jax", "tensorflow"} & set(sys.modules)))'
  )
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0
