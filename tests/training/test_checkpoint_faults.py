"""Checkpoints whose files change, one bit or one word of their metadata at a time; and old ones."""

import json
import pathlib
import random
import shutil

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_checkpoints import assert_is, restore, save, state_at
import tiny

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.training import checksums
from basisnet_jax.training.checkpoints import Checkpoints
from basisnet_jax.training.state import TrainState

STORED = pathlib.Path(__file__).parent / 'stored' / 'format_1'


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """A folder with steps 5 and 10, of states so small that a flipped bit often hits an array."""
  folder = tmp_path_factory.mktemp('checkpoints')
  save(folder, 5, 10)
  return folder


def kinds(step):
  """{what a file of a checkpoint is: the files}; names without meaning are one kind."""
  found = {}
  for path in sorted(path for path in step.rglob('*') if path.is_file()):
    parts = path.relative_to(step).parts
    name = '/'.join('...' if len(part) == 32 else part for part in parts)
    found.setdefault(name, []).append(path)
  return found


def assert_whole(folder):
  """The newest state is read as it was saved, or the one before it, which is said."""
  state, warnings = restore(folder)
  assert_is(state, 5 if warnings else 10)
  return bool(warnings)


@pytest.mark.parametrize('seed', range(2))
@pytest.mark.parametrize('change', ['flipped bit', 'cut'])
def test_no_file_of_a_checkpoint_can_change_what_is_restored(two, tmp_path, seed, change):
  chance = random.Random(seed)
  for kind in kinds(two / '10'):
    folder = tmp_path / kind.replace('/', '_')
    shutil.copytree(two, folder)
    path = chance.choice(kinds(folder / '10')[kind])
    content = bytearray(path.read_bytes())
    at = chance.randrange(len(content))
    if change == 'cut':
      del content[at:]
    else:
      content[at] ^= 1 << chance.randrange(8)
    path.write_bytes(content)
    assert_whole(folder)


def test_flipped_bits_of_the_arrays_are_noticed(two, tmp_path):
  # The largest files hold the arrays, and what they were before they were merged.
  chance, noticed = random.Random(0), 0
  for number in range(10):
    folder = tmp_path / str(number)
    shutil.copytree(two, folder)
    for path in (folder / '10').rglob('ocdbt.process_0/d/*'):
      content = bytearray(path.read_bytes())
      content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
      path.write_bytes(content)
    noticed += assert_whole(folder)
  assert noticed > 5


def test_warning_names_the_array(two, tmp_path, monkeypatch):
  shutil.copytree(two, tmp_path / 'copy')
  path = tmp_path / 'copy' / '10' / 'about' / 'metadata'
  about = json.loads(path.read_text())
  about['checksums']['params/conv/kernel'] ^= 1
  del about['checksum']  # As of before it was there.
  path.write_text(json.dumps(about))
  _, (warning,) = restore(tmp_path / 'copy')
  assert '1 arrays are not what was saved, such as params/conv/kernel' in warning


@pytest.mark.parametrize('digit', range(2, 10))
def test_changed_digit_of_the_format_is_damage(two, tmp_path, digit):
  # With the file's own checksum, and as of before it had one.
  for name in ('new', 'old'):
    folder = tmp_path / name
    shutil.copytree(two, folder)
    path = folder / '10' / 'about' / 'metadata'
    about = json.loads(path.read_text()) | {'format_version': digit}
    if name == 'old':
      del about['checksum']
    path.write_text(json.dumps(about))
    assert assert_whole(folder)


def test_checksum_is_of_the_values_their_places_and_nothing_else():
  # A sharding over all devices, a part each, and one device's.
  x = np.random.default_rng(0).normal(size=(16, 6)).astype(np.float32)
  mesh = sharding.create_mesh()
  places = [sharding.over_data(mesh), sharding.replicated(mesh), jax.devices()[3]]
  (expected,) = {checksums.of_tree({'x': jax.device_put(x, place)})['x'] for place in places}
  other = [x[::-1], x.T, np.roll(x, 1), -x]
  for bit in range(32):
    flipped = x.copy()
    flipped.view(np.uint32)[7, 2] ^= np.uint32(1) << np.uint32(bit)
    other.append(flipped)
  assert expected not in [checksums.of_tree({'x': jnp.asarray(o)})['x'] for o in other]
  kinds = [x.astype(jnp.bfloat16), x > 0, x.astype(np.int8), np.int32(7), np.zeros(0, np.float32)]
  assert len(set(checksums.of_tree(list(map(jnp.asarray, kinds))).values())) == len(kinds)


