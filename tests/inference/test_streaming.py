import functools
import itertools
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.inference import streaming
from basisnet_jax.models import basisnet

FRAMES = 7


@functools.cache
def example(refine=0.0):
  model = tiny.basisnet().clone(refine=refine)
  frames = np.random.default_rng(0).uniform(-1, 1, (FRAMES, 2, 8, 8, 3)).astype(np.float32)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.asarray(frames[0]))
  return model, variables, frames


def predictor(refine=0.0, **options):
  model, variables, _ = example(refine)
  light, special = jax.devices()[1:3]
  return streaming.StreamingPredictor(
    model, variables, lightweight_device=light, specialist_device=special, **options
  )


def assert_answers(answers, numbers, refine=0.0):
  """They are of these frames, and what one device says of them."""
  model, variables, frames = example(refine)
  apply = jax.jit(model.apply)
  assert [answer.number for answer in answers] == list(numbers)
  for answer in answers:
    wanted = apply(variables, jnp.asarray(frames[answer.number]))
    assert answer.first.devices() == {jax.devices()[1]}
    assert answer.final.devices() == {jax.devices()[2]}
    np.testing.assert_allclose(answer.first, wanted.lightweight, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(answer.final, wanted.specialist, rtol=1e-5, atol=1e-5)
    assert answer.milliseconds > 0 and not answer.reused and not answer.exited


@pytest.mark.parametrize('depth', [1, 5, 20])
@pytest.mark.parametrize('refine', [0.0, 0.5])
def test_frames_are_answered_in_order_as_by_one_device(depth, refine):
  stream = predictor(refine, depth=depth)
  assert_answers(list(stream(example()[2])), range(FRAMES), refine)
  names = ('frames', 'answered', 'exited', 'dropped', 'reused')
  counts = {name: stream.metrics[name] for name in names}
  assert counts == dict.fromkeys(names, 0) | {'frames': FRAMES, 'answered': FRAMES}
  assert stream.metrics['lightweight_ms'] > 0 and stream.metrics['specialist_ms'] > 0


def test_the_stages_work_at_the_same_time(monkeypatch):
  stream = predictor()
  meet = threading.Barrier(2, timeout=60)  # Nobody gets through who does not meet the other.
  preview, specialize = stream._preview, stream._specialize

  def first(*args):
    if seen:  # The first frame's preview has nobody beside it.
      meet.wait()
    seen.append(None)
    return preview(*args)

  class Met(np.ndarray):
    """What the specialist says, which is ready when a preview has met it."""

    def block_until_ready(self):
      if len(answered) < FRAMES - 1:
        meet.wait()
      answered.append(None)

    def devices(self):
      return {stream._devices[1]}

  def last(*args):
    return np.asarray(specialize(*args)).view(Met)

  seen, answered = [], []
  monkeypatch.setattr(stream, '_preview', first)
  monkeypatch.setattr(stream, '_specialize', last)
  assert_answers(list(stream(example()[2])), range(FRAMES))
  assert len(seen) == len(answered) == FRAMES


@pytest.mark.parametrize('depth', [1, 5])
def test_a_camera_may_write_all_frames_into_one_array(depth):
  frames = example()[2]

  def camera():
    array = np.empty_like(frames[0])
    for frame in frames:
      array[:] = frame
      yield array
    array[:] = 0

  assert_answers(list(predictor(depth=depth)(camera())), range(FRAMES))


def test_no_more_frames_are_taken_than_may_be_under_way():
  frame, taken = example()[2][0], []

  def camera():
    for i in range(50):
      taken.append(i)
      yield frame

  answers = predictor(depth=2)(camera())
  assert not taken
  for done in range(1, 4):
    next(answers)
    time.sleep(0.3)
    # Two wait, one is held before them; four are under way.
    assert len(taken) <= done + 7
  answers.close()
  assert len(taken) <= 11


def test_a_camera_is_never_held_up_and_old_frames_are_forgotten():
  frame, late = example()[2][0], []

  def camera():
    for _ in range(200):
      began = time.perf_counter()
      yield frame
      late.append(time.perf_counter() - began)

  stream = predictor(depth=2, when_full='drop_oldest')
  answers = stream(camera())
  found = [next(answers)]
  time.sleep(0.5)  # All have come by now.
  found += list(answers)
  numbers = [answer.number for answer in found]
  assert numbers == sorted(numbers) and numbers[-2:] == [198, 199]
  assert sum(late) < 0.5
  assert stream.metrics['frames'] == 200 and stream.metrics['answered'] == len(found) < 20
  assert stream.metrics['dropped'] == 200 - len(found)


def test_who_asks_slowly_is_in_no_time_of_a_stage():
  stream = predictor()
  list(stream(example()[2]))  # Both stages compile.
  for _ in stream(example()[2]):
    time.sleep(0.2)
  assert max(stream.metrics['lightweight_ms'], stream.metrics['specialist_ms']) < 100


def test_similar_frames_share_a_specialist():
  model, variables, frames = example(0.5)
  one = frames[:, :1]
  scenes = np.stack([one[0], one[0] + 1e-4, one[1], one[1], one[0]])
  apply = jax.jit(model.apply)
  coefficients = [apply(variables, jnp.asarray(frame)).coefficients for frame in scenes]
  near = float(jnp.abs(coefficients[1] - coefficients[0]).max())
  far = float(jnp.abs(coefficients[2] - coefficients[0]).max())
  assert 0 < near < far / 10
  stream = predictor(0.5, reuse=2 * near)
  answers = list(stream(scenes))
  assert [answer.reused for answer in answers] == [False, True, False, True, False]
  assert stream.metrics['reused'] == 2
  for answer, made_for in zip(answers, [0, 0, 2, 2, 4], strict=True):
    frame = jnp.asarray(scenes[answer.number])
    wanted = model.apply(
      variables, frame, coefficients[made_for], answer.first, method='specialize'
    )
    np.testing.assert_allclose(answer.final, wanted, rtol=1e-4, atol=1e-5)


def test_all_frames_share_the_specialist_of_a_cascade():
  networks = {stage: tiny.TinyNetwork(10) for stage in ('lightweight', 'specialist')}
  model = models.create('cascade', **networks, resolution=8, num_bases=tiny.NUM_BASES)
  frames = example()[2][:3, :1]
  variables = model.init(jax.random.key(0), jnp.asarray(frames[0]))
  device = jax.devices()[0]
  stream = streaming.StreamingPredictor(
    model, variables, lightweight_device=device, specialist_device=device, reuse=0.0
  )
  answers = list(stream(frames))
  assert [answer.reused for answer in answers] == [False, True, True]
  for answer, frame in zip(answers, frames, strict=True):
    wanted = model.apply(variables, jnp.asarray(frame)).specialist
    np.testing.assert_allclose(answer.final, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('reuse', [None, 0.0])
def test_sure_frames_pass_the_specialist_by_in_their_turn(reuse):
  model, variables, frames = example(0.5)
  frames = frames[:, :1] if reuse is not None else frames
  outputs = [model.apply(variables, jnp.asarray(frame)) for frame in frames]
  # In NumPy, of the first logits: a frame is sure when its least sure image is.
  exponents = [np.exp(np.float64(output.lightweight) / 2) for output in outputs]
  sure = [(e.max(-1) / e.sum(-1)).min() for e in exponents]
  threshold = float(np.median(sure) + 1e-6)
  stream = predictor(0.5, reuse=reuse, threshold=threshold, temperature=2.0)
  answers = list(stream(frames))
  assert [answer.number for answer in answers] == list(range(FRAMES))
  exited = [confidence > threshold for confidence in sure]
  assert [answer.exited for answer in answers] == exited and 0 < sum(exited) < FRAMES
  assert stream.metrics['exited'] == sum(exited) and stream.metrics['answered'] == FRAMES
  for answer, output, least in zip(answers, outputs, sure, strict=True):
    wanted = output.lightweight if answer.exited else output.specialist
    np.testing.assert_allclose(answer.final, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(answer.confidence.min(), least, rtol=1e-5)


@pytest.mark.parametrize('reuse', [None, 0.0])
def test_a_frame_that_is_no_number_is_never_sure(reuse):
  (answer,) = predictor(threshold=0.0, reuse=reuse)([np.full((1, 8, 8, 3), np.nan, np.float32)])
  assert not answer.exited


@pytest.mark.parametrize('error', [OSError, SystemExit, KeyboardInterrupt])
def test_the_frames_before_an_error_are_answered_first(error):
  def camera(bad):
    yield from example()[2][:5]
    if bad is None:
      raise error('the sixth')
    yield bad

  for bad, raised in ((None, error), ('no array', UserError)):
    found = []
    with pytest.raises(raised):
      for answer in predictor(depth=9)(camera(bad)):
        found.append(answer)
    assert_answers(found, range(5))


def test_what_goes_wrong_is_raised_where_the_answers_are_awaited():
  def camera():
    yield example()[2][0]
    raise OSError('unplugged')

  answers = predictor()(camera())
  next(answers)
  with pytest.raises(OSError, match='unplugged'):
    next(answers)
  with pytest.raises(UserError, match='frames of one image; this one has 2'):
    list(predictor(reuse=0.1)(example()[2]))
  for reuse in (-1.0, float('nan')):
    with pytest.raises(UserError, match=f'reuse={reuse} is no distance; give 0 or more'):
      predictor(reuse=reuse)
  for options in ({'depth': 0}, {'depth': 2.5}, {'depth': '2'}, {'when_full': 'explode'}):
    with pytest.raises(UserError, match="when_full is 'wait' or 'drop_oldest'"):
      predictor(**options)


@pytest.mark.parametrize(
  'options, sentence',
  [
    ({'rule': 'softmax'}, "^rule is 'softmax': use 'max_softmax', 'margin', 'entropy'.$"),
    ({'rule': None}, '^rule is None: use'),
    ({'rule': ['margin']}, r"^rule is \['margin'\]: use"),
    ({'temperature': 0}, '^temperature is 0: give a number above 0, as logits are divided by it'),
    ({'temperature': -1.0}, '^temperature is -1.0: give a number above 0'),
    ({'temperature': float('nan')}, '^temperature is nan: give a number above 0'),
    ({'temperature': float('inf')}, '^temperature is inf: give a number above 0'),
    ({'temperature': '2'}, "^temperature is '2': give a number above 0"),
    ({'temperature': None}, '^temperature is None: give a number above 0'),
    ({'threshold': '0.9'}, "^threshold='0.9' cannot be kept; give a finite number.$"),
    ({'threshold': float('nan')}, '^threshold=nan cannot be kept; give a finite number.$'),
    ({'depth': True}, '^depth=True, when_full='),
    ({'reuse': '0.02'}, "^reuse='0.02' is no distance; give 0 or more"),
    ({'reuse': True}, '^reuse=True is no distance; give 0 or more'),
    ({'reuse': 10**400}, '^reuse=10+ is no distance; give 0 or more'),
  ],
)
def test_early_termination_that_cannot_be_gets_a_sentence_before_frames_come(options, sentence):
  with pytest.raises(UserError, match=sentence):
    predictor(**options)


def test_a_network_of_one_stage_gets_a_sentence():
  _, variables, _ = example()
  device = jax.devices()[0]
  with pytest.raises(UserError, match='^TinyNetwork is of one stage; a stream is for a BasisNet'):
    streaming.StreamingPredictor(
      tiny.TinyNetwork(10), variables, lightweight_device=device, specialist_device=device
    )


@pytest.mark.parametrize(
  'change, told',
  [
    (lambda frame: frame[0], r'float32 \[8, 8, 3\]'),
    (lambda frame: frame[..., :1], r'float32 \[2, 8, 8, 1\]'),
    (lambda frame: frame[:0], r'float32 \[0, 8, 8, 3\]'),
    (lambda frame: np.uint8(frame), r'uint8 \[2, 8, 8, 3\]'),  # Not in [-1, 1].
    (lambda frame: frame.tolist(), r'list, None \[\]'),
    (
      lambda frame: types.SimpleNamespace(shape=frame.shape, dtype='another'),  # PyTorch's, say.
      r'SimpleNamespace, another \[2, 8, 8, 3\]',
    ),
  ],
)
def test_a_frame_that_is_none_gets_a_sentence_where_its_answer_would_be(change, told):
  frames, found = example()[2], []
  with pytest.raises(UserError, match=rf'float \[batch, height, width, 3\]; this is .*{told}\.$'):
    for answer in predictor()([*frames[:2], change(frames[2])]):
      found.append(answer)
  assert_answers(found, range(2))


def test_what_is_no_device_and_what_has_no_frames_gets_a_sentence():
  model, variables, _ = example()
  with pytest.raises(UserError, match=r"^'cpu' is no JAX device, such as jax.devices\(\)\[0\]\.$"):
    streaming.StreamingPredictor(
      model, variables, lightweight_device=jax.devices()[0], specialist_device='cpu'
    )
  for wrong, told in ((None, 'NoneType'), (variables['params'], r"dict of \[.*'specialist'\]")):
    with pytest.raises(UserError, match=rf'^variables are what model.init returns, .* {told}\.$'):
      streaming.StreamingPredictor(
        model, wrong, lightweight_device=jax.devices()[0], specialist_device=jax.devices()[0]
      )
  with pytest.raises(UserError, match=r'^Frames come as \[frame, ...\]; this is NoneType\.$'):
    next(predictor()(None))


def test_a_stream_that_nobody_reads_on_leaves_no_threads():
  before = set(threading.enumerate())
  answers = predictor(depth=1)(itertools.repeat(example()[2][0]))
  next(answers)
  answers.close()
  time.sleep(0.3)
  assert set(threading.enumerate()) <= before


def test_each_device_holds_the_weights_of_its_stage_alone():
  _, variables, _ = example()
  light, special = basisnet.of_stages(variables)
  assert set(light['params']) == {'lightweight', 'coefficient_head'}
  assert set(special['params']) == {'specialist'}
  assert set(light['batch_stats']) == {'lightweight'}
  assert set(special['batch_stats']) == {'specialist'}
