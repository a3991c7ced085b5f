"""Evaluation: every image once, whatever the batches; metrics against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax import sharding
from basisnet_jax.evaluation import early_exit, evaluate, metrics
from basisnet_jax.models import basisnet, cost, microbatches

IMAGES = 23
TEMPERATURES = {'lightweight': 0.5, 'specialist': 3.0}


def padded_batches(images, size):
  """All of `images` in batches of `size`, filled up with images that must not count."""
  filler = {'image': np.full_like(images['image'][:1], 255), 'label': images['label'][:1]}
  for start in range(0, IMAGES, size):
    part = {key: value[start : start + size] for key, value in images.items()}
    count = len(part['label'])
    fill = {key: np.repeat(value, size - count, axis=0) for key, value in filler.items()}
    batch = {key: np.concatenate([part[key], fill[key]]) for key in filler}
    yield batch | {'mask': np.r_[np.ones(count), np.zeros(size - count)].astype(np.float32)}


@pytest.fixture(scope='module')
def images():
  return tiny.batch(IMAGES)


@pytest.fixture(scope='module', params=['basisnet', 'network'])
def network(request):
  """(model, variables with statistics that matter)"""
  model = tiny.basisnet(dropout=0.5) if request.param == 'basisnet' else tiny.TinyNetwork()
  shape = (1, tiny.RESOLUTION, tiny.RESOLUTION, 3)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros(shape))
  return model, {**variables, 'batch_stats': jax.tree.map(
    lambda leaf: leaf + 0.3, variables['batch_stats']
  )}  # fmt: skip


@pytest.fixture(scope='module')
def one_by_one(network, images):
  """What the model says of each image alone, by the definitions."""
  model, variables = network
  apply = jax.jit(lambda image: model.apply(variables, image[None], train=False))
  results = {}

  def note(**values):
    for key, value in values.items():
      results.setdefault(key, []).append(value)

  for image, label in zip(images['image'], images['label'], strict=True):
    outputs = apply(image.astype(np.float32) / 127.5 - 1)
    stages = {'network': outputs}
    if isinstance(outputs, basisnet.Outputs):
      stages = {'lightweight': outputs.lightweight, 'specialist': outputs.specialist}
    for stage, logits in stages.items():
      logits = np.asarray(logits, np.float64)[0]
      probabilities = np.exp(logits) / np.exp(logits).sum()
      best = np.argsort(-logits, kind='stable')
      warmer = np.exp(logits / TEMPERATURES.get(stage, 1))
      note(**{
        f'{stage}_prediction': best[0],
        f'{stage}_probability': probabilities.max(),
        f'{stage}_calibrated': (warmer / warmer.sum()).max(),
        f'{stage}_logits': logits,
        f'{stage}_loss': -np.log(probabilities[label]),
        f'{stage}_top1': float(best[0] == label),
        f'{stage}_top5': float(label in best[:5]),
      })  # fmt: skip
      if stage == 'lightweight':
        runner_up, best = np.sort(warmer / warmer.sum())[-2:]
        note(confidence=best - runner_up, coefficients=np.asarray(outputs.coefficients)[0])
  return {key: np.array(value) for key, value in results.items()}


@pytest.mark.parametrize(
  'devices, size, at_once', [(1, 7, 512), (1, 32, 512), (8, 8, 512), (1, 23, 10), (1, 32, 16)]
)
def test_every_image_counts_once_whatever_the_batches(
  network, images, one_by_one, devices, size, at_once, monkeypatch
):
  monkeypatch.setattr(evaluate, '_AT_ONCE', at_once)
  model, variables = network
  mesh = sharding.create_mesh(devices=jax.devices()[:devices])
  done, step = [], evaluate.make_eval_step(model, mesh, rule='margin')
  variables = jax.device_put(variables, sharding.replicated(mesh))
  batches = list(sharding.to_device(padded_batches(images, size), mesh))
  evaluate.run(step, variables, batches[:1])  # As held-out images, without temperatures.
  results = evaluate.run(
    step,
    variables,
    batches,
    on_batch=done.append,
    temperatures=TEMPERATURES,
    keep_logits=size == 7,
  )
  assert step._cache_size() == 1  # It compiles once.
  expected = one_by_one | {'label': images['label']}
  if size != 7:
    expected = {key: value for key, value in expected.items() if not key.endswith('_logits')}
  if 'coefficients' in expected:
    found, of_all = results.pop('coefficient_statistics'), expected['coefficients']
    np.testing.assert_allclose(found.mean, of_all.mean(0), rtol=1e-4)
    np.testing.assert_allclose(found.deviation, of_all.std(0), rtol=1e-2, atol=1e-5)
    np.testing.assert_array_equal(found.images, np.bincount(images['label'], minlength=10))
    # Of the first batch's real images.
    expected['coefficients'] = expected['coefficients'][:size]
  assert results.keys() == expected.keys()
  for key, value in expected.items():
    assert results[key].shape == value.shape
    np.testing.assert_allclose(results[key], value, rtol=1e-4, atol=1e-5, err_msg=key)
  assert done == list(range(1, -(-IMAGES // size) + 1))


def test_a_large_batch_takes_little_more_memory_than_a_part_of_it(monkeypatch):
  monkeypatch.setattr(microbatches, '_ON_CPU', 4096)  # As elsewhere.
  model, mesh = tiny.basisnet(resolution=32), sharding.create_mesh(devices=jax.devices()[:1])
  variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  temperatures = {stage: np.float32(1) for stage in metrics.STAGES}

  def needed(size, exchange):
    step = evaluate.make_eval_step(model, mesh, exchange=exchange)
    compiled = step.lower(variables, tiny.batch(size, resolution=32), temperatures).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  for exchange in (False, True):
    assert needed(4096, exchange) < 2 * needed(512, exchange)


@pytest.mark.parametrize('devices, at_once', [(8, 512), (1, 10)])
@pytest.mark.parametrize('refine', [0.0, 0.5])
def test_specialist_with_another_images_coefficients(refine, devices, at_once, monkeypatch):
  monkeypatch.setattr(evaluate, '_AT_ONCE', at_once)
  model = tiny.basisnet().clone(refine=refine)
  mask = np.r_[np.ones(20), np.zeros(4)].astype(np.float32)
  batch = tiny.batch(24) | {'mask': mask}
  images = batch['image'].astype(np.float32) / 127.5 - 1
  variables = jax.jit(model.init)(jax.random.key(0), images)
  mesh = sharding.create_mesh(devices=jax.devices()[:devices])
  step = evaluate.make_eval_step(model, mesh, exchange=True)
  values, _ = step(variables, batch, {})
  partners = np.asarray(evaluate._another(jnp.asarray(mask)))
  assert sorted(partners[:20]) == list(range(20))
  assert not np.any(partners[:20] == np.arange(20))
  coefficients = np.asarray(values['coefficients'])[partners]
  logits = jax.jit(lambda *args: model.apply(*args, method='specialize'))(
    variables, images, coefficients, values['lightweight_logits']
  )
  right = np.asarray(logits).argmax(-1) == batch['label']
  np.testing.assert_array_equal(values['exchanged'][:20], right[:20])
  assert evaluate._another(jnp.ones(1)) == evaluate._another(jnp.zeros(1)) == 0


@pytest.mark.parametrize('size', [1, 2])
def test_only_batches_with_another_image_exchange_coefficients(size):
  model, batch = tiny.basisnet(), tiny.batch(size)
  variables = jax.eval_shape(model.init, jax.random.key(0), batch['image'].astype(np.float32))
  step = evaluate.make_eval_step(
    model, sharding.create_mesh(devices=jax.devices()[:1]), exchange=True
  )
  values, _ = jax.eval_shape(step, variables, batch, {})
  assert ('exchanged' in values) == (size > 1)


def test_summary_averages_over_images():
  random = np.random.default_rng(0)
  results = {
    f'{stage}_{name}': random.random(40).astype(np.float32)
    for stage in ('lightweight', 'specialist')
    for name in ('loss', 'top1', 'top5')
  }
  for stage in ('lightweight', 'specialist'):
    results[f'{stage}_top1'] = np.round(results[f'{stage}_top1'])
  results |= {'confidence': random.random(40), 'coefficients': np.zeros((8, 3, 2))}
  counted = cost.count(tiny.basisnet(), tiny.RESOLUTION)
  summary = evaluate.summarize(results, cost=counted, thresholds=(0.5, 0.9), step=12)
  assert (summary['step'], summary['images']) == (12, 40)
  for stage in ('lightweight', 'specialist'):
    assert summary[stage] == pytest.approx(
      {name: results[f'{stage}_{name}'].mean() for name in ('loss', 'top1', 'top5')}
    )
  assert 0 < summary['lightweight_madds'] < summary['total_madds'] == counted.total_madds
  exits = results['confidence'] >= 0.9
  point = summary['early_exit'][1]
  assert (point['threshold'], point['exit_rate']) == (0.9, exits.mean())
  right = np.where(exits, results['lightweight_top1'], results['specialist_top1'])
  assert point['top1'] == right.mean()
  assert point['average_madds'] == early_exit.operating_point(
    0.9, *evaluate.answers(results), **evaluate.madds(counted)
  )['average_madds']  # fmt: skip


@pytest.mark.parametrize('right', [356, 301])
def test_a_stage_alone_is_as_accurate_as_where_all_or_none_exit(right):
  correct = (np.arange(360) < right).astype(np.float32)
  results = {f'{s}_{n}': correct for s in metrics.STAGES[:2] for n in ('loss', 'top1', 'top5')}
  results['confidence'] = np.full(360, 0.5, np.float32)
  counted = cost.count(tiny.basisnet(), tiny.RESOLUTION)
  summary = evaluate.summarize(results, cost=counted, thresholds=(0.0,), step=1, chosen=2.0)
  assert summary['lightweight']['top1'] == summary['early_exit'][0]['top1'] == right / 360
  assert summary['specialist']['top1'] == summary['chosen']['top1'] == right / 360


def test_summary_of_one_network_has_no_early_exit():
  results = {f'network_{name}': np.ones(4, np.float32) for name in ('loss', 'top1', 'top5')}
  counted = cost.count(tiny.TinyNetwork(), tiny.RESOLUTION)
  summary = evaluate.summarize(results, cost=counted, thresholds=(0.5,), step=1)
  assert set(summary) == {'step', 'images', 'network', 'total_madds'}


@pytest.mark.parametrize('classes', [3, 5, 10])
def test_top1_and_top5_are_ranks(classes):
  random = np.random.default_rng(classes)
  logits = random.integers(0, 4, (50, classes)).astype(np.float32)  # Many are equal.
  labels = random.integers(0, classes, 50)
  found = metrics.per_image(jnp.asarray(logits), jnp.asarray(labels))
  order = np.argsort(-logits, axis=1, kind='stable')  # The first of equal ones wins.
  np.testing.assert_array_equal(found['top1'], order[:, 0] == labels)
  np.testing.assert_array_equal(found['top5'], (order[:, :5] == labels[:, None]).any(1))
  np.testing.assert_array_equal(found['top1'], np.argmax(logits, 1) == labels)


@pytest.mark.parametrize('classes', [3, 10])
def test_network_that_diverged_is_never_right(classes):
  labels = jnp.arange(3)
  found = metrics.per_image(jnp.full((3, classes), jnp.nan), labels)
  assert not found['top1'].any() and not found['top5'].any()


def test_infinite_logit_is_an_answer_like_any_other():
  found = metrics.per_image(jnp.array([[0.0, jnp.inf], [0.0, -jnp.inf]]), jnp.array([1, 0]))
  np.testing.assert_array_equal(found['top1'], [1.0, 1.0])
