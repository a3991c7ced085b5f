"""Thresholds reach what they are chosen for, on the images that they are chosen on or on all."""

from fractions import Fraction
import math

import numpy as np
import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence, early_exit, thresholds
from basisnet_jax.evaluation.thresholds import Goal, Heldout

COSTS = {'lightweight_madds': 2e6, 'total_madds': 10e6}


def images(count, seed=0, ties=False):
  """Surer images are more often right; the specialist is right more often."""
  random = np.random.default_rng(seed)
  sure = random.random(count).astype(np.float32)
  if ties:
    sure = np.ceil(5 * sure) / 5
  light = random.random(count) < 0.3 + 0.69 * sure
  special = np.where(random.random(count) < 0.8, light | (random.random(count) < 0.7), ~light)
  return Heldout(sure, light, special)


def every_point(heldout):
  """What each threshold does, and nobody's exit, one by one."""
  levels = [thresholds.NOBODY, *np.unique(heldout.confidence)[::-1]]
  return early_exit.operating_points(levels, *heldout, **COSTS)


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('points', [0.5, 2.0, 40.0])
def test_lowest_threshold_down_to_which_none_loses_more_is_chosen(points, ties):
  heldout = images(400, ties=ties)
  found, _ = thresholds.choose(Goal('accuracy_loss', accuracy_loss=points), heldout, **COSTS)
  everywhere = every_point(heldout)
  fine = [everywhere[0]['top1'] - p['top1'] <= points / 100 + 1e-12 for p in everywhere]
  last = len(fine) if all(fine) else fine.index(False)
  assert found == everywhere[last - 1]['threshold']


def test_chosen_threshold_loses_on_other_images_what_it_may_on_average():
  random, losses = np.random.default_rng(0), []
  sure, light, special = population(random, 400_000)
  order = np.argsort(-sure)
  loss = np.append(0, np.cumsum((special.astype(int) - light)[order]) / len(sure))
  for _ in range(300):
    heldout = Heldout(*population(random, 600))
    found, _ = thresholds.choose(Goal('accuracy_loss', accuracy_loss=0.3), heldout, **COSTS)
    losses.append(loss[np.count_nonzero(sure >= found)])
  assert abs(np.mean(losses) - 0.003) < 0.001


def test_numbers_of_all_kinds_are_thresholds_and_nothing_else_is():
  for value in (0.5, Fraction(1, 2), np.float32(0.5), np.float64(0.5)):
    found = thresholds.number('threshold', value)
    assert found == 0.5 and type(found) is float
  for value in ('0.5', None, True, np.array(0.5), math.nan, -math.inf, 10**400, Fraction(10**400)):
    with pytest.raises(UserError, match='^threshold=.* cannot be kept; give a finite number.$'):
      thresholds.number('threshold', value)


@pytest.mark.parametrize('millions', [2.5, 6.0, 99.0])
def test_most_accurate_threshold_within_the_budget_is_chosen(millions):
  heldout = images(400, seed=1)
  found, _ = thresholds.choose(Goal('average_madds', average_madds=millions), heldout, **COSTS)
  cheap = [p for p in every_point(heldout) if p['average_madds'] <= millions * 1e6]
  best = max(p['top1'] for p in cheap)
  expected = min((p for p in cheap if p['top1'] == best), key=lambda p: p['average_madds'])
  assert found == expected['threshold']


def test_budget_below_the_lightweight_model_is_one_sentence():
  with pytest.raises(UserError, match='average_madds=1.5 million cannot be .* still costs 2 mill'):
    thresholds.check(Goal('average_madds', average_madds=1.5), 2e6)


@pytest.mark.parametrize('share', [0.25, 0.9, 1.0])
@pytest.mark.parametrize('ties', [False, True])
def test_so_many_images_exit_and_no_more(share, ties):
  heldout = images(400, ties=ties)
  found, _ = thresholds.choose(Goal('exit_rate', exit_rate=share), heldout, **COSTS)
  assert np.mean(heldout.confidence >= found) >= share
  assert np.mean(heldout.confidence > found) < share


def test_nobody_exits_where_every_exit_loses():
  sure = np.linspace(0.1, 0.9, 50)
  heldout = Heldout(sure, np.zeros(50, bool), np.ones(50, bool))
  found, _ = thresholds.choose(Goal('accuracy_loss', accuracy_loss=1.0), heldout, **COSTS)
  assert found == thresholds.NOBODY


