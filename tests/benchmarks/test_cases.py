"""The benchmarks of networks, on tiny ones: their rows, and the numbers that are not times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.training import experiment
from benchmarks import (
  early_exit,
  growth,
  hlo,
  layer,
  memory,
  network,
  ours,
  peers,
  roofline,
  serve,
  two_devices,
)

SECONDS = 0.01


@pytest.fixture(autouse=True)
def tiny_networks(monkeypatch):
  def recipe(variant='', **changes):
    config = tiny.get_config()
    if variant:  # All the peers are one plain network.
      config.model.name = 'tiny'
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in changes.items()})
    return config

  def images(batch, resolution=16):
    random = np.random.default_rng(0).uniform(-1, 1, (batch, 16, 16, 3))
    return jnp.asarray(random, jnp.float32)

  monkeypatch.setattr(ours, 'recipe', recipe)
  monkeypatch.setattr(ours, 'images', images)
  monkeypatch.setattr(peers, 'torch_is_there', lambda: False)


def names(rows, case=''):
  return {row.name for row in rows if case in row.case}


def test_network(monkeypatch):
  monkeypatch.setattr(network, '_BATCHES', (1, 3))
  monkeypatch.setattr(network, '_TRAINING_BATCH', 8)
  rows = list(network.cases(SECONDS))
  assert all(row.value.median > 0 for row in rows)
  own = {'static', 'BasisNet, specialist', 'BasisNet, both stages'}
  half = {f'BasisNet, specialist, bases stored in {dtype}' for dtype in ('float16', 'int8')}
  assert own | half <= names(rows, 'inference, batch 1,')
  assert own <= names(rows, 'inference, batch 3,') and not half & names(rows, 'batch 3,')
  assert {'static', 'BasisNet, both stages'} <= names(rows, 'training step')
  assert {row.case for row in rows if row.bar} == {
    'inference, batch 1, 224 pixels',
    'training step, batch 8, 224 pixels',
  }


def test_early_exit(monkeypatch):
  monkeypatch.setattr(early_exit, '_CASES', {1: early_exit._CASES[1], 10: early_exit._RATES})
  rows = list(early_exit.cases(SECONDS))
  cases = [(1, 0), (1, 1), (10, 0), (10, 4), (10, 6), (10, 9)]
  assert [row.case for row in rows[::3]] == [f'batch {b}, {n} exit' for b, n in cases]
  for ideal, own, masking in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
    assert (ideal.name, own.name, masking.name) == ('ideal', 'early termination', 'masking')
    assert bool(own.bar) == ('batch 10' in own.case)
    assert own.ratio.median > 0 and not masking.bar


def test_two_devices(monkeypatch):
  monkeypatch.setattr(two_devices, '_FRAMES', 3)
  rows = list(two_devices.cases(SECONDS))
  assert [row.name for row in rows] == ['stage 1 alone', 'stage 2 alone', 'stream'] * 2
  assert rows[2].ratio.median > 0 and rows[2].bar == 'at least 0.9'


def test_serve(monkeypatch):
  config = ours.recipe(
    model__specialist='resnet_18',  # The server's process knows no tiny one.
    model__lightweight__name='resnet_18',
    model__width=0.125,
    model__lightweight__width=0.125,
  )
  monkeypatch.setattr(ours, 'recipe', lambda: config)
  monkeypatch.setattr(serve, '_CLIENTS', (1, 3))
  monkeypatch.setattr(serve, '_FILES', 8)
  rows = list(serve.cases(SECONDS))
  assert [row.case for row in rows] == ['1 client'] * 6 + ['3 clients'] * 6
  server, latencies = rows[7], rows[9:]
  assert server.name == 'server' and server.ratio.median > 0
  assert sorted(row.value.median for row in latencies) == [row.value.median for row in latencies]


def test_memory_holds_the_state(monkeypatch):
  monkeypatch.setattr(memory, '_BATCHES', (8, 64))
  rows = list(memory.cases(SECONDS))
  size = {(row.case.split(', ')[1], row.name): row.value.median for row in rows}
  assert size['batch 64', 'static'] > size['batch 8', 'static']
  state = ours.TrainStep(ours.recipe(), 8)
  state()
  least = sum(leaf.nbytes for leaf in jax.tree.leaves(state._state)) / 1e6
  assert size['batch 8', 'BasisNet'] > least
  static = next(row for row in rows if row.name == 'static')
  assert static.ratio is None


def test_a_device_does_and_exchanges_the_same_however_many_there_are(monkeypatch):
  monkeypatch.setattr(growth, '_PER_DEVICE', 2)
  rows = list(growth._devices())
  assert len(rows) == 8 and sum(row.met for row in rows if row.bar) == 5
  one, two = (row.value.median for row in rows[4:6])
  model = experiment.build_model(ours.recipe())
  params = jax.eval_shape(model.init, jax.random.key(0), ours.images(1))['params']
  gradients = 4e-6 * sum(leaf.size for leaf in jax.tree.leaves(params))
  # Batch statistics and metrics on top.
  assert one == 0 and gradients < two < 1.5 * gradients + 0.01


def test_bytes_of_all_reduces_are_read_from_the_program():
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  rows = jax.NamedSharding(mesh, jax.P('data'))

  @jax.jit
  def total(x, y):
    return x.sum(0), y.sum(0)

  x = jax.device_put(jnp.ones((16, 100)), rows)
  y = jax.device_put(jnp.ones((16, 7), jnp.int32), rows)
  program = total.lower(x, y).compile().as_text()
  assert hlo.reduced_bytes(program) == 4 * 107
  assert hlo.reduced_bytes('') == 0


def test_layer(monkeypatch):
  monkeypatch.setattr(layer, '_POINTWISE', [layer.Layer(5, 4, 6, 1)])
  monkeypatch.setattr(layer, '_DEPTHWISE', [layer.Layer(5, 4, 4, 3, 2, 4)])
  monkeypatch.setattr(layer, '_DENSE', [])
  monkeypatch.setattr(layer, '_CLASSIFIER', layer.Layer(1, 4, 6, 1))
  monkeypatch.setattr(layer, '_BATCHES', (2,))
  rows = list(layer.cases(SECONDS))
  cases = {row.case for row in rows}
  assert len(cases) == 3 * 2 * 2 + 1  # Layers, dtypes, directions; synthesis.
  forward = next(case for case in cases if 'depthwise' in case and case.endswith('forward'))
  assert names(rows, forward) >= {'shared kernel', 'ours', 'lax.map', 'vmap'}
  backward = forward.replace('forward', 'forward and backward')
  assert 'vmap' not in names(rows, backward)


def test_moved_bytes_are_of_operands_and_results():
  x = jnp.ones((64, 32))

  def moved(function, *arguments):
    return hlo.moved_bytes(jax.jit(function).lower(*arguments).compile().as_text())

  assert moved(lambda x: x + 1, x) == 2 * x.nbytes
  # Two that are fused into one.
  assert moved(lambda x, y: jnp.exp(x) * y, x, x) == 3 * x.nbytes
  assert moved(lambda x: (x @ x.T).astype(jnp.float16), x) >= x.nbytes + 64 * 64 * 2
  # Of what is sliced the slice alone.
  assert moved(lambda x: jnp.exp(x[:8]) + 1, x) == 2 * x.nbytes // 8
  assert moved(lambda x, y: jnp.where(y[:1, :1] > 0, x, 0), x, x) == 2 * x.nbytes + 4


def test_roofline(monkeypatch):
  monkeypatch.setattr(roofline, '_SIDE_ON_CPU', 256)
  monkeypatch.setattr(roofline, '_BATCHES_ON_CPU', (8,))
  rows = {row.name: row for row in roofline.cases(SECONDS)}
  products, copied = rows['product of 256 x 256'].value, rows['copy of 2 MB'].value
  for name in ('static', 'BasisNet'):
    own = {key.removeprefix(f'{name}: '): row for key, row in rows.items() if name in key}
    needs, moves = own['needs'].value.median, own['moves'].value.median
    # Each image forward once, and twice as much backward.
    assert needs == 6 * 8 * ours.madds(ours.recipe('large' if name == 'static' else '')) / 1e9
    took = own[name].value.median / 1e3
    assert own['MFU'].value.median == pytest.approx(100 * needs / took / products.median, rel=0.5)
    (least,) = [row for key, row in own.items() if key.startswith('roofline')]
    assert least.value.median / 1e3 == pytest.approx(
      max(moves / copied.median, needs / products.median)
    )
    assert least.ratio.median == pytest.approx(least.value.median / 1e3 / took, rel=0.5)
