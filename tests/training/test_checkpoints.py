"""Checkpoints: exact, and whatever happens to their files, never the end of a run."""

import gc
import json
import os
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.training import checkpoints, checksums
from basisnet_jax.training.checkpoints import Checkpoints
from basisnet_jax.training.state import TrainState


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
  """What a failed read leaves fails the test that made it, not one after it."""
  yield
  gc.collect()


def state_at(step, features=512):
  """A state whose every number depends on the step, with all kinds of parts."""
  random = np.random.default_rng(step)
  params = {
    'conv': {'kernel': jnp.asarray(random.normal(size=(3, features)), jnp.float32)},
    'head': {'bases': jnp.asarray(random.normal(size=(2, 3)), jnp.bfloat16)},
  }
  batch_stats = {'norm': {'mean': jnp.full(3, step / 7)}}
  update = optax.adamw(0.1)
  return TrainState(
    step=jnp.int32(step),
    params=params,
    batch_stats=batch_stats,
    opt_state=update.init(params),
    ema={'params': params, 'batch_stats': batch_stats},
  )


def like(devices=None, **options):
  """Where to restore to: whole on each of the devices."""
  mesh = sharding.create_mesh(devices=devices)
  return sharding.abstract(jax.eval_shape(lambda: state_at(0, **options)), mesh)


def save(folder, *steps, keep=3):
  with Checkpoints(str(folder), keep=keep) as saved:
    for step in steps:
      saved.save(state_at(step))


def restore(folder, wanted=None, keep=3):
  """(state, warnings)"""
  warnings = []
  with Checkpoints(str(folder), keep=keep) as saved:
    return saved.restore(wanted or like(), warn=warnings.append), warnings


def assert_is(state, step):
  found, expected = tiny.leaves(state), tiny.leaves(state_at(step))
  assert found.keys() == expected.keys()
  for path, value in expected.items():
    assert found[path].dtype == value.dtype
    np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.fixture(scope='module')
def three(tmp_path_factory):
  """A folder with steps 5, 10 and 15."""
  folder = tmp_path_factory.mktemp('checkpoints')
  save(folder, 5, 10, 15)
  return folder


@pytest.fixture
def folder(three, tmp_path):
  """A copy of it to do harm to."""
  return pathlib.Path(shutil.copytree(three, tmp_path / 'copy'))


@pytest.mark.parametrize('devices', [1, 8])
def test_restored_state_is_the_saved_one_on_any_number_of_devices(three, devices):
  state, warnings = restore(three, like(jax.devices()[:devices]))
  assert_is(state, 15)
  assert not warnings
  for leaf in jax.tree.leaves(state):
    assert leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == devices


def test_empty_folder_restores_to_nothing(tmp_path):
  with Checkpoints(str(tmp_path / 'new'), keep=3) as saved:
    assert saved.restore(like()) is None
    assert saved.latest_step is None
    assert saved.metrics() == {}


def test_the_latest_few_are_kept(folder):
  save(folder, 20, 25)
  assert sorted(os.listdir(folder)) == ['15', '20', '25']


def test_no_clock_decides_which_is_the_newest(tmp_path, monkeypatch):
  now, now_ns = time.time, time.time_ns
  for number, step in enumerate((5, 10, 15, 20)):  # Each is saved a day before the one before it.
    back = 86_400 * number
    monkeypatch.setattr(time, 'time', lambda back=back: now() - back)
    monkeypatch.setattr(time, 'time_ns', lambda back=back: now_ns() - back * 10**9)
    save(tmp_path, step)
    for path in (tmp_path / str(step), *(tmp_path / str(step)).rglob('*')):
      os.utime(path, (now() - back + 10**9,) * 2)  # Of a disk whose clock is another one.
  monkeypatch.undo()
  assert sorted(os.listdir(tmp_path)) == ['10', '15', '20']
  state, warnings = restore(tmp_path)
  assert_is(state, 20)
  assert not warnings


def test_best_folder_holds_the_last_one_saved_with_its_metrics(tmp_path):
  with Checkpoints(str(tmp_path), keep=1) as best:
    best.save(state_at(4), metrics={'top1': 0.25})
    best.wait()
    assert best.metrics() == {'top1': 0.25}
    best.save(state_at(8), metrics={'top1': 0.5})
  with Checkpoints(str(tmp_path), keep=1) as best:
    assert (best.latest_step, best.metrics()) == (8, {'top1': 0.5})
  assert os.listdir(tmp_path) == ['8']


def test_state_may_be_given_away_while_it_is_being_saved(tmp_path):
  step = jax.jit(
    lambda state: jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), state),
    donate_argnums=0,
  )
  state = jax.tree.map(jnp.copy, state_at(3, features=200_000))
  with Checkpoints(str(tmp_path), keep=3) as saved:
    saved.save(state)
    for _ in range(20):
      state = step(state)
  restored, _ = restore(tmp_path, like(features=200_000))
  expected = tiny.leaves(state_at(3, features=200_000))
  for path, value in tiny.leaves(restored).items():
    np.testing.assert_array_equal(value, expected[path], err_msg=path)


