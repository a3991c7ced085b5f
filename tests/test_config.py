import json
import math
import os
import platform

import jax
import ml_collections
import pytest

import basisnet_jax
from basisnet_jax import base_config, config
from basisnet_jax.errors import UserError


def example():
  c = base_config.get_config()
  c.name = 'grüße'
  c.optimizer.learning_rate = 0.1 + 0.2  # 0.30000000000000004: every digit matters.
  c.training.epochs = 3
  c.evaluation.thresholds = (0.1, 1 / 3)
  c.optimizer.learning_rate_factors = (('stem/', 0), ('head', 0.5))
  c.sharding.mesh = (('data', -1), ('fsdp', 8))
  c.sharding.rules = (('head', 'fsdp'), ('stem', ('', 'data')))
  return c


def save(c, workdir, label_names=('cat', 'dog')):
  config.save(c, str(workdir), label_names=label_names, device_kind='TPU v5e')


def edit(workdir, change):
  """Loads the saved JSON, lets `change` modify it and writes it back."""
  path = workdir / 'config.json'
  saved = json.loads(path.read_text())
  change(saved)
  path.write_text(json.dumps(saved))


def refusal(workdir):
  with pytest.raises(UserError) as caught:
    config.load(str(workdir))
  assert str(workdir / 'config.json') in str(caught.value)
  return str(caught.value)


@pytest.mark.parametrize('steps', [None, 12])
def test_loaded_config_equals_the_saved_in_values_and_types(tmp_path, steps):
  c = example()
  c.training.steps = steps
  save(c, tmp_path / 'new' / 'run')
  loaded = config.load(str(tmp_path / 'new' / 'run'))
  # repr tells 3 from 3.0, lists from tuples, and shows every digit.
  assert repr(sorted(config.flatten(loaded).items())) == repr(sorted(config.flatten(c).items()))
  assert loaded.is_locked
  assert config.changed_keys(c, loaded) == {}
  loaded.training.steps = 7  # Still a placeholder of ints.
  with pytest.raises(TypeError):
    loaded.training.steps = 'x'


def test_saved_config_is_plain_json_that_a_person_can_read(tmp_path):
  save(example(), tmp_path)
  text = (tmp_path / 'config.json').read_text()
  saved = json.loads(text)
  assert saved['checkpoint'] == {'every_steps': 1000, 'keep': 3}
  assert saved['training']['steps'] is None
  assert saved['evaluation']['thresholds'] == [0.1, 1 / 3]
  assert '\n    "epochs": 3.0' in text


def test_saving_again_replaces_the_files_and_leaves_no_others(tmp_path):
  save(example(), tmp_path)
  c = example()
  c.seed = 5
  save(c, tmp_path, label_names=['one'])
  assert config.load(str(tmp_path)).seed == 5
  assert sorted(os.listdir(tmp_path)) == ['config.json', 'labels.txt', 'versions.json']
  assert (tmp_path / 'labels.txt').read_text() == 'one\n'


def test_failed_write_leaves_the_old_config(tmp_path, monkeypatch):
  save(example(), tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  # The temporary file cannot be written where a folder is.
  (tmp_path / f'{os.getpid()}.config.json.unfinished').mkdir()
  c = example()
  c.seed = 5
  with pytest.raises(UserError, match='cannot be written'):
    save(c, tmp_path)
  assert (tmp_path / 'config.json').read_bytes() == before


def test_versions_name_what_runs_here(tmp_path):
  save(example(), tmp_path)
  versions = json.loads((tmp_path / 'versions.json').read_text())
  assert versions['python'] == platform.python_version()
  assert versions['jax'] == jax.__version__
  assert versions['basisnet_jax'] == basisnet_jax.__version__
  assert versions['device'] == 'TPU v5e'
  for name in ('jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow', 'tensorflow-datasets'):
    assert versions[name][0].isdigit()


def test_workdir_that_cannot_be_made_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='file/run cannot be written'):
    save(example(), tmp_path / 'file' / 'run')


def test_workdir_without_a_config_is_named(tmp_path):
  assert not config.is_saved(str(tmp_path))
  assert 'does not exist' in refusal(tmp_path)
  save(example(), tmp_path)
  assert config.is_saved(str(tmp_path))


