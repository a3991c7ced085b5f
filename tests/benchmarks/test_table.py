import json
import sys

import matplotlib.image
import numpy as np
import pytest

from basisnet_jax.errors import UserError
from benchmarks import __main__ as together
from benchmarks import measure, table

SAMPLES = {'floor': np.array([1.0, 2.0, 4.0]), 'ours': np.array([2.0, 2.0, 8.0])}


def rows(bar='at most 2'):
  return list(table.times('a case', SAMPLES, 'floor', {('ours', 'floor'): bar}))


def test_ratios_are_of_the_same_round():
  floor, ours = rows()
  assert floor.ratio is None and floor.value.median == 2000.0 and floor.unit == 'ms'
  # 2, 1, 2: the ratio of the medians would be 1.
  assert ours.ratio.median == 2.0 and ours.against == 'floor'


@pytest.mark.parametrize(
  'bar, met', [('at most 2', True), ('at most 1.9', False), ('at least 2', True),
               ('at least 2.1', False), ('', None)]
)  # fmt: skip
def test_bars_are_for_the_median(bar, met):
  assert rows(bar)[1].met is met


def test_more_than_one_comparison_of_a_candidate_has_a_row_each():
  samples = SAMPLES | {'peer': np.array([4.0, 4.0, 16.0])}
  found = list(table.times('a case', samples, 'floor', {('peer', 'ours'): 'at least 1.4'}))
  assert [(row.name, row.against) for row in found] == [
    ('floor', ''), ('ours', 'floor'), ('peer', 'floor'), ('peer', 'ours'),
  ]  # fmt: skip
  assert found[-1].ratio.median == 2.0 and found[-1].met


def run(monkeypatch, tmp_path, cases, *flags, **options):
  monkeypatch.setattr(sys, 'argv', ['bench', f'--output={tmp_path}', *flags])
  for name in ('start_again', 'dispatch_in_calling_thread'):  # They are for a process of its own.
    monkeypatch.setattr(table.environment, name, lambda: None)
  table.main('example', 'About it', cases, **options)


def test_a_benchmark_prints_and_writes_json_markdown_and_a_picture(monkeypatch, tmp_path, capsys):
  run(monkeypatch, tmp_path, lambda seconds: rows('at most 1.5'))
  out = capsys.readouterr().out
  assert 'a case' in out and 'at most 1.5: NO' in out and 'cores of' in out
  saved = json.loads((tmp_path / 'example.json').read_text())
  assert 'jax' in saved['hardware']
  assert saved['rows'][1]['ratio']['median'] == 2.0 and saved['rows'][1]['met'] is False
  text = (tmp_path / 'example.md').read_text()
  assert '| | ours | 2,000 ms | 2.00 (1.50-2.00) | floor | at most 1.5: no |' in text.replace(
    '|  |', '| |'
  )
  assert matplotlib.image.imread(tmp_path / 'example.png').std() > 0.01


def test_seconds_and_data_reach_the_cases(monkeypatch, tmp_path):
  got = []
  cases = lambda *arguments: got.append(arguments) or rows()  # noqa: E731
  run(monkeypatch, tmp_path, cases, '--seconds=3', '--data_dir=photos', data_dir=True)
  run(monkeypatch, tmp_path, cases)
  assert got == [(3.0, 'photos'), (10.0,)]
  with pytest.raises(SystemExit):
    run(monkeypatch, tmp_path, cases, data_dir=True)


@pytest.mark.parametrize(
  'error, code, said',
  [
    (KeyboardInterrupt(), 1, '\nInterrupted: of example nothing is written.\n'),
    (UserError('No data there.'), 2, 'No data there.\n'),
  ],
)
def test_what_ends_a_benchmark_is_a_sentence(monkeypatch, tmp_path, capsys, error, code, said):
  def cases(seconds):
    yield from rows()
    raise error

  with pytest.raises(SystemExit) as ended:
    run(monkeypatch, tmp_path, cases)
  assert ended.value.code == code and capsys.readouterr().err == said
  assert not list(tmp_path.iterdir())


def test_all_together_tell_what_was_asked_and_what_was_left_out(monkeypatch, tmp_path, capsys):
  def benchmark(command):
    name = command[2].removeprefix('benchmarks.')
    assert command[-1] == f'--output={tmp_path}'
    if name == 'memory':
      return together.subprocess.CompletedProcess(command, 1)
    bar = 'at most 1.5' if name == 'layer' else 'at most 2'
    (tmp_path / f'{name}.json').write_text(json.dumps({'rows': table.as_dicts(rows(bar))}))
    return together.subprocess.CompletedProcess(command, 0)

  monkeypatch.setattr(together.subprocess, 'run', benchmark)
  monkeypatch.setattr(
    sys, 'argv', ['bench', '--only=network,layer,memory,input', f'--output={tmp_path}']
  )
  assert together.main() == 1
  out = capsys.readouterr().out
  assert 'as asked  a case: ours / floor 2.00, at most 2' in out
  assert 'MISSED    a case: ours / floor 2.00, at most 1.5' in out
  assert '1 of 4: network\n' in out and '3 of 4: memory\n' in out
  assert 'Left out, without --data_dir: input.' in out and 'Failed: memory.' in out


def test_an_unknown_benchmark_is_refused(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['bench', '--only=netwrok'])
  with pytest.raises(SystemExit):
    together.main()
  assert 'no benchmark netwrok: there are network, layer' in capsys.readouterr().err


def test_every_benchmark_is_among_them():
  folder = table.__file__.rsplit('/', 1)[0]
  import pathlib

  mains = {p.stem for p in pathlib.Path(folder).glob('*.py') if 'table.main(' in p.read_text()}
  assert mains == set(together.NAMES)
  assert measure.__name__ == 'benchmarks.measure'
