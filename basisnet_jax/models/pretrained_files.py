"""Files of tensors as numpy arrays: PyTorch's, safetensors, Keras', npz."""

from collections.abc import Iterator
import io
import math
import os
import pathlib
import pickle
import re
import zipfile

import h5py
import numpy as np
from safetensors.numpy import load_file

from basisnet_jax.errors import UserError

# Unpacked bytes that are allowed however small the file is.
_SMALL = 100_000_000


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads all tensors of a file, by the names in it. No code in the file is executed.

  Args:
    path: named .pth, .pt, .bin (a PyTorch state dict, also inside a checkpoint's
      'state_dict' or 'model'; needs PyTorch), .safetensors, .npz, .keras, or .h5 (Keras 3's
      `.weights.h5`, or the layers by name of Keras 2 and `keras.applications`).

  Returns:
    {name: array}, floating-point arrays as float32. Keras' come in the order of the layers
    ('block_1_expand/kernel'), or, if the file has only classes and counters
    ('layers/conv2d_3/vars/0'), in that order within each class, without the optimizer's.

  Raises:
    UserError: the file does not exist, has an unknown suffix, is damaged, holds more than tensors,
      or needs PyTorch.
  """
  readers = {
    '.pth': _read_torch,
    '.pt': _read_torch,
    '.bin': _read_torch,
    '.safetensors': load_file,
    '.npz': _read_npz,
    '.h5': _read_h5,
    '.keras': _read_keras,
  }
  if not isinstance(path, str | os.PathLike):
    raise UserError(f'path is the name of a file, and this is {type(path).__name__}.')
  suffix = pathlib.Path(path).suffix
  if suffix not in readers:
    raise UserError(f"'{path}' is of an unknown kind; its name must end in one of {[*readers]}.")
  if not os.path.isfile(path):
    raise UserError(f"There is no file '{path}': check the path.")
  try:
    tensors = readers[suffix](path)
  except UserError:
    raise
  except Exception as error:  # The libraries raise whatever the damage leads to.
    raise UserError(
      f"'{path}' cannot be read as a {suffix} file ({type(error).__name__}): it is damaged or "
      'of another kind; download or save it again.'
    ) from error
  return {name: _float32(array) for name, array in tensors.items()}


def _float32(array: np.ndarray) -> np.ndarray:
  # The numpy dtype of bfloat16 is ml_dtypes', whose kind is 'V'.
  fraction = array.dtype.kind == 'f' or array.dtype.name == 'bfloat16'
  return array.astype(np.float32) if fraction else array


def _read_torch(path) -> dict[str, np.ndarray]:
  try:
    import torch  # Only for these files: it is large.
  except ImportError as error:
    raise UserError(
      f"'{path}' needs PyTorch to be read: 'pip install torch', or convert it to .safetensors."
    ) from error
  if zipfile.is_zipfile(path):  # Files from before PyTorch 1.6 are not.
    with zipfile.ZipFile(path) as archive:
      _check_size(path, sum(entry.file_size for entry in archive.infolist()))
  try:
    loaded = torch.load(path, weights_only=True, map_location='cpu')
  except pickle.UnpicklingError as error:
    raise UserError(
      f"'{path}' is damaged or holds more than tensors, which could execute code and is not "
      "read; save the model's state_dict() alone."
    ) from error
  for key in ('state_dict', 'model'):
    if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
      loaded = loaded[key]
  if not (isinstance(loaded, dict) and all(map(torch.is_tensor, loaded.values()))):
    raise UserError(f"'{path}' holds no state dict; save the model's state_dict() alone.")
  # A view can have any size, such as one number repeated.
  _check_size(path, sum(tensor.numel() * tensor.element_size() for tensor in loaded.values()))
  tensors = {}
  for name, tensor in loaded.items():
    if tensor.is_floating_point():  # numpy() does not support bfloat16.
      tensor = tensor.float()
    # DataParallel puts 'module.' before every name.
    tensors[name.removeprefix('module.')] = tensor.detach().numpy()
  return tensors


def _read_npz(path) -> dict[str, np.ndarray]:
  # Opened here, because numpy leaves a damaged file open.
  with open(path, 'rb') as stream:
    with zipfile.ZipFile(stream) as archive:
      _check_size(path, sum(entry.file_size for entry in archive.infolist()))
      for entry in archive.infolist():
        _check_npy(path, archive, entry)
    stream.seek(0)
    with np.load(stream, allow_pickle=False) as file:
      return dict(file)


def _check_npy(path, archive, entry):
  """Refuses an array that is larger than its stored data: numpy would allocate it first."""
  with archive.open(entry) as member:
    version = np.lib.format.read_magic(member)
    headers = {(1, 0): np.lib.format.read_array_header_1_0}
    shape, _, dtype = headers.get(version, np.lib.format.read_array_header_2_0)(member)
    _check_stored(path, entry.filename, shape, dtype, entry.file_size - member.tell())


def _check_stored(path, name, shape, dtype, stored):
  if math.prod(shape) * dtype.itemsize > stored:
    raise UserError(
      f"'{path}' says that {name} has the shape {shape}, of which it holds {stored:,} bytes: it is "
      'damaged or meant to do harm.'
    )


def _check_size(path, unpacked):
  # Weights hardly compress; what unpacks to a hundred times its size is meant to fill memory.
  if unpacked > 100 * os.path.getsize(path) + _SMALL:
    raise UserError(
      f"'{path}' would unpack to {unpacked / 1e9:.1f} GB, which no file of weights of its size "
      'does: it is damaged or meant to do harm.'
    )


def _read_keras(path) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(path) as archive:
    _check_size(path, archive.getinfo('model.weights.h5').file_size)
    return _read_h5(path, io.BytesIO(archive.read('model.weights.h5')))


def _read_h5(path, stream=None) -> dict[str, np.ndarray]:
  with h5py.File(stream or path, 'r') as file:
    root = file.get('model_weights', file)  # A whole Keras 2 model keeps its weights there.
    datasets = dict(_by_layer(root) if 'layer_names' in root.attrs else _by_class(root))
    for dataset in datasets.values():
      elsewhere = dataset.external or dataset.is_virtual or dataset.file.filename != file.filename
      if elsewhere or dataset.dtype.hasobject:
        raise UserError(
          f"'{path}' has weights that are no numbers or lie in another file, which is not read; "
          'save them again.'
        )
    # For some, nothing but a shape is stored.
    _check_size(path, sum(dataset.nbytes for dataset in datasets.values()))
    return {name: _array(dataset) for name, dataset in datasets.items()}


def _by_layer(root) -> Iterator[tuple[str, h5py.Dataset]]:
  """Keras 2's form: lists of the layers' and their weights' names, in order."""
  text = lambda name: name.decode() if isinstance(name, bytes) else name  # noqa: E731
  for layer in map(text, root.attrs['layer_names']):
    for weight in map(text, root[layer].attrs['weight_names']):
      variable = weight.rsplit('/', 1)[-1].removesuffix(':0')
      yield f'{layer}/{variable}', root[layer][weight]


def _by_class(root) -> Iterator[tuple[str, h5py.Dataset]]:
  """Keras 3's form: groups named by class and counter, whose datasets are 0, 1, ..."""
  found = {}
  root.visititems(
    lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None
  )
  for name in sorted(found, key=_natural):
    if not name.startswith('optimizer/'):
      yield name, found[name]


def _array(dataset: h5py.Dataset) -> np.ndarray:
  # Keras writes bfloat16 as two opaque bytes, and an attribute that says so.
  array = dataset[()]
  return array.view('bfloat16') if dataset.attrs.get('dtype') == 'bfloat16' else array


def _natural(name: str) -> list:
  """Sort key that puts 'conv2d', 'conv2d_2', 'conv2d_10' in this order."""
  return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', name)]
