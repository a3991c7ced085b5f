"""The step that an earlier process compiled: the same training, never that of another recipe."""

import os
import types

import jax
from jax.experimental.compilation_cache import compilation_cache
import numpy as np
import pytest
import tiny

from basisnet_jax import environment, sharding
from basisnet_jax.training import experiment, kept_step, learning

STEPS = 3


@pytest.fixture
def config():
  c = tiny.get_config()
  c.training.resolutions = ((0.0, 12), (0.5, 16))
  return c


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """A folder for compiled programs that has none yet, for this test alone."""
  before = jax.config.jax_compilation_cache_dir
  jax.config.update('jax_compilation_cache_dir', str(tmp_path))
  compilation_cache.reset_cache()
  monkeypatch.setattr(environment, 'STARTED', float('inf'))  # Whoever edits while tests run.
  yield tmp_path / 'steps'
  jax.config.update('jax_compilation_cache_dir', before)
  compilation_cache.reset_cache()


def new_training(config):
  mesh = sharding.create_mesh(config.sharding.mesh)
  return mesh, learning.Training(config, mesh, 320)


def trained(training, step, mesh, first=0):
  state, losses = training.fresh_state(), []
  for index in range(first, first + STEPS):
    side = training.abstract_batch(index)['image'].shape[1]
    (batch,) = sharding.to_device([tiny.batch(16, seed=index, resolution=side)], mesh)
    state, metrics = step(state, batch)
    losses.append(float(metrics.loss.compute()))
  return losses, tiny.leaves(state)


def never(*_):
  raise AssertionError('traced')


def test_later_process_trains_alike_and_traces_nothing(config, cache):
  mesh, training = new_training(config)
  step = training.step(keep=True)
  step.compile(training.state, training.abstract_batch(0))
  expected = trained(training, step, mesh)
  assert len(os.listdir(cache)) == 1

  mesh, training = new_training(config)
  step = training.step(keep=True)
  step.jitted = types.SimpleNamespace(lower=never)
  step.compile(training.state, training.abstract_batch(0))
  losses, state = trained(training, step, mesh)
  assert losses == expected[0]
  jax.tree.map(np.testing.assert_array_equal, state, expected[1])


def test_images_of_another_size_are_compiled_for_themselves(config, cache):
  mesh, training = new_training(config)
  training.step(keep=True).compile(training.state, training.abstract_batch(0))
  step = training.step(keep=True)
  step.compile(training.state, training.abstract_batch(0))
  larger = training.schedule.total_steps // 2
  assert training.abstract_batch(larger)['image'].shape[1] == 16
  losses, _ = trained(training, step, mesh, first=larger)
  assert losses == trained(training, training.step(), mesh, first=larger)[0]


