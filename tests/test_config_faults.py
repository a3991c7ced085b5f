"""Whatever the command line says ends in a config that makes sense, or in one sentence."""

import math

from absl import flags
from hypothesis import example, given, settings
from hypothesis import strategies as st
import pytest

from basisnet_jax import base_config, command_line
from basisnet_jax.config import flatten
from basisnet_jax.errors import UserError

DEFAULTS = flatten(base_config.get_config())
WORDS = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=12)
ODD = st.sampled_from(
  ['', '-1', '0', '1', 'nan', 'inf', '1e999', '()', '(1,)', 'None', '[]', '9' * 30]
)


def parse(*arguments):
  values = flags.FlagValues()
  flags.DEFINE_enum('mode', 'train', ['train', 'cost'], '', flag_values=values)
  flags.DEFINE_string('workdir', None, '', flag_values=values)
  return command_line.parse(['main', *arguments], values)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(
  st.lists(
    st.tuples(st.sampled_from(sorted(DEFAULTS)) | WORDS, ODD | st.floats().map(str) | WORDS),
    max_size=3,
  )
)
@example([('model.name', '\udc80')])
def test_any_keys_and_values_make_a_config_or_a_sentence(pairs):
  try:
    config = parse(*(f'--config.{key}={value}' for key, value in pairs))
  except UserError as error:
    assert str(error).strip()
    return
  found = flatten(config)
  assert found.keys() == DEFAULTS.keys()
  assert all(math.isfinite(v) for v in found.values() if isinstance(v, float))


@settings(max_examples=40, derandomize=True, deadline=None, database=None)
@given(
  WORDS | st.sampled_from(['k8', 'k8,k8', ',', 'small']), WORDS | st.sampled_from(['cost', ''])
)
def test_any_variant_and_mode_make_a_config_or_a_sentence(variant, mode):
  try:
    parse(f'--config=configs/mnv3.py:{variant}', f'--mode={mode}')
  except UserError as error:
    assert str(error).strip()


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('training.batch_size', '-8'),
    ('training.batch_size', '0'),
    ('training.epochs', '-1.0'),
    ('training.steps', '0'),
    ('model.num_classes', '0'),
    ('model.resolution', '1'),
    ('optimizer.learning_rate', 'nan'),
    ('optimizer.learning_rate', '-0.1'),
    ('checkpoint.every_steps', '0'),
    ('checkpoint.keep', '0'),
    ('logging.every_steps', '0'),
    ('evaluation.every_epochs', 'inf'),
    ('evaluation.thresholds', '(1.5,)'),
    ('early_exit.choose.accuracy_loss', '0.0'),
    ('early_exit.choose.delta', '1.0'),
    ('model.pixel_std', '(0.0,1.0,1.0)'),
    ('data.name', ''),
    ('ema_decay', '1.0'),
    ('loss.exit_aware', '1.5'),
    ('distillation.temperature', '0.0'),
    ('training.alternate_steps', '-1'),
    ('seed', '-1'),
  ],
)
def test_value_without_sense_is_named_with_what_is_wanted(key, value):
  with pytest.raises(UserError, match=rf'^--config\.{key} is .*, wanted .*\.$'):
    parse(f'--config.{key}={value}')
