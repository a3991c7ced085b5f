"""A sweep from its file: refused in a sentence, or trained, collected, and held to its recipe."""

import json
import pathlib
import subprocess
import sys

from absl import flags
import forks
import pytest

from basisnet_jax import command_line
from basisnet_jax.errors import UserError
from basisnet_jax.sweep import Sweep

ROOT = pathlib.Path(__file__).parents[2]
SWEEPS = sorted((ROOT / 'configs' / 'sweeps').glob('*.py'))

FILE = """
from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

SWEEP = Sweep(
  rows={'static': {'model.name': 'tiny'}, 'wrong': {'training.nonfinite': 'never'}}, seeds=(0,)
)

def get_config(row=None):
  c = command_line.load_recipe('tests/tiny.py')
  return config.apply_variants(c, row, SWEEP.rows)
"""


def parse(*arguments):
  return command_line.parse_sweep(['main.py', *arguments], flags.FlagValues())


def refusal(*arguments):
  with pytest.raises(UserError) as caught:
    parse(*arguments)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.fixture
def path(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  (tmp_path / 'sweep.py').write_text(FILE)
  return str(tmp_path / 'sweep.py')


@pytest.mark.parametrize(
  'options, sentence',
  [
    ({'rows': {}}, 'at least one row'),
    ({'rows': {'a/b': {}}}, "'a/b' of a sweep cannot name a folder"),
    ({'rows': {'a,b': {}}}, 'cannot name a folder'),
    ({'rows': {'a': {}}, 'compare': 'b'}, "compare='b' is no row"),
    ({'rows': {'a': {}}, 'headline': ['b']}, "headline='b' is no row"),
    ({'rows': {'a': {}}, 'seeds': ()}, 'seeds'),
    ({'rows': {'a': {}}, 'seeds': (1, 1)}, 'different'),
    ({'rows': {'a': {}}, 'seeds': (-1,)}, 'at least 0'),
  ],
)
def test_sweep_that_cannot_be_is_refused(options, sentence):
  with pytest.raises(UserError, match=sentence):
    Sweep(**options)


def test_seeds_of_a_flag_replace_the_sweeps_own():
  sweep = Sweep(rows={'a': {}, 'b': {}})
  assert sweep.with_seeds(['3', '4']).runs() == [('a', 3), ('b', 3), ('a', 4), ('b', 4)]
  with pytest.raises(UserError, match='--seeds=3,x are no whole numbers'):
    sweep.with_seeds(['3', 'x'])


def test_rows_that_are_no_headlines_have_one_seed():
  sweep = Sweep(rows={'a': {}, 'b': {}}, seeds=(5, 6, 7), headline=('b',))
  assert sweep.runs() == [('a', 5), ('b', 5), ('b', 6), ('b', 7)]


def test_each_row_has_its_values_and_the_overrides_of_the_command_line(path):
  _, sweep, rows = parse(f'--config={path}', '--config.training.steps=5')
  assert list(rows) == list(sweep.rows) == ['static', 'wrong']
  assert [c.model.name for c in rows.values()] == ['tiny', 'basisnet']
  assert [c.training.nonfinite for c in rows.values()] == ['stop', 'never']
  assert [c.training.steps for c in rows.values()] == [5, 5]


def test_mistakes_are_named_before_anything_runs(path):
  assert 'needs --config=SWEEP.py' in refusal()
  assert 'runs all of its rows' in refusal(f'--config={path}:static')
  assert 'choose by --seeds' in refusal(f'--config={path}', '--config.seed=3')
  assert 'tests/tiny.py is not a sweep' in refusal('--config=tests/tiny.py')
  assert 'does not exist' in refusal('--config=configs/sweeps/absent.py')
  text = pathlib.Path(path).read_text().replace('model.name', 'model.nome')
  pathlib.Path(path).write_text(text)
  assert 'nome' in refusal(f'--config={path}')


@pytest.mark.parametrize('path', SWEEPS, ids=lambda path: path.stem)
def test_rows_of_our_sweeps_are_recipes_and_differ(path):
  _, sweep, rows = parse(f'--config={path}')
  values = [
    json.dumps({key: value for key, value in c.to_dict().items() if key != 'name'}, default=str)
    for c in rows.values()
  ]
  assert len(set(values)) == len(rows) > 1
  assert len({c.name for c in rows.values()}) == len(rows)
  assert sweep.compare is not None and len(sweep.seeds) >= 3


def test_program_trains_collects_skips_and_refuses(path, tmp_path):
  workdir = tmp_path / 'sweep'

  def run(*overrides):
    arguments = ['--mode=sweep', f'--config={path}', f'--workdir={workdir}', '--seeds=5']
    arguments += ['--config.training.steps=2', f'--config.data.data_dir={tmp_path}', *overrides]
    command = [sys.executable, '-m', 'basisnet_jax.main', *arguments]
    environment = forks.environment(1)
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return ended.returncode, ended.stdout, ended.stderr

  code, out, err = run()
  assert code == 1  # One of two failed.
  assert "wrong, seed 5: FAILED with code 2: config.training.nonfinite is 'never'" in err
  assert 'static, seed 5: finished' in err
  assert '| static |' in out and 'Partial: 1 of 2 runs are finished; not yet wrong' in out
  config = json.loads((workdir / 'static' / 'seed_5' / 'config.json').read_text())
  assert (config['seed'], config['training']['steps'], config['model']['name']) == (5, 2, 'tiny')
  (found,) = json.loads((workdir / 'results.json').read_text())['rows']
  evaluation = json.loads((workdir / 'static' / 'seed_5' / 'evaluation.json').read_text())
  assert found['top1']['values'] == [evaluation['network']['top1']]

  code, _, err = run('--config.optimizer.learning_rate=0.5')
  assert code == 2 and 'optimizer.learning_rate was 0.02 and is 0.5' in err
  code, _, err = run('--config.early_exit.rule=margin')  # Finished runs would keep the old choice.
  assert code == 2 and "early_exit.rule was 'max_softmax' and is 'margin'" in err

  pathlib.Path(path).write_text(FILE.replace(", 'wrong': {'training.nonfinite': 'never'}", ''))
  before = (workdir / 'static' / 'seed_5' / 'log.txt').read_bytes()
  code, again, err = run()  # All is finished: it only collects.
  assert code == 0 and 'sweep' not in err
  assert '| static |' in again and 'Partial' not in again
  assert (workdir / 'static' / 'seed_5' / 'log.txt').read_bytes() == before