def test_saving_a_step_twice_is_harmless(folder):
  with Checkpoints(str(folder), keep=3) as saved:
    saved.save(state_at(15))
    saved.save(state_at(20))
    saved.save(state_at(20))
  state, warnings = restore(folder)
  assert_is(state, 20)
  assert not warnings


def harm_by_truncation(step):
  files = [path for path in (step / 'state').rglob('d/*') if path.is_file()]
  assert files
  for path in files:
    os.truncate(path, path.stat().st_size // 2)


def harm_by_zeros(step):
  # What a power cut leaves: files of the right length without content.
  for path in (step / 'state').rglob('d/*'):
    path.write_bytes(bytes(path.stat().st_size))


def harm_by_missing_manifest(step):
  (step / 'state' / 'manifest.ocdbt').unlink()


def harm_by_emptiness(step):
  shutil.rmtree(step)
  step.mkdir()


def harm_by_missing_state(step):
  shutil.rmtree(step / 'state')


def harm_by_broken_json(step):
  (step / 'about' / 'metadata').write_text('{"format_ver')


HARMS = [
  harm_by_truncation,
  harm_by_zeros,
  harm_by_missing_manifest,
  harm_by_emptiness,
  harm_by_missing_state,
  harm_by_broken_json,
]


@pytest.mark.parametrize('harm', HARMS)
def test_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(folder, harm):
  harm(folder / '15')
  with Checkpoints(str(folder), keep=3) as saved:
    warnings = []
    assert_is(saved.restore(like(), warn=warnings.append), 10)
    assert saved.latest_step == 10
    saved.save(state_at(15))  # As the run comes by again.
  (warning,) = warnings
  assert f'{folder}/15 is damaged' in warning and '15.damaged' in warning
  assert (folder / '15.damaged').is_dir()
  state, warnings = restore(folder)
  assert_is(state, 15)
  assert not warnings


def test_step_can_be_damaged_again_and_again(folder):
  for expected in ('15.damaged', '15.damaged-again', '15.damaged-again-again'):
    harm_by_missing_manifest(folder / '15')
    state, warnings = restore(folder)
    assert_is(state, 10)
    assert warnings[0].endswith(f'{expected}.') and (folder / expected).is_dir()
    save(folder, 15)


def test_all_damaged_is_said_in_a_sentence_and_nothing_is_touched(folder):
  for step in (5, 10, 15):
    harm_by_missing_manifest(folder / str(step))
  with pytest.raises(UserError, match=r'None of the 3 checkpoints in .* can be read \(step 15: '):
    restore(folder)
  assert sorted(os.listdir(folder)) == ['10', '15', '5']


def test_another_recipe_is_not_taken_for_damage(folder):
  sentence = r'\(step 15: \S+ is of the shape \[.*\], and by this recipe \[.*640.*\]\); if they'
  with pytest.raises(UserError, match=f'{sentence} were trained with another recipe, give that'):
    restore(folder, like(features=640))
  with pytest.raises(UserError, match='if they were trained with another recipe, give that one'):
    restore(folder, like().replace(ema=None))
  assert sorted(os.listdir(folder)) == ['10', '15', '5']


def say_format(step, version):
  """Makes a checkpoint say so of itself, and prove it by its checksum."""
  path = step / 'about' / 'metadata'
  about = json.loads(path.read_text()) | {'format_version': version}
  del about['checksum']
  path.write_text(json.dumps({**about, 'checksum': checksums.of_json(about)}))


def test_newer_format_is_refused_whatever_it_holds(folder):
  say_format(folder / '15', checkpoints.FORMAT_VERSION + 1)
  shutil.rmtree(folder / '15' / 'state')
  with pytest.raises(UserError, match=r'15 has format 2, .* reads up to 1; install a newer one'):
    restore(folder)
  assert sorted(os.listdir(folder)) == ['10', '15', '5']


def test_unfinished_save_of_a_killed_run_is_no_checkpoint_and_no_obstacle(folder):
  unfinished = folder / '20.orbax-checkpoint-tmp'
  shutil.copytree(folder / '15', unfinished)
  harm_by_missing_manifest(unfinished)
  state, warnings = restore(folder)
  assert_is(state, 15)
  assert not warnings
  save(folder, 20)
  assert_is(restore(folder)[0], 20)
  assert not unfinished.exists()


def test_failed_save_is_reported_by_the_next_call(folder):
  with Checkpoints(str(folder), keep=3) as saved:
    saved.save(state_at(20, features=400_000))  # So large that it is being written for a while.
    (folder / '20' / 'in the way').mkdir(parents=True)
    with pytest.raises(UserError, match=f'could not be saved in {folder} .*Cannot rename'):
      saved.wait()
