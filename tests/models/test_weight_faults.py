"""Files of weights, mutated, garbage or meant to do harm: loaded, or refused in a sentence."""

import io
import json
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


def absurd_npy():
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    stream, {'descr': '<f4', 'fortran_order': False, 'shape': (10**6, 10**6)}
  )
  return stream.getvalue()


def test_shapes_beyond_any_memory_are_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
    archive.writestr('kernel.npy', absurd_npy())
  header = {'kernel': {'dtype': 'F32', 'shape': [10**6, 10**6], 'data_offsets': [0, 4 * 10**12]}}
  text = json.dumps(header).encode()
  (tmp_path / 'a.safetensors').write_bytes(len(text).to_bytes(8, 'little') + text)
  with h5py.File(tmp_path / 'a.h5', 'w') as file:  # Nothing is stored of it.
    file.create_dataset('kernel', (10**6, 10**6), 'f4', chunks=(1000, 1000))
  for ending in ('npz', 'safetensors', 'h5'):
    with pytest.raises(UserError, match=rf'a\.{ending}'):
      pretrained_files.read(tmp_path / f'a.{ending}')


@pytest.mark.parametrize(('ending', 'name'), [('npz', 'kernel.npy'), ('keras', 'model.weights.h5')])
def test_zip_that_would_fill_the_memory_is_refused_before(tmp_path, ending, name):
  with zipfile.ZipFile(tmp_path / f'a.{ending}', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, bytes(300_000_000))
  with pytest.raises(UserError, match=r'would unpack to 0\.3 GB'):
    pretrained_files.read(tmp_path / f'a.{ending}')
