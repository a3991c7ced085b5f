import os

from absl import flags
import pytest

from basisnet_jax import base_config, command_line, config
from basisnet_jax.errors import UserError

RECIPE = """
from basisnet_jax import base_config, config

def get_config(variant=None):
  c = base_config.get_config()
  c.name = 'small'
  c.training.epochs = 2
  return config.apply_variants(c, variant, {'k8': {'model.num_bases': 8}, 'k4': {'seed': 4}})
"""


def parse(*arguments):
  """Parses as the program does, with flags of its own; returns (config, flags)."""
  values = flags.FlagValues()
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  flags.DEFINE_enum('mode', 'train', ['train', 'evaluate', 'cost'], '', flag_values=values)
  flags.DEFINE_float('threshold', None, '', flag_values=values, lower_bound=0)
  return command_line.parse(['main.py', *arguments], values), values


def mistake(*arguments):
  """Returns the sentence that the arguments earn; it must be one line."""
  with pytest.raises(UserError) as caught:
    parse(*arguments)
  sentence = str(caught.value)
  assert sentence and '\n' not in sentence and 'Traceback' not in sentence
  return sentence


@pytest.fixture
def recipes(tmp_path, monkeypatch):
  """A current folder with recipes/small.py; returns a function that writes more of them."""
  monkeypatch.chdir(tmp_path)

  def write(name, text):
    path = tmp_path / 'recipes' / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return f'recipes/{name}'

  write('small.py', RECIPE)
  return write


def test_without_arguments_the_config_is_the_base_recipe_locked():
  parsed, values = parse()
  assert parsed.to_dict() == base_config.get_config().to_dict()
  assert parsed.is_locked
  assert values.config is parsed