def test_abstract_batches_are_those_of_the_pipeline(config, tmp_path):
  config.data.data_dir = str(tmp_path)
  dataset = experiment.open_dataset(config)
  mesh = sharding.create_mesh(config.sharding.mesh)
  images = experiment.num_images(dataset, config.data.train_split)
  training = learning.Training(config, mesh, images)
  sizes = set()
  for index in (0, training.schedule.total_steps // 2 + 1):
    batch = next(sharding.to_device(experiment.train_batches(config, dataset, mesh, index), mesh))
    like = training.abstract_batch(index)
    sizes.add(like['image'].shape[1])
    assert {k: (v.shape, v.dtype, v.sharding) for k, v in batch.items()} == {
      k: (v.shape, v.dtype, v.sharding) for k, v in like.items()
    }
  assert sizes == {12, 16}


def path(config, index=0, **options):
  _, training = new_training(config)
  step = training.step(keep=True, **options)
  return step._path_of((training.state, training.abstract_batch(index)))


def test_everything_that_a_step_is_made_of_has_its_say(config, cache, monkeypatch, tmp_path):
  own = tmp_path / 'own.py'
  own.write_text('SLOPE = 0.1')
  monkeypatch.setitem(kept_step.sys.modules, 'own', types.SimpleNamespace(__file__=str(own)))
  first = path(config)
  assert first == path(config) and first.parent == kept_step.epath.Path(cache)
  others = [path(config, skip_nonfinite=True), path(config, index=10**6)]
  own.write_text('SLOPE = 0.2')
  others.append(path(config))
  monkeypatch.setenv('XLA_FLAGS', os.environ['XLA_FLAGS'] + ' --xla_cpu_enable_fast_math=true')
  others.append(path(config))
  jax.config.update('jax_default_matmul_precision', 'highest')
  others.append(path(config))
  jax.config.update('jax_default_matmul_precision', None)
  config.loss.label_smoothing = 0.2
  others.append(path(config))
  monkeypatch.setattr(kept_step.os, 'cpu_count', lambda: 1024)
  others.append(path(config))
  assert len({first, *others}) == 8


def test_nothing_is_kept_where_the_sources_may_not_be_what_runs(config, cache, monkeypatch):
  monkeypatch.setattr(environment, 'STARTED', os.path.getmtime(kept_step.__file__))
  assert path(config) is None
  _, training = new_training(config)
  training.step(keep=True).compile(training.state, training.abstract_batch(0))
  assert not cache.exists()


def test_nothing_is_kept_without_a_folder(config, cache):
  jax.config.update('jax_compilation_cache_dir', None)
  assert path(config) is None


@pytest.mark.parametrize('damage', [lambda data: data[: len(data) // 2], lambda data: b'', bytes])
def test_damaged_step_is_compiled_anew(config, cache, damage, caplog):
  mesh, training = new_training(config)
  like = training.abstract_batch(0)
  training.step(keep=True).compile(training.state, like)
  (kept,) = cache.iterdir()
  content = kept.read_bytes()
  kept.write_bytes(damage(content))
  step = training.step(keep=True)
  step.compile(training.state, like)
  assert ('is compiled anew' in caplog.text) == (damage is not bytes)
  assert np.isfinite(trained(training, step, mesh)[0]).all()


def test_what_jax_had_is_not_kept(config, cache):
  # It would come without its functions, and be found out in the first step of the next run.
  _, training = new_training(config)
  like = training.abstract_batch(0)
  training.step(keep=True).compile(training.state, like)
  (kept,) = cache.iterdir()
  kept.unlink()
  training.step(keep=True).compile(training.state, like)
  assert not list(cache.iterdir())


def test_folder_does_not_grow_without_end(config, cache, monkeypatch):
  monkeypatch.setattr(kept_step, '_MOST', 2)
  cache.mkdir()
  for age in range(3):
    (cache / f'{age}.step').write_bytes(b'')
    os.utime(cache / f'{age}.step', (1e9 - age, 1e9 - age))
  _, training = new_training(config)
  training.step(keep=True).compile(training.state, training.abstract_batch(0))
  assert sorted(name for name in os.listdir(cache) if len(name) < 10) == ['0.step']


def test_a_step_that_cannot_be_written_is_told_once_and_trains(config, cache, monkeypatch, caplog):
  def no_way(*_):
    raise ValueError('host callbacks')

  monkeypatch.setattr(kept_step.serialize_executable, 'serialize', no_way)
  caplog.set_level('INFO', 'absl')
  for _ in range(2):
    mesh, training = new_training(config)
    step = training.step(keep=True)
    step.compile(training.state, training.abstract_batch(0))
    compilation_cache.reset_cache()
    for program in cache.parent.iterdir():  # Else the second would come from JAX's cache.
      program.unlink()
  sentence = 'is not kept for the next start: it cannot be written (host callbacks)'
  assert caplog.text.count(sentence) == 1
  assert not cache.exists()
  assert np.isfinite(trained(training, step, mesh)[0]).all()


def test_full_disk_does_not_end_a_training(config, cache, monkeypatch, caplog):
  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(kept_step.whole_file, 'write', full)
  mesh, training = new_training(config)
  step = training.step(keep=True)
  step.compile(training.state, training.abstract_batch(0))
  assert 'is not kept for the next start: [Errno 28] No space left' in caplog.text
  assert np.isfinite(trained(training, step, mesh)[0]).all()
