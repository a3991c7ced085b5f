"""The predictor, against the network itself."""

import concurrent.futures
import dataclasses
from fractions import Fraction
import functools
import pathlib
import random
import re
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
import tiny

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence
from basisnet_jax.evaluation.chosen import Chosen
from basisnet_jax.inference import fixed
from basisnet_jax.inference import predictor as predictor_module
from basisnet_jax.inference.predictor import Predictor, Preparation
from basisnet_jax.models import cost

SIDE, CLASSES = tiny.RESOLUTION, 10
LABELS = tuple(f'class {i}' for i in range(CLASSES))
TEMPERATURES = {'lightweight': 0.2, 'specialist': 0.7}


def photos(count, seed=0):
  return list(np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8))


@pytest.fixture(scope='module')
def network():
  model = tiny.basisnet()
  return model, model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))


@pytest.fixture(scope='module')
def said(network):
  """Of 11 photos: the calibrated probabilities of both stages, and the confidence."""
  model, variables = network
  outputs = model.apply(variables, np.stack(photos(11)).astype(np.float32) / 127.5 - 1)
  sure = confidence.of(outputs.lightweight, 'margin', TEMPERATURES['lightweight'])
  first, final = (
    jax.nn.softmax(getattr(outputs, stage) / TEMPERATURES[stage]) for stage in TEMPERATURES
  )
  return np.asarray(first), np.asarray(final), np.asarray(sure)


HELDOUT = {'data': 'pets', 'split': 'train[98%:]', 'images': 20, 'exit_rate': 0.5,
           'average_madds': 6e6, 'top1': 0.9, 'specialist_top1': 0.95}  # fmt: skip


@pytest.fixture(scope='module')
def make(network, said):
  model, variables = network
  chosen = Chosen(
    rule='margin',
    temperatures=TEMPERATURES,
    threshold=float(np.sort(said[2])[4:6].mean()),  # Nobody's own.
    goal={'by': 'exit_rate'},
    reason='so',
    heldout=HELDOUT | {'confidence_quantiles': [i / 100 for i in range(101)]},
    checkpoint='checkpoints',
    step=1,
  )
  return functools.partial(
    Predictor,
    model,
    variables,
    labels=LABELS,
    preparation=Preparation(SIDE),
    cost=cost.count(model, SIDE, variables),
    chosen=chosen,
    batch_size=4,
  )


@pytest.fixture(scope='module')
def predictor(make):
  return make()


