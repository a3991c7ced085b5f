"""Early-exit arithmetic against loops over single images and closed forms."""

import json

import numpy as np
import pytest

from basisnet_jax.evaluation import early_exit

COSTS = {'lightweight_madds': 20e6, 'total_madds': 290e6}


def images(seed, count=200, levels=None):
  """Random images; with `levels`, confidences tie often."""
  random = np.random.default_rng(seed)
  confidence = random.random(count).astype(np.float32)
  if levels:
    confidence = np.ceil(confidence * levels).astype(np.float32) / levels
  return confidence, random.random(count) < 0.6, random.random(count) < 0.8


def one_by_one(threshold, confidence, light, special):
  """The definition, image by image: (share that exits, mean cost, share right)."""
  exits = cost = right = 0
  for c, is_light, is_special in zip(confidence, light, special, strict=True):
    stops = c >= np.float32(threshold)
    exits += stops
    cost += 20e6 if stops else 290e6
    right += is_light if stops else is_special
  return exits / len(confidence), cost / len(confidence), right / len(confidence)


@pytest.mark.parametrize('levels', [None, 1, 7])
@pytest.mark.parametrize('threshold', [0, 0.3, 3 / 7, 0.7, 1.0, 1.5])
def test_operating_point_equals_the_definition_image_by_image(threshold, levels):
  arrays = images(3, levels=levels)
  point = early_exit.operating_point(threshold, *arrays, **COSTS)
  found = point['exit_rate'], point['average_madds'], point['top1']
  np.testing.assert_allclose(found, one_by_one(threshold, *arrays), rtol=1e-12)
  assert point['threshold'] == threshold


def test_threshold_zero_is_the_lightweight_network_alone():
  confidence, light, special = images(0)
  point = early_exit.operating_point(0, confidence, light, special, **COSTS)
  expected = {'threshold': 0.0, 'exit_rate': 1.0, 'average_madds': 20e6, 'top1': light.mean()}
  assert point == expected


def test_threshold_above_one_is_the_specialist_alone():
  confidence, light, special = images(0)
  point = early_exit.operating_point(1.1, confidence, light, special, **COSTS)
  expected = {'threshold': 1.1, 'exit_rate': 0.0, 'average_madds': 290e6, 'top1': special.mean()}
  assert point == expected


def test_threshold_is_compared_in_the_dtype_of_the_device():
  confidence = np.array([0.7], np.float32)  # Below 0.7 in float64.
  point = early_exit.operating_point(np.float64(0.7), confidence, [True], [True], **COSTS)
  assert point['exit_rate'] == 1.0


@pytest.mark.parametrize('levels', [None, 1, 7])
def test_curve_is_the_operating_point_at_every_distinct_confidence(levels):
  arrays = images(5, levels=levels)
  curve = early_exit.cost_accuracy_curve(*arrays, **COSTS)
  distinct = sorted(set(arrays[0].tolist()), reverse=True)
  assert curve['threshold'][1:] == distinct
  points = early_exit.operating_points(curve['threshold'], *arrays, **COSTS)
  for key in ('exit_rate', 'average_madds', 'top1'):
    np.testing.assert_allclose(curve[key], [p[key] for p in points], rtol=1e-12)


def test_curve_runs_from_no_exit_to_all_exit():
  confidence, light, special = images(1)
  confidence[0] = 1.0  # The highest there can be still lets nobody exit above it.
  curve = early_exit.cost_accuracy_curve(confidence, light, special, **COSTS)
  assert (curve['exit_rate'][0], curve['exit_rate'][-1]) == (0.0, 1.0)
  assert (curve['average_madds'][0], curve['average_madds'][-1]) == (290e6, 20e6)
  assert (curve['top1'][0], curve['top1'][-1]) == (special.mean(), light.mean())


def test_images_of_a_diverged_network_never_exit():
  confidence, light, special = images(2)
  confidence[:50] = np.nan
  assert early_exit.operating_point(0, confidence, light, special, **COSTS)['exit_rate'] == 0.75
  curve = early_exit.cost_accuracy_curve(confidence, light, special, **COSTS)
  assert curve['exit_rate'][-1] == 0.75
  right = special[:50].sum() + light[50:].sum()
  assert curve['top1'][-1] == right / len(light)
  confidence[:] = np.nan
  curve = early_exit.cost_accuracy_curve(confidence, light, special, **COSTS)
  assert curve['top1'] == [special.mean()]


def test_results_survive_json_unchanged():
  arrays = images(4)
  points = early_exit.operating_points((0.3, 0.9), *arrays, **COSTS)
  curve = early_exit.cost_accuracy_curve(*arrays, **COSTS)
  assert json.loads(json.dumps([points, curve])) == [points, curve]
  for number in [*points[0].values(), *(entry for column in curve.values() for entry in column)]:
    assert type(number) is float


def test_oracle_is_the_best_choice_of_exits_at_each_rate():
  _, light, special = images(6, count=12)
  curve = early_exit.oracle_curve(light, special, **COSTS)
  for exits in range(13):
    # All choices of so many images: the best gain most where only the first stage is right.
    gains = np.sort(light.astype(int) - special)[::-1][:exits].sum()
    best = (special.sum() + gains) / 12
    assert np.interp(exits / 12, curve['exit_rate'], curve['top1']) == pytest.approx(best)
  assert (curve['average_madds'][0], curve['average_madds'][-1]) == (290e6, 20e6)


@pytest.mark.parametrize('function', ['operating_point', 'cost_accuracy_curve'])
@pytest.mark.parametrize('lengths', [(0, 0, 0), (3, 2, 3), (3, 3, 2)])
def test_arrays_that_are_empty_or_differ_in_length_are_refused(function, lengths):
  arrays = [np.ones(length) for length in lengths]
  threshold = (0.5,) if function == 'operating_point' else ()
  with pytest.raises(ValueError, match='shapes are'):
    getattr(early_exit, function)(*threshold, *arrays, **COSTS)


@pytest.mark.parametrize('lengths', [(0, 0), (3, 2)])
def test_answers_of_an_oracle_that_are_empty_or_differ_in_length_are_refused(lengths):
  with pytest.raises(ValueError, match='shapes are'):
    early_exit.oracle_curve(*map(np.ones, lengths), **COSTS)