@pytest.mark.parametrize('dtype', [bool, np.int8, np.uint16, jnp.bfloat16, np.float32])
@pytest.mark.parametrize('shape', [(), (0, 2), (3, 1, 5), (70_001,)], ids=str)
def test_checksum_in_memory_is_the_one_that_devices_compute(dtype, shape):
  x = np.random.default_rng(0).normal(size=shape)
  x = jnp.asarray(x > 0 if dtype is bool else (50 * x).astype(dtype))
  assert checksums.of_tree({'x': x})['x'] == int(checksums._on_devices(x))


VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
  lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
  max_leaves=4,
)


@settings(max_examples=20, derandomize=True, deadline=None, database=None)
@given(st.data())
def test_metadata_may_say_anything(two, tmp_path_factory, data):
  folder = tmp_path_factory.mktemp('mutated') / 'copy'
  shutil.copytree(two, folder)
  files = ['about/metadata', '_CHECKPOINT_METADATA', 'state/_METADATA', 'state/_sharding']
  path = folder / '10' / data.draw(st.sampled_from(files))
  content = json.loads(path.read_text())
  inner = content
  while isinstance(inner, dict) and inner:  # Anywhere in it.
    key = data.draw(st.sampled_from(sorted(inner)))
    if isinstance(inner[key], dict) and inner[key] and data.draw(st.booleans()):
      inner = inner[key]
      continue
    if data.draw(st.booleans()):
      del inner[key]
    else:
      inner[key] = data.draw(VALUES)
    break
  path.write_text(json.dumps(content))
  with Checkpoints(str(folder), keep=3) as saved:
    assert set(map(type, saved.metrics().values())) <= {int, float}
  assert_whole(folder)


def stored_state():
  """What is stored; made by `Checkpoints(STORED, keep=1).save(stored_state(), metrics=...)`."""
  params = {
    'kernel': jnp.asarray([[1.5, -2.25, 3e-30], [4.0, 5.0, 6.125]], jnp.float32),
    'bases': jnp.asarray([0.5, -1.0], jnp.bfloat16),
  }
  return TrainState(
    step=jnp.int32(7),
    params=params,
    batch_stats={'mean': jnp.asarray([0.1], jnp.float32)},
    opt_state=optax.sgd(0.1, momentum=0.9).init(params),
    ema=None,
  )


def test_checkpoint_of_format_1_is_read_exactly(tmp_path):
  # Made before there were checksums, by Orbax 0.12.8.
  folder = shutil.copytree(STORED, tmp_path / 'copy')
  wanted = sharding.abstract(jax.eval_shape(stored_state), sharding.create_mesh())
  with Checkpoints(str(folder), keep=1) as saved:
    assert saved.metrics() == {'top1': 0.5}
    found = tiny.leaves(saved.restore(wanted, warn=pytest.fail))
  expected = tiny.leaves(stored_state())
  assert found.keys() == expected.keys()
  for path, value in expected.items():
    assert found[path].dtype == value.dtype
    np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_file_in_the_place_of_the_folder_is_one_clear_sentence(tmp_path):
  (tmp_path / 'checkpoints').write_text('')
  with pytest.raises(UserError, match='checkpoints can be neither read nor made .*it is a file'):
    Checkpoints(str(tmp_path / 'checkpoints'), keep=1)


def test_folder_replaced_by_a_file_in_the_middle_ends_the_run_and_harms_nothing(tmp_path):
  folder, aside = tmp_path / 'checkpoints', tmp_path / 'aside'
  with pytest.raises(UserError, match=f'could not be saved in {folder} .*Not a directory'):
    with Checkpoints(str(folder), keep=3) as saved:
      saved.save(state_at(5))
      saved.wait()
      folder.rename(aside)
      folder.write_text('')
      saved.save(state_at(10))
      saved.wait()
  assert_is(restore(aside)[0], 5)


def test_folder_removed_in_the_middle_is_made_again(tmp_path):
  folder = tmp_path / 'checkpoints'
  with Checkpoints(str(folder), keep=3) as saved:
    saved.save(state_at(5))
    saved.wait()
    shutil.rmtree(folder)
    saved.save(state_at(10))
  assert_is(restore(folder)[0], 10)