@pytest.mark.parametrize('text', ['', '{"seed": 1', '[1]', 'null', '\x00\x01'])
def test_damaged_file_is_named_with_a_way_out(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  assert '--config' in refusal(tmp_path)


def test_file_that_is_not_text_is_named(tmp_path):
  (tmp_path / 'config.json').write_bytes(b'\xff\xfe\xff')
  assert 'cannot be read' in refusal(tmp_path)


def test_keys_that_an_old_file_lacks_have_their_defaults(tmp_path):
  save(example(), tmp_path)

  def change(saved):
    del saved['seed'], saved['optimizer']['momentum'], saved['model']['coefficients']

  edit(tmp_path, change)
  assert config.changed_keys(example(), config.load(str(tmp_path))) == {}


def test_unknown_keys_of_a_saved_file_are_all_named(tmp_path):
  save(example(), tmp_path)
  edit(tmp_path, lambda saved: saved.update(old_key=1, model={'old_group': {'x': 1}}))
  sentence = refusal(tmp_path)
  assert 'old_key' in sentence and 'model.old_group.x' in sentence


@pytest.mark.parametrize(
  'group, key, value',
  [
    ('training', 'batch_size', '2048'),
    ('training', 'batch_size', None),
    ('training', 'batch_size', True),
    ('training', 'batch_size', 1.5),
    ('training', 'steps', 1.5),
    ('training', 'epochs', 'many'),
    ('data', 'flip', 1),
    ('data', 'name', 3),
    ('evaluation', 'thresholds', 0.5),
  ],
)
def test_saved_value_of_the_wrong_type_is_named(tmp_path, group, key, value):
  save(example(), tmp_path)
  edit(tmp_path, lambda saved: saved[group].update({key: value}))
  assert f'{value!r} for {group}.{key}, wanted ' in refusal(tmp_path)


@pytest.mark.parametrize(
  'group, key, value, wanted',
  [
    ('data', 'eval_crop', -1, 'eval_crop is -1.0, wanted above 0 and at most 1; restore the file'),
    ('training', 'batch_size', 0, 'batch_size is 0, wanted a whole number of at least 1; restore'),
    ('optimizer', 'learning_rate', math.nan, 'learning_rate is nan, wanted a number of at least 0'),
    ('training', 'epochs', 10**400, 'epochs is inf, wanted a number above 0; restore'),
    ('evaluation', 'thresholds', ['a'], "thresholds has the element 'a', wanted a number like"),
    ('evaluation', 'thresholds', [10**400], 'thresholds is (inf,), wanted numbers from 0 to 1'),
    ('optimizer', 'learning_rate_factors', [[1, 2]], 'factors is ((1, 2),), wanted (regular'),
    ('optimizer', 'learning_rate_factors', [['stem']], "factors is (('stem',),), wanted (regular"),
    ('sharding', 'mesh', [['data', 'all']], "mesh is (('data', 'all'),), wanted (axis, size)"),
    ('sharding', 'rules', [['(', 'data']], "rules is (('(', 'data'),), wanted (regular expression"),
    ('sharding', 'rules', [['head', 1]], "rules is (('head', 1),), wanted (regular expression"),
  ],
)
def test_saved_value_without_sense_is_named(tmp_path, group, key, value, wanted):
  save(example(), tmp_path)
  edit(tmp_path, lambda saved: saved[group].update({key: value}))
  sentence = refusal(tmp_path)
  assert wanted in sentence and sentence.startswith(f'{tmp_path}/config.json: {group}.{key} ')
  assert sentence.endswith('or give the recipe by --config.')


def test_changed_keys_are_dotted_with_old_and_new():
  old, new = example(), example()
  new.seed = 1
  new.model.lightweight.width = 0.5
  new.training.steps = 9
  assert config.changed_keys(old, new) == {
    'seed': (0, 1),
    'model.lightweight.width': (1.0, 0.5),
    'training.steps': (None, 9),
  }


@pytest.mark.parametrize('key', ['weights', 'lightweight_weights'])
def test_run_goes_on_where_its_file_of_weights_was_moved(tmp_path, key):
  c, old = example(), tmp_path / 'old.npz'
  old.touch()
  c.init[key] = str(old)
  save(c, tmp_path)
  c.init[key] = str(tmp_path / 'new.npz')
  with pytest.raises(UserError, match=rf"recipe \(init.{key} was '.*old.npz' and is '.*new"):
    config.check_same_run(c, str(tmp_path))
  old.unlink()
  config.check_same_run(c, str(tmp_path))
  c.init[key] = ''
  with pytest.raises(UserError, match=rf'another recipe \(init.{key} was'):
    config.check_same_run(c, str(tmp_path))


def test_changed_keys_include_those_that_only_one_has():
  old = ml_collections.ConfigDict({'a': 1, 'b': {'c': 2}})
  new = ml_collections.ConfigDict({'a': 1, 'd': 3})
  assert config.changed_keys(old, new) == {'b.c': (2, None), 'd': (None, 3)}


def variants(argument):
  c = base_config.get_config()

  def fast(c):
    c.training.epochs = 1
    c.model.num_bases *= 2

  return config.apply_variants(c, argument, {'k8': {'model.num_bases': 8}, 'fast': fast})


def test_variants_apply_in_their_order():
  both = variants('k8,fast')
  assert (both.model.num_bases, both.training.epochs, both.name) == (16, 1.0, 'base_k8_fast')
  assert variants('fast,k8').model.num_bases == 8


@pytest.mark.parametrize('argument', [None, ''])
def test_no_variant_leaves_the_recipe_as_it_is(argument):
  assert config.changed_keys(base_config.get_config(), variants(argument)) == {}


@pytest.mark.parametrize('argument', ['k9', 'k8,k9', 'k8 ', ','])
def test_unknown_variant_lists_those_there_are(argument):
  with pytest.raises(UserError, match='it has k8, fast'):
    variants(argument)


@pytest.mark.parametrize('key', ['model.num_base', 'modle.num_bases', 'num_bases'])
def test_variant_with_an_unknown_key_raises(key):
  with pytest.raises((AttributeError, KeyError), match=key.split('.')[0]):
    config.apply_variants(base_config.get_config(), 'v', {'v': {key: 8}})
