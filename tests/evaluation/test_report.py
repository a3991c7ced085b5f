"""The evaluation as a file and as a table."""

import json
import math
import os

import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax.evaluation import report

TWO_STAGES = {
  'lightweight': {'top1': 0.6532, 'top5': 0.86, 'loss': 1.5},
  'specialist': {'top1': 0.7812, 'top5': 0.94, 'loss': 0.9},
  'images': 50000,
  'lightweight_madds': 26.4e6,
  'total_madds': 290e6,
  'step': 218750,
  'early_exit': [
    {'threshold': 0.7, 'exit_rate': 0.482, 'average_madds': 162.9e6, 'top1': 0.7717},
    {'threshold': 0.95, 'exit_rate': 0.129, 'average_madds': 256e6, 'top1': 0.7876},
  ],
}
ONE_STAGE = {
  'network': {'top1': 0.752, 'top5': 0.92, 'loss': 1.1},
  'images': 360,
  'total_madds': 216.59e6,
  'step': 12,
}


def read(folder):
  return json.loads((folder / 'evaluation.json').read_text())


@pytest.mark.parametrize('evaluation', [TWO_STAGES, ONE_STAGE])
def test_written_evaluation_is_read_back_unchanged(tmp_path, evaluation):
  report.write(str(tmp_path / 'new' / 'run'), evaluation)
  assert read(tmp_path / 'new' / 'run') == evaluation


def test_numbers_of_numpy_and_jax_are_written_as_numbers(tmp_path):
  numbers = {'images': np.int64(3), 'step': jnp.int32(4), 'total_madds': np.float32(0.5)}
  report.write(str(tmp_path), numbers)
  assert read(tmp_path) == {'images': 3, 'step': 4, 'total_madds': 0.5}


def test_loss_of_a_diverged_network_becomes_null(tmp_path):
  report.write(str(tmp_path), ONE_STAGE | {'network': {'top1': 0.0, 'loss': math.nan}})
  assert read(tmp_path)['network'] == {'top1': 0.0, 'loss': None}


def test_failed_write_leaves_the_former_file_whole(tmp_path, monkeypatch):
  report.write(str(tmp_path), ONE_STAGE)

  def broken(*_):
    raise OSError('the power is gone')

  monkeypatch.setattr(os, 'replace', broken)
  with pytest.raises(OSError, match='power'):
    report.write(str(tmp_path), TWO_STAGES)
  assert read(tmp_path) == ONE_STAGE


def test_table_of_two_stages_reads_as_expected():
  assert report.table(TWO_STAGES) == '\n'.join(
    [
      '50,000 images at step 218,750',
      '----------------------------------------------------------------------------',
      '                            top-1 %   exit rate %   average MAdds   saving %',
      '----------------------------------------------------------------------------',
      'lightweight alone             65.32             -          26.4 M       90.9',
      'specialist alone              78.12             -         290.0 M        0.0',
      '----------------------------------------------------------------------------',
      'early termination at 0.7      77.17          48.2         162.9 M       43.8',
      'early termination at 0.95     78.76          12.9         256.0 M       11.7',
      '----------------------------------------------------------------------------',
    ]
  )


def test_chosen_threshold_is_the_last_row():
  point = {'threshold': 0.8123456, 'exit_rate': 0.4, 'average_madds': 180e6, 'top1': 0.78}
  lines = report.table(TWO_STAGES | {'chosen': point}).splitlines()
  assert lines[-2].split() == ['chosen:', '0.812346', '78.00', '40.0', '180.0', 'M', '37.9']
  assert len({len(line) for line in lines[1:]}) == 1 and set(lines[-3]) == {'-'}
  nobody = report.table(TWO_STAGES | {'chosen': point | {'threshold': 2.0}})
  assert 'chosen: nobody exits' in nobody


def test_table_of_one_network_has_its_accuracies_and_cost():
  lines = report.table(ONE_STAGE).splitlines()
  assert lines[0] == '360 images at step 12'
  assert lines[2].split() == ['top-1', '%', 'top-5', '%', 'MAdds']
  assert lines[4].split() == ['network', '75.20', '92.00', '217', 'M']


def test_small_networks_keep_three_digits_of_cost():
  small = TWO_STAGES | {'lightweight_madds': 53.2e3, 'total_madds': 1.234567e6, 'early_exit': []}
  text = report.table(small)
  assert ' 0.0532 M' in text
  assert ' 1.2346 M' in text


def test_table_is_aligned_and_plain_ascii():
  lines = report.table(TWO_STAGES).splitlines()[1:]
  assert len({len(line) for line in lines}) == 1
  assert all(line.isascii() for line in lines)
