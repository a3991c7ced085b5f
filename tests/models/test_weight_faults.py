"""Files of weights, mutated, garbage or meant to do harm: loaded, or refused in a sentence."""

import io
import json
import tracemalloc
import zipfile

import h5py
from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from safetensors.numpy import save

from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained_files


def npz():
  stream = io.BytesIO()
  np.savez(stream, kernel=np.arange(12, dtype=np.float32).reshape(3, 4), bias=np.ones(4))
  return stream.getvalue()


def h5():
  stream = io.BytesIO()
  with h5py.File(stream, 'w') as file:
    file['layers/dense/vars/0'] = np.arange(12, dtype=np.float32).reshape(3, 4)
    file['layers/dense/vars/1'] = np.ones(4)
  return stream.getvalue()


def keras():
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w') as archive:
    archive.writestr('model.weights.h5', h5())
  return stream.getvalue()


VALID = {
  '.npz': npz(),
  '.safetensors': save({'kernel': np.ones((3, 4), np.float32), 'bias': np.ones(4)}),
  '.h5': h5(),
  '.keras': keras(),
}


@pytest.mark.parametrize('ending', VALID)
@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(
  edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=4),
  garbage=st.none() | st.binary(max_size=60),
)
def test_mutated_file_is_loaded_or_refused_in_a_sentence(tmp_path_factory, ending, edits, garbage):
  content = bytearray(VALID[ending])
  for where, replacement in edits:
    at = int(where * len(content))
    content[at : at + len(replacement)] = replacement
  path = tmp_path_factory.getbasetemp() / f'mutated{ending}'
  path.write_bytes(bytes(content) if garbage is None else garbage)
  try:
    found = pretrained_files.read(path)
  except UserError as error:
    assert str(path) in str(error)
  else:
    assert all(isinstance(array, np.ndarray) for array in found.values())


def npy_of(side):
  """The header alone of a square array."""
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    stream, {'descr': '<f4', 'fortran_order': False, 'shape': (side, side)}
  )
  return stream.getvalue()


@pytest.mark.parametrize('side', [10**4, 10**6])  # 400 MB, which there may be room for; 4 TB.
def test_shapes_without_content_are_refused_before_there_is_room_made_for_them(tmp_path, side):
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    archive.writestr('kernel.npy', npy_of(side))
  header = {'kernel': {'dtype': 'F32', 'shape': [side, side], 'data_offsets': [0, 4 * side**2]}}
  text = json.dumps(header).encode()
  (tmp_path / 'a.safetensors').write_bytes(len(text).to_bytes(8, 'little') + text)
  with h5py.File(tmp_path / 'a.h5', 'w') as file:
    file.create_dataset('kernel', (side, side), 'f4', chunks=(1000, 1000))
  sentences = {
    'npz': rf'kernel.npy has the shape \({side}, {side}\), of which it holds 0 bytes',
    'safetensors': 'cannot be read as a .safetensors file',
    'h5': r'would unpack to \d+\.\d GB',
  }
  for ending, sentence in sentences.items():
    tracemalloc.start()
    try:
      with pytest.raises(UserError, match=rf'a\.{ending}.*{sentence}'):
        pretrained_files.read(tmp_path / f'a.{ending}')
      assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
      tracemalloc.stop()


def test_h5_gives_nothing_of_other_files(tmp_path):
  (tmp_path / 'secret').write_bytes(bytes(48))
  with h5py.File(tmp_path / 'secret.h5', 'w') as file:
    file['kernel'] = np.zeros(12, np.float32)
  layout = h5py.VirtualLayout((12,), np.float32)
  layout[:] = h5py.VirtualSource(tmp_path / 'secret.h5', 'kernel', (12,))
  with h5py.File(tmp_path / 'storage.h5', 'w') as file:
    external = [(str(tmp_path / 'secret'), 0, 48)]
    file.create_dataset('kernel', 12, np.float32, external=external)
  with h5py.File(tmp_path / 'virtual.h5', 'w') as file:
    file.create_virtual_dataset('kernel', layout)
  with h5py.File(tmp_path / 'link.h5', 'w') as file:
    file['layer'] = h5py.ExternalLink(str(tmp_path / 'secret.h5'), '/')
    file.attrs['layer_names'] = [b'layer']
  with h5py.File(tmp_path / 'secret.h5', 'a') as file:
    file.attrs['weight_names'] = [b'kernel']
  for name in ('storage', 'virtual', 'link'):
    with pytest.raises(UserError, match=rf'{name}\.h5.*lie in another file'):
      pretrained_files.read(tmp_path / f'{name}.h5')


@pytest.mark.parametrize(('ending', 'name'), [('npz', 'kernel.npy'), ('keras', 'model.weights.h5')])
def test_zip_that_would_fill_the_memory_is_refused_before(tmp_path, ending, name):
  with zipfile.ZipFile(tmp_path / f'a.{ending}', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, bytes(160_000_000))
  with pytest.raises(UserError, match=r'would unpack to 0\.2 GB'):
    pretrained_files.read(tmp_path / f'a.{ending}')