def test_nobody_exits_where_every_exit_had_to_gain():
  heldout = Heldout(np.linspace(0.1, 0.9, 20), np.zeros(20, bool), np.ones(20, bool))
  found, _ = thresholds.choose(Goal('accuracy_loss', accuracy_loss=-1.0), heldout, **COSTS)
  assert found == thresholds.NOBODY


def test_unknown_way_is_one_sentence():
  with pytest.raises(UserError, match="choose.by is 'loss': use 'accuracy_loss', 'guarantee'"):
    thresholds.check(Goal('loss'), 2e6)


def population(random, shape):
  """Where the surest 60% differ little and the rest much: confidence, and both stages' answers."""
  sure = random.random(shape)
  draw = random.random(shape)
  lost = draw < np.where(sure > 0.4, 0.004, 0.2)
  gained = ~lost & (draw > np.where(sure > 0.4, 0.998, 0.95))
  return sure, gained, lost  # Elsewhere neither is right: it makes no difference.


def test_guaranteed_loss_is_kept_on_all_images_but_for_the_chance_that_it_is_not():
  random, sets = np.random.default_rng(0), 300
  sure, light, special = population(random, 400_000)
  order = np.argsort(-sure)
  loss = np.cumsum((special.astype(int) - light)[order]) / len(sure)
  goal, over, exits = Goal('guarantee', accuracy_loss=1.0, delta=0.1), 0, []
  for _ in range(sets):
    tuned, _, _ = population(random, 200)
    found, _ = thresholds.guarantee(goal, tuned, Heldout(*population(random, 1000)))
    exiting = np.count_nonzero(sure >= found)
    over += exiting > 0 and loss[exiting - 1] > 0.01
    exits.append(exiting / len(sure))
  assert over / sets <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / sets)
  assert np.median(exits) > 0.55


def test_too_few_images_for_a_guarantee_let_nobody_exit_and_it_is_said():
  heldout = Heldout(np.linspace(0, 1, 200), np.ones(200, bool), np.ones(200, bool))
  goal = Goal('guarantee', accuracy_loss=0.3, delta=0.1)
  found, reason = thresholds.guarantee(goal, heldout.confidence, heldout)
  assert found == thresholds.NOBODY
  assert 'nobody exits' in reason and 'on 200 other' in reason and 'at least 767 images' in reason


@pytest.mark.parametrize('by', ['accuracy_loss', 'guarantee'])
def test_fit_scales_by_temperature_and_guarantees_on_other_images_than_those_of_the_fit(by):
  random = np.random.default_rng(0)
  labels = random.integers(0, 4, 2000)
  logits = 3 * (np.eye(4)[labels] * 2 + random.gumbel(size=(2000, 4))).astype(np.float32)
  right = (logits.argmax(1) == labels).astype(np.float32)
  results = {'label': labels, 'lightweight_logits': logits, 'lightweight_top1': right}
  results |= {'specialist_logits': logits, 'specialist_top1': right}
  found = thresholds.fit(results, rule='margin', goal=Goal(by), **COSTS)
  assert found.temperatures['lightweight'] == pytest.approx(3, rel=0.2)
  # Both stages are right alike: all may exit.
  sure = np.asarray(confidence.of(logits, 'margin', found.temperatures['lightweight']))
  chosen_on = sure if by == 'accuracy_loss' else sure[np.arange(2000) % 5 != 0]
  assert found.expected['exit_rate'] == np.mean(chosen_on >= found.threshold) > 0.98
  assert found.expected['top1'] == found.expected['specialist_top1']
  assert found.expected['images'] == len(chosen_on)


def test_single_network_has_temperatures_alone():
  results = {'label': np.zeros(3, int), 'network_logits': np.eye(3), 'network_top1': np.ones(3)}
  found = thresholds.fit(
    results, rule='max_softmax', goal=Goal('exit_rate'), lightweight_madds=None, total_madds=1
  )
  assert list(found.temperatures) == ['network'] and found.threshold is None


@pytest.mark.parametrize('by', ['guarantee', 'luck'])
def test_choose_refuses_goals_that_it_does_not_know(by):
  heldout = thresholds.Heldout(np.array([0.9, 0.5]), np.array([1, 0]), np.array([1, 1]))
  with pytest.raises(UserError, match=rf"no goal by '{by}'"):
    thresholds.choose(thresholds.Goal(by), heldout, lightweight_madds=1e6, total_madds=3e6)