def assert_answers(answers, said, threshold, indices=range(11)):
  first, final, sure = said
  assert len(answers) == len(indices)
  for i, answer in zip(indices, answers, strict=True):
    exits = sure[i] >= threshold
    wanted = (first if exits else final)[i]
    assert answer.stage == ('lightweight' if exits else 'specialist')
    assert answer.labels == tuple(LABELS[k] for k in np.argsort(-wanted)[: len(answer.labels)])
    np.testing.assert_allclose(
      answer.probabilities, np.sort(wanted)[::-1][: len(answer.labels)], rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(answer.confidence, sure[i], rtol=1e-4, atol=1e-6)


def test_answers_are_the_networks_in_order(predictor, said):
  threshold = predictor.threshold
  answers = predictor.predict(photos(11))
  assert_answers(answers, said, threshold)
  assert {answer.stage for answer in answers} == {'lightweight', 'specialist'}
  assert {len(answer.labels) for answer in answers} == {5}
  madds = {answer.stage: answer.madds for answer in answers}
  assert madds == {
    'lightweight': predictor.cost.lightweight_madds, 'specialist': predictor.cost.total_madds,
  }  # fmt: skip


def test_the_last_images_wait_for_no_program_of_their_own(make, said):
  predictor, sizes = make(), []
  (run,) = predictor._runs
  predictor._runs = [lambda pixels, *rest: sizes.append(len(pixels)) or run(pixels, *rest)]
  assert_answers(predictor.predict(photos(11)[:9]), said, predictor.threshold, range(9))
  assert_answers(list(predictor.answers(np.stack(photos(11)[:1]), 2.0, least=100)), said, 2.0, [0])
  assert sizes == [4, 4, 4, 4]


def test_a_stack_of_images_is_a_list_of_them(predictor, said):
  assert_answers(predictor.predict(np.stack(photos(11))), said, predictor.threshold)


def test_prepared_images_are_answered_and_others_get_a_sentence(predictor, said):
  pixels, half = np.stack(photos(11)), Fraction(1, 2)
  assert_answers(list(predictor.answers(pixels[:4], half)), said, 0.5, range(4))
  for wrong in (pixels[:5], pixels[0], pixels[:4, 1:], pixels[:4] / 255, list(pixels[:4])):
    with pytest.raises(UserError, match=rf'uint8 \[4 or fewer, {SIDE}, {SIDE}, 3\]; this is '):
      next(predictor.answers(wrong, half))


@pytest.mark.parametrize('count', [0, 1, 3, 4, 5])
def test_any_number_of_images(predictor, said, count):
  answers = predictor.predict(photos(11)[:count], top_k=2, threshold=0.0)
  assert_answers(answers, said, 0.0, range(count))
  assert all(len(answer.labels) == 2 for answer in answers)


def test_threads_get_their_own_answers(predictor, said):
  images = photos(11)

  def ask(seed):
    indices = list(np.random.default_rng(seed).integers(0, 11, 1 + seed % 6))
    threshold = [predictor.threshold, 0.0, 2.0][seed % 3]
    answers = predictor.predict([images[i] for i in indices], threshold=threshold)
    assert_answers(answers, said, threshold, indices)
    return True

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert all(pool.map(ask, range(48)))


def test_all_devices_answer_as_one_does(make, predictor, monkeypatch):
  devices, images = jax.devices(), photos(8 * 4 * 3 + 5)
  assert len(devices) == 8
  predictors = predictor, make(devices=devices)
  found = [each.predict(images, top_k=CLASSES) for each in predictors]
  assert {answer.stage for answer in found[0]} == {'lightweight', 'specialist'}
  assert found[1] == found[0]  # To the last bit: the programs are the same.

  all_at_work, used = threading.Barrier(8, timeout=60), []

  def at_once(run):
    def call(*arguments):
      all_at_work.wait()
      answer = run(*arguments)
      used.extend(answer[0].devices())
      time.sleep(random.uniform(0, 0.02))  # They end in any order.
      return answer

    return call

  several = predictors[1]
  monkeypatch.setattr(several, '_runs', [at_once(run) for run in several._runs])
  assert several.predict(images[: 8 * 4 * 3], top_k=CLASSES) == found[0][: 8 * 4 * 3]
  assert {used.count(device) for device in devices} == {3}


@pytest.mark.parametrize('platform, count', [('cpu', 1), ('gpu', 3), ('tpu', 3)])
def test_all_accelerators_of_a_host_answer_or_its_cpu(make, monkeypatch, platform, count):
  there = [types.SimpleNamespace(platform=platform) for _ in range(3)]
  monkeypatch.setattr(jax, 'local_devices', lambda: there)
  monkeypatch.setattr(fixed, 'fix', lambda answer, variables, device: device)
  assert make()._runs == there[:count]
  assert make(devices=there[1:])._runs == there[1:]


def test_who_asks_for_one_batch_at_a_time_has_the_first_device(make, monkeypatch):
  predictor, used = make(devices=jax.devices()), []
  monkeypatch.setattr(
    predictor, '_runs', [lambda *a, run=run: used.append(run) or run(*a) for run in predictor._runs]
  )
  for _ in range(5):
    predictor.predict(photos(3))
  predictor.latencies()
  assert len(set(used)) == 1


def test_a_failing_device_is_told_where_its_answers_would_be(make, monkeypatch):
  predictor, failed = make(devices=jax.devices()[:2]), threading.Event()
  whole = predictor.predict(photos(20))
  first, _ = predictor._runs

  def fail(*arguments):
    failed.set()
    raise RuntimeError('out of memory')

  def wait(*arguments):
    assert failed.wait(60)
    return first(*arguments)

  monkeypatch.setattr(predictor, '_runs', [wait, fail])
  answers, found = predictor.stream(photos(20)), []
  with pytest.raises(RuntimeError, match='out of memory'):
    for _, answer in answers:
      found.append(answer)
  assert len(found) % 4 == 0 and found == whole[: len(found)]


def test_a_bad_image_is_named_and_the_others_are_answered(predictor, said):
  images = photos(6)
  images[2:2] = [b'not an image']
  found = list(predictor.stream(images))
  assert [image is given for (image, _), given in zip(found, images, strict=True)] == [True] * 7
  assert 'not an image of a kind' in str(found[2][1])
  assert_answers(
    [a for i, (_, a) in enumerate(found) if i != 2], said, predictor.threshold, range(6)
  )
  with pytest.raises(UserError, match='12 bytes: not an image'):
    predictor.predict(images)


def test_stream_reads_no_further_than_two_batches_ahead(predictor):
  read = []

  def images():
    for image in photos(30):
      read.append(image)
      yield image

  stream = predictor.stream(images())
  next(stream)
  assert len(read) <= 8
  stream.close()


@pytest.mark.parametrize('count', [1, 2])
def test_what_the_images_end_in_comes_after_the_answers_of_those_before(make, said, count):
  predictor = make(devices=jax.devices()[:count])

  def images():
    yield from photos(9)
    raise OSError('the camera was unplugged')

  found = []
  with pytest.raises(OSError, match='unplugged'):
    for _, answer in predictor.stream(images()):
      found.append(answer)
  assert_answers(found, said, predictor.threshold, range(9))


def test_budgets_become_thresholds(predictor):
  light, total = predictor.cost.lightweight_madds / 1e6, predictor.cost.total_madds / 1e6
  # 30% exit, who are surer than 70% of the held-out images, whose confidence is uniform.
  budget = 0.3 * light + 0.7 * total
  assert predictor.threshold_for(average_madds=budget) == pytest.approx(0.7, abs=0.011)
  assert predictor.threshold_for(average_madds=total) == 2.0
  assert predictor.threshold_for(average_madds=light) == 0.0
  assert predictor.threshold_for(threshold=0.4) == 0.4
  assert predictor.threshold_for() == predictor.threshold


def test_it_tells_how_its_own_threshold_was_chosen_and_nothing_of_another(predictor):
  told = predictor.about(predictor.threshold)
  assert told['chosen'] == {'reason': 'so'} | HELDOUT
  assert told['madds'] == {
    'first': predictor.cost.lightweight_madds, 'all': predictor.cost.total_madds
  }  # fmt: skip
  assert predictor.about(0.25) == told | {'threshold': 0.25, 'chosen': None}


def test_latency_is_of_one_image_and_without_compilation(make, monkeypatch):
  predictor = make()
  now, asked, (own, *_) = [0.0], [], predictor._runs

  def run(pixels, real, threshold):
    assert pixels.shape == (1, SIDE, SIDE, 3) and real.all()
    # Seconds: of the first call, which compiles; then of an image that exits; of one that does not.
    now[0] += 5.0 if threshold not in asked else 0.002 if threshold < 0 else 0.01
    asked.append(threshold)
    answer = own(pixels, real, threshold)
    assert bool(answer[2]) == (threshold < 0)
    return answer

  monkeypatch.setattr(predictor, '_runs', [run])
  clock = types.SimpleNamespace(perf_counter=lambda: now[0])
  monkeypatch.setattr(predictor_module, 'time', clock)
  assert predictor.latencies() == pytest.approx((2.0, 10.0))
  assert predictor.latencies() == pytest.approx((2.0, 10.0))  # Measured once, not for each call.
  assert len(asked) == 24 and set(asked) == {-1.0, 2.0}


def test_latency_is_kept_on_average(predictor, monkeypatch):
  monkeypatch.setattr(predictor, 'latencies', lambda: (2.0, 10.0))
  assert predictor.threshold_for(max_latency=8.0) == pytest.approx(0.75, abs=0.011)
  assert predictor.threshold_for(max_latency=10.0) == 2.0
  with pytest.raises(UserError, match='max_latency=1 ms cannot be kept: .* alone takes 2'):
    predictor.threshold_for(max_latency=1.0)


def test_mistakes_get_a_sentence(network, predictor):
  model, variables = network
  shared = {'labels': LABELS, 'preparation': Preparation(SIDE), 'cost': predictor.cost}
  for size in (3, 0, -4, 4.0, '8', None):
    with pytest.raises(UserError, match=f'^batch_size={size!r} is no power of two; use 1, 2, 4'):
      Predictor(model, variables, **shared, batch_size=size)
  with pytest.raises(UserError, match='exclude each other'):
    predictor.threshold_for(threshold=0.5, max_latency=3.0)
  with pytest.raises(UserError, match='average_madds=1e-09 million cannot be kept'):
    predictor.threshold_for(average_madds=1e-9)
  for budget in ('threshold', 'average_madds', 'max_latency'):
    for value in (float('nan'), float('inf'), '0.9', [0.9], True):
      sentence = re.escape(f'{budget}={value!r} cannot be kept; give a finite number.')
      with pytest.raises(UserError, match=sentence):
        predictor.threshold_for(**{budget: value})
      with pytest.raises(UserError, match='^threshold=.* cannot be kept; give a finite number'):
        next(predictor.stream(photos(1), value))
  color = photos(1)[0]
  arrays = color, color[..., 0], color[..., :1], np.concatenate([color, color[..., :1]], -1)
  files = 'a.jpg', pathlib.Path('a.jpg'), b'1', bytearray(b'1')
  for one in (*files, *arrays, Image.new('RGB', (4, 4))):
    with pytest.raises(UserError, match=r'a list of images, and this is one: write \[image\]'):
      predictor.predict(one)
  for none in (None, 3, np.uint8(3)):
    with pytest.raises(UserError, match=f'a list of images, and this is {type(none).__name__}: '):
      predictor.predict(none)
  for top_k in (0, -1, 2.0, '5', None):
    with pytest.raises(UserError, match=f'^top_k={top_k!r} is no number of labels; give a whole'):
      predictor.predict(photos(1), top_k=top_k)
  nothing_chosen = Predictor(model, variables, **shared)
  assert nothing_chosen.threshold == 2.0
  with pytest.raises(UserError, match='needs the confidences of held-out images'):
    nothing_chosen.threshold_for(average_madds=predictor.cost.total_madds / 1e6 - 1e-6)


@pytest.mark.parametrize(
  'change, sentence',
  [
    ({'rule': 'softmax'}, "^rule is 'softmax': use 'max_softmax', 'margin', 'entropy'.$"),
    (
      {'temperatures': {'specialist': 0.0}},
      r"^temperatures\['specialist'\] is 0.0: give a number above 0, as logits are divided by it",
    ),
  ],
)
def test_early_termination_that_cannot_be_gets_a_sentence_before_images_come(
  make, predictor, change, sentence
):
  with pytest.raises(UserError, match=sentence):
    make(chosen=dataclasses.replace(predictor._chosen, **change))
