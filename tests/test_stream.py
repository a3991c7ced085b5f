"""Streams of a run: what has to be done before the first frame comes."""

import csv

import jax
import jax.numpy as jnp
from PIL import Image
import pytest
import tiny

from basisnet_jax import predict, stream
from basisnet_jax.evaluation import chosen
from basisnet_jax.inference import clips
from basisnet_jax.inference.predictor import Preparation
from basisnet_jax.models import cost

SIDE = tiny.RESOLUTION


@pytest.mark.parametrize(
  'threshold, reuse, stages',
  [
    (0.0, None, ['lightweight'] * 3),
    (2.0, None, ['specialist'] * 3),
    (2.0, 5.0, ['specialist', 'specialist, reused', 'specialist, reused']),
  ],
)
def test_nothing_is_compiled_once_frames_come(monkeypatch, tmp_path, threshold, reuse, stages):
  model = tiny.basisnet()
  variables = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  counted = cost.count(model, SIDE, variables)
  labels = tuple(map(str, range(10)))

  def ready(_, __, device, weights):
    assert weights == 'float32'
    own = Preparation(SIDE)
    return predict.Ready(model, variables, labels, own, counted, chosen.NOTHING, device)

  compiled, before = [], []

  def on_event(name, *_, **__):
    if name == '/jax/core/compile/backend_compile_duration':
      compiled.append(name)

  def frames():
    before.append(len(compiled))  # All that comes later makes frames wait.
    for i in range(3):
      yield str(i), Image.new('RGB', (SIDE, SIDE), (80 * i, 50, 60))

  monkeypatch.setattr(predict, 'ready', ready)
  monkeypatch.setattr(clips, 'open_clip', lambda _: clips.Clip(frames(), 3, 25.0))
  output = tmp_path / 'frames.csv'
  jax.monitoring.register_event_duration_secs_listener(on_event)
  try:
    stream.stream_clip(
      'run', 'clip', str(output), checkpoint='', top_k=2, reuse=reuse, realtime=False,
      threshold=threshold,
    )  # fmt: skip
  finally:
    jax.monitoring.unregister_event_duration_listener(on_event)
  with output.open() as file:
    assert [row['stage'] for row in csv.DictReader(file)] == stages
  assert before == [len(compiled)] and compiled
