"""What was chosen comes back for its own checkpoint, and for no other."""

import dataclasses
import json
import math

import numpy as np
import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import chosen, thresholds

CHOICE = chosen.Chosen(
  rule='entropy',
  temperatures={'lightweight': 1.25, 'specialist': 0.9},
  threshold=0.1 + 0.2,
  goal={'by': 'guarantee', 'accuracy_loss': 0.3, 'delta': 0.1},
  reason='the lowest that passed',
  heldout={'data': 'pets', 'split': 'train[98%:]', 'images': 20, 'exit_rate': 0.5,
           'average_madds': 6e6, 'top1': 0.9, 'specialist_top1': 0.9},
  checkpoint='best',
  step=12,
)  # fmt: skip


def test_choice_comes_back_as_it_was(tmp_path):
  assert chosen.load(str(tmp_path), 12) is None
  chosen.save(str(tmp_path), CHOICE)
  assert chosen.load(str(tmp_path), 12) == CHOICE


def test_choice_for_another_step_is_refused_in_a_sentence(tmp_path):
  chosen.save(str(tmp_path), CHOICE)
  sentence = r'of step 12, and this one is of step 1,300; choose anew: .*--mode=evaluate'
  with pytest.raises(UserError, match=sentence):
    chosen.load(str(tmp_path), 1300)


def edited(tmp_path, **changes):
  chosen.save(str(tmp_path), CHOICE)
  path = tmp_path / chosen.NAME
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def quantiles(values):
  return {'heldout': {**CHOICE.heldout, 'confidence_quantiles': values}}


def test_quantiles_as_they_are_written_come_back(tmp_path):
  written = thresholds.confidence_quantiles(np.random.default_rng(0).uniform(size=300))
  edited(tmp_path, **quantiles(written))
  assert chosen.load(str(tmp_path), 12).heldout['confidence_quantiles'] == written


@pytest.mark.parametrize(
  'changes, reason',
  [
    ({'rule': 'sum'}, 'no sensible rule'),
    ({'threshold': None}, 'is damaged'),
    ({'threshold': -1}, 'no sensible threshold'),
    ({'temperatures': {'lightweight': 1.0}}, 'specialist'),
    ({'temperatures': {'lightweight': 0.0, 'specialist': 1.0}}, 'no sensible temperatures'),
    ({'temperatures': {'lightweight': 10**400, 'specialist': 1}}, 'no sensible temperatures'),
    ({'reason': 3}, 'no sensible reason'),
    ({'heldout': {}}, 'no sensible heldout'),
    ({'heldout': []}, 'is damaged'),
    ({'heldout': {**CHOICE.heldout, 'images': 'many'}}, 'no sensible heldout'),
    ({'heldout': {**CHOICE.heldout, 'split': None}}, 'no sensible heldout'),
    (quantiles([0.1] * 100), 'no sensible confidence_quantiles'),
    (quantiles([]), 'no sensible confidence_quantiles'),
    (quantiles({}), 'no sensible confidence_quantiles'),
    (quantiles([0.1] * 100 + ['1']), 'no sensible confidence_quantiles'),
    (quantiles([0.1] * 100 + [0.0]), 'no sensible confidence_quantiles'),
    (quantiles([0.1] * 100 + [math.nan]), 'no sensible confidence_quantiles'),
    ({'more': 1}, "unexpected keyword argument 'more'"),
    ({'format_version': 2}, 'format 2, .* reads up to 1; install a newer one'),
    ({'format_version': 'x'}, 'is damaged'),
  ],
)
def test_damaged_or_newer_file_is_refused_in_a_sentence(tmp_path, changes, reason):
  edited(tmp_path, **changes)
  with pytest.raises(UserError, match=reason) as caught:
    chosen.load(str(tmp_path), 12)
  assert '\n' not in str(caught.value) and '--mode=evaluate' in str(caught.value)


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '\x00'])
def test_file_that_holds_no_choice_is_refused_in_a_sentence(tmp_path, text):
  (tmp_path / chosen.NAME).write_text(text)
  with pytest.raises(UserError, match='is damaged'):
    chosen.load(str(tmp_path), 12)


def test_temperature_of_a_network_of_one_stage_comes_back(tmp_path):
  heldout = {'data': 'pets', 'split': 'train[98%:]'}
  one = dataclasses.replace(
    CHOICE, temperatures={'network': 1.5}, threshold=thresholds.NOBODY, heldout=heldout
  )
  chosen.save(str(tmp_path), one)
  assert chosen.load(str(tmp_path), 12) == one
