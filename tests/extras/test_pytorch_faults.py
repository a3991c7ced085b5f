"""PyTorch's files, mutated or meant to do harm: loaded, or refused in a sentence, and never run."""

import io
import os
import pathlib
import pickle
import struct
import zipfile

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import torch

from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained_files

NUMBERS = 10_007  # Seen in the pickle as four bytes that nothing else has.


def saved(content, legacy=False):
  """The bytes of torch.save; the older form is pickles and numbers one after another."""
  stream = io.BytesIO()
  torch.save(content, stream, _use_new_zipfile_serialization=not legacy)
  return stream.getvalue()


def with_pickle(file, change):
  """A file in the newer form with its pickle changed, and all its checksums right."""
  stream = io.BytesIO()
  with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(stream, 'w') as new:
    for name in old.namelist():
      content = old.read(name)
      new.writestr(name, change(content) if name.endswith('data.pkl') else content)
  return stream.getvalue()


def edited(content, edits):
  content = bytearray(content)
  for where, replacement in edits:
    at = int(where * len(content))
    content[at : at + len(replacement)] = replacement
  return bytes(content)


WEIGHTS = {'kernel': torch.arange(12.0).reshape(3, 4), 'bias': torch.ones(4)}
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=9)), max_size=4)


@pytest.mark.parametrize('form', ['pickle in the zip', 'zip', 'legacy'])
@settings(max_examples=150, derandomize=True, deadline=None, database=None)
@given(edits=EDITS)
def test_mutated_file_is_loaded_or_refused_in_a_sentence(tmp_path_factory, form, edits):
  file = saved(WEIGHTS, legacy=form == 'legacy')
  if form == 'pickle in the zip':
    file = with_pickle(file, lambda content: edited(content, edits))
  else:
    file = edited(file, edits)
  path = tmp_path_factory.getbasetemp() / 'mutated.pth'
  path.write_bytes(file)
  try:
    found = pretrained_files.read(path)
  except UserError as error:
    assert str(path) in str(error)
  else:
    assert all(isinstance(array, np.ndarray) for array in found.values())


class Call:
  """Unpickling it calls a function."""

  def __init__(self, function, *arguments):
    self.what = function, arguments

  def __reduce__(self):
    return self.what


@pytest.mark.parametrize('legacy', [False, True])
def test_no_function_that_a_pickle_names_is_called(tmp_path, legacy):
  marker, path = tmp_path / 'executed', tmp_path / 'weights.pth'
  code = f'open({str(marker)!r}, "w").close()'
  calls = [
    Call(eval, code),
    Call(exec, code),
    Call(os.system, f'touch {marker}'),
    Call(pathlib.Path.touch, marker),
    Call(getattr, Call(__import__, 'os'), 'getcwd'),
    Call(torch.load, str(path)),
    Call(torch.hub.load_state_dict_from_url, f'file://{marker}'),
  ]
  for call in calls:
    for content in (call, {'kernel': call}, {'state_dict': {**WEIGHTS, 'extra': [call]}}):
      path.write_bytes(saved(content, legacy))
      with pytest.raises(UserError, match='weights.pth.*could execute code'):
        pretrained_files.read(path)
      path.write_bytes(pickle.dumps(content))  # A pickle alone.
      with pytest.raises(UserError, match='weights.pth'):
        pretrained_files.read(path)
      assert not marker.exists()
  torch.load(io.BytesIO(saved(calls[0])), weights_only=False)
  assert marker.exists()  # They are as bad as they look.


@pytest.mark.parametrize('legacy', [False, True])
def test_sizes_beyond_the_file_are_refused(tmp_path, legacy):
  path = tmp_path / 'weights.pth'
  # One number, seen a million million times.
  path.write_bytes(saved({'kernel': torch.ones(1).expand(10**6, 10**6)}, legacy))
  with pytest.raises(UserError, match=r'would unpack to 4000\.0 GB'):
    pretrained_files.read(path)
  # A storage, a shape, or both, that are larger than what is there.
  file, number = saved({'kernel': torch.ones(NUMBERS)}, legacy), struct.pack('<H', NUMBERS)
  lie = lambda content: content.replace(number, b'\xff\xff')  # noqa: E731
  assert number in file
  path.write_bytes(lie(file) if legacy else with_pickle(file, lie))
  with pytest.raises(UserError, match='weights.pth'):
    pretrained_files.read(path)


def test_zip_that_would_fill_the_memory_is_refused_before(tmp_path):
  with zipfile.ZipFile(tmp_path / 'weights.pth', 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('archive/data/0', bytes(160_000_000))
  with pytest.raises(UserError, match=r'would unpack to 0\.2 GB'):
    pretrained_files.read(tmp_path / 'weights.pth')