def test_a_tilde_that_the_shell_left_is_the_home(recipes, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  parsed, values = parse('--config=~/recipes/small.py:k8', '--workdir=~/runs/~')
  assert parsed.model.num_bases == 8
  assert values.workdir == f'{tmp_path}/runs/~'
  assert parse('--workdir=~')[1].workdir == str(tmp_path)
  assert parse('--config.init.weights=~/a.npz')[0].init.weights == f'{tmp_path}/a.npz'
  teacher = parse('--config.distillation.teacher.workdir=~/runs')[0].distillation.teacher
  assert teacher.workdir == f'{tmp_path}/runs'
  for name in ('~runs', 'runs/~', './~/runs'):
    assert parse(f'--workdir={name}')[1].workdir == name


def test_overrides_change_their_keys_and_no_others():
  parsed, values = parse(
    '--mode=cost',
    '--config.model.name=mobilenet_v3_large',
    '--config.training.steps=5',
    '--config.optimizer.learning_rate=2e-3',
    '--config.evaluation.thresholds=(0.5,0.9)',
    '--noconfig.data.flip',
  )
  assert config.changed_keys(base_config.get_config(), parsed) == {
    'model.name': ('basisnet', 'mobilenet_v3_large'),
    'training.steps': (None, 5),
    'optimizer.learning_rate': (0.128, 0.002),
    'evaluation.thresholds': (base_config.get_config().evaluation.thresholds, (0.5, 0.9)),
    'data.flip': (True, False),
  }
  assert values.mode == 'cost'


def test_an_int_for_a_float_key_becomes_a_float():
  parsed, _ = parse('--config.training.epochs=3', '--config.evaluation.thresholds=(0,1)')
  assert [type(v) for v in (parsed.training.epochs, *parsed.evaluation.thresholds)] == [float] * 3


def test_one_threshold_and_repeated_thresholds_make_tuples():
  key = '--config.evaluation.thresholds'
  assert parse(f'{key}=0.5')[0].evaluation.thresholds == (0.5,)
  assert parse(f'{key}=0.5', f'{key}=0.9')[0].evaluation.thresholds == (0.5, 0.9)


def test_values_may_follow_after_a_space(recipes):
  parsed, values = parse(
    '--config', 'recipes/small.py', '--config.seed', '7', '--workdir', 'w', '--config.seed', '8'
  )
  assert (parsed.name, parsed.seed, values.workdir) == ('small', 8, 'w')


def test_overrides_may_stand_before_the_recipe(recipes):
  parsed, _ = parse('--config.seed=7', '--config=recipes/small.py')
  assert (parsed.name, parsed.seed) == ('small', 7)


def test_overrides_win_over_variants(recipes):
  parsed, _ = parse('--config=recipes/small.py:k8,k4', '--config.seed=9')
  assert (parsed.name, parsed.model.num_bases, parsed.seed) == ('small_k8_k4', 8, 9)


def test_flags_in_a_flagfile_are_checked_too(recipes):
  with open('flags.txt', 'w') as file:
    file.write('--config=recipes/small.py\n--config.seed=5\n')
  assert parse('--flagfile=flags.txt')[0].seed == 5
  with open('flags.txt', 'a') as file:
    file.write('--config.sead=5\n')
  assert '--config.seed' in mistake('--flagfile=flags.txt')
  assert 'absent.txt' in mistake('--flagfile=absent.txt')


def test_parsing_twice_starts_anew():
  _, values = parse('--config.seed=3', '--config.evaluation.thresholds=(0.5,)')
  again = command_line.parse(['main.py', '--config.evaluation.thresholds=(0.9,)'], values)
  assert (again.seed, again.evaluation.thresholds) == (0, (0.9,))


def test_saved_config_serves_when_only_the_workdir_is_given(recipes):
  saved, _ = parse('--config=recipes/small.py', '--config.evaluation.thresholds=(0.5,)')
  config.save(saved, 'run', label_names=['a'], device_kind='cpu')
  resumed, values = parse('--mode=evaluate', '--workdir=run', '--config.training.steps=3')
  assert config.changed_keys(saved, resumed) == {'training.steps': (None, 3)}
  assert values.workdir == 'run'
  assert parse('--workdir=run', '--config=recipes/small.py:k8')[0].name == 'small_k8'
  assert parse('--workdir=empty')[0].name == 'base'


def test_saved_config_can_be_named_as_a_recipe(recipes):
  saved, _ = parse('--config=recipes/small.py')
  config.save(saved, 'run', label_names=['a'], device_kind='cpu')
  path = os.path.join(os.path.dirname(base_config.__file__), 'saved_config.py')
  assert parse(f'--config={path}:run', '--workdir=other')[0].to_dict() == saved.to_dict()
  assert 'ARGUMENT' in mistake(f'--config={path}')
  assert 'absent' in mistake(f'--config={path}:absent')


@pytest.mark.parametrize(
  'wrong, nearest',
  [
    ('training.stepz', 'training.steps'),
    ('trainin.steps', 'training.steps'),
    ('training.learning_rate', 'optimizer.learning_rate'),
    ('learning_rate', 'optimizer.learning_rate'),
    ('model.specialist.num_bases', 'model.num_bases'),
    ('modle.name', 'model.name'),
    ('model.lightweigth.name', 'model.lightweight.name'),
    ('batch_size', 'training.batch_size'),
    ('batch_size', 'evaluation.batch_size'),
    ('temperature', 'model.coefficients.temperature? ('),
    ('model.lightweight.num_bases', 'model.num_bases'),
    ('seed.value', 'seed'),
    ('evaluation.thresholds[0]', 'evaluation.thresholds'),
    ('nothing_like_any_of_them', ''),
  ],
)
@pytest.mark.parametrize('form', ['--config.{}=3', '-config.{}=3', '--noconfig.{}'])
def test_unknown_key_is_named_with_the_nearest(wrong, nearest, form):
  sentence = mistake(form.format(wrong))
  assert repr(wrong) in sentence
  assert f'--config.{nearest}' in sentence


def test_group_of_keys_cannot_be_set():
  sentence = mistake('--config.model.lightweight=mobilenet_v2')
  assert '--config.model.lightweight is a group' in sentence
  assert '--config.model.lightweight.' in sentence


@pytest.mark.parametrize(
  'key, value, wanted',
  [
    ('training.steps', '1e3', 'a whole number (write 1000)'),
    ('training.batch_size', '2.5', 'a whole number.'),
    ('training.steps', 'a: b=c', 'a whole number'),
    ('seed', 'inf', 'a whole number'),
    ('seed', '', 'a whole number'),
    ('ema_decay', 'high', 'a number'),
    ('optimizer.learning_rate', '(0.1,)', 'a number'),
    ('data.flip', 'maybe', 'true or false'),
    ('evaluation.thresholds', '(0.5,', 'a tuple'),
  ],
)
def test_value_of_the_wrong_type_is_named_with_what_is_wanted(key, value, wanted):
  sentence = mistake(f'--config.{key}={value}')
  assert f'--config.{key} was given {value!r}, wanted {wanted}' in sentence


@pytest.mark.parametrize('value', ['nan', 'NaN', '-nan'])
def test_a_flag_that_is_no_number_is_refused(value):
  assert mistake(f'--threshold={value}') == '--threshold=nan cannot be used: it is not a number.'


@pytest.mark.parametrize('value', ['high', "('0.5',)", '(0.5,True)', '((0.5,),)'])
def test_tuple_with_elements_of_the_wrong_type_is_refused(value):
  sentence = mistake(f'--config.evaluation.thresholds={value}')
  assert '--config.evaluation.thresholds has the element' in sentence
  assert 'a number' in sentence


@pytest.mark.parametrize(
  'argument, nearest',
  [
    ('--wrokdir=x', '--workdir?'),
    ('--confg=x.py', '--config?'),
    ('--training.steps=3', '--config.training.steps?'),
    ('--num_bases=3', '--config.model.num_bases?'),
    ('--steps=3', '--config.training.steps?'),
    ('--epoch=3', '--config.training.epochs?'),
    ('--noconfig.seed', '--config.seed?'),
  ],
)
def test_unknown_flag_is_named_with_the_nearest(argument, nearest):
  name = argument.split('=')[0]
  assert mistake(argument) == f'{name} is not a flag; did you mean {nearest}'


def test_wrong_value_of_a_flag_is_named():
  sentence = mistake('--mode=evalute')
  assert '--mode=evalute' in sentence and 'evaluate' in sentence


def test_arguments_that_would_be_ignored_are_refused():
  assert "'false' belongs to no flag" in mistake('--config.data.flip', 'false', '--mode=cost')
  assert "'train' belongs to no flag" in mistake('train')


def test_missing_and_superfluous_values_are_named():
  assert '--config.seed' in mistake('--config.seed')
  assert '--config has no value' in mistake('--config')
  assert '--config has no value' in mistake('--config=')
  assert '--noconfig.data.flip=false' in mistake('--noconfig.data.flip=false')


def test_missing_recipe_is_named_with_those_beside_it(recipes):
  recipes('other.py', RECIPE)
  sentence = mistake('--config=recipes/smal.py')
  assert 'recipes/smal.py does not exist' in sentence
  assert 'recipes/other.py, recipes/small.py' in sentence
  assert 'absent/small.py does not exist' in mistake('--config=absent/small.py')


def test_folder_or_other_file_is_no_recipe(recipes):
  sentence = mistake('--config=recipes')
  assert 'recipes is a folder' in sentence and 'recipes/small.py' in sentence
  other = recipes('config.json', '{}')
  sentence = mistake(f'--config={other}')
  assert 'not a Python file' in sentence and 'recipes/small.py' in sentence


def test_unknown_variant_is_named_with_the_known(recipes):
  sentence = mistake('--config=recipes/small.py:k8,k9')
  assert "'k9'" in sentence and 'k8, k4' in sentence
  assert "''" in mistake('--config=recipes/small.py:k8,')
  plain = recipes('plain.py', 'def get_config(): return 1')
  assert 'takes no variants; leave out :k8' in mistake(f'--config={plain}:k8')


@pytest.mark.parametrize(
  'text, expected',
  [
    ('x = 1', 'no function get_config'),
    ('def get_config(): pass', 'returned NoneType'),
    ('def get_config(): return {}', 'returned dict'),
    ('\ndef f(:', 'line 2, failed with SyntaxError'),
    ('import absent_module', 'line 1, failed with ModuleNotFoundError'),
    ('\ndef get_config():\n  return 1 / 0', 'line 3, failed with ZeroDivisionError: division'),
    ('def get_config():\n  open("absent.txt")', 'line 2, failed with FileNotFoundError'),
    (RECIPE.replace('training', 'trainig'), '"training" instead of "trainig"'),
    (RECIPE.replace('training.epochs', 'training.epoch'), '"epochs" instead of "epoch"'),
    (RECIPE.replace('epochs = 2', 'epochs = "2"'), 'failed with TypeError: Could not override'),
    (
      RECIPE.replace('def get', 'raise OSError(2, "two\\nlines")\ndef get'),
      'Error: [Errno 2] two lines',
    ),
  ],
)
def test_recipe_that_fails_is_named_with_its_line(recipes, text, expected):
  path = recipes('broken.py', text)
  sentence = mistake(f'--config={path}')
  assert path in sentence and expected in sentence


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    ('c.data.heldout_split = None', 'sets data.heldout_split to None, wanted a text (its default'),
    ('c.seed = True', 'sets seed to True, wanted a whole number'),
    ('c.unlock(); c.mine = 3', "has the key 'mine', which is not in base_config.py"),
    ('c.unlock(); del c.seed', "has no key 'seed'"),
    ("c.evaluation.thresholds = ('0.5',)", "has the element '0.5', wanted a number"),
  ],
)
def test_recipe_that_its_own_run_could_not_load_again_is_refused(recipes, line, expected):
  odd = recipes('odd.py', RECIPE.replace('c.training.epochs = 2', line))
  assert expected in mistake(f'--config={odd}')


def test_a_number_of_numpy_is_a_number(recipes):
  line = 'import numpy as np; c.optimizer.learning_rate = 0.1 * np.sqrt(4.0)'
  path = recipes('numpy.py', RECIPE.replace('c.training.epochs = 2', line))
  assert type(command_line.load_recipe(path).optimizer.learning_rate) is float
  config, _ = parse(f'--config={path}', '--config.optimizer.learning_rate=0.5')
  assert config.optimizer.learning_rate == 0.5


def test_unlocked_recipe_is_locked(recipes):
  path = recipes('open.py', RECIPE.replace('c.name =', 'c.unlock().name ='))
  assert command_line.load_recipe(path).is_locked
