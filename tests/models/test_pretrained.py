"""Files under torchvision's names, written by hand here: what is read, and what is refused."""

import sys
import zipfile

from flax import linen as nn
from flax import traverse_util
import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from torchvision_file import CLASSES, create, random_leaves, state_dict

from basisnet_jax import models
from basisnet_jax.errors import UserError
from basisnet_jax.models import pretrained
from basisnet_jax.models.mobilenet_v2 import MobileNetV2


def loaded(path, network=None, **options):
  variables = pretrained.load(network or create(), path, **options)
  return traverse_util.flatten_dict(variables, sep='/')


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for path, array in expected.items():
    assert found[path].dtype == np.float32
    np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_every_number_comes_back_from_npz_and_safetensors(tmp_path):
  file = state_dict(random_leaves())
  np.savez(tmp_path / 'weights.npz', **file)
  save_file(file, tmp_path / 'weights.safetensors')
  assert_equal(loaded(tmp_path / 'weights.npz'), random_leaves())
  assert_equal(loaded(str(tmp_path / 'weights.safetensors')), random_leaves())
  assert set(pretrained.read(tmp_path / 'weights.npz')) == set(file)


@pytest.mark.parametrize('dtype', [np.float16, jnp.bfloat16, np.float64])
def test_other_precision_becomes_float32(dtype, tmp_path):
  leaves = {path: array.astype(dtype) for path, array in random_leaves().items()}
  save_file(state_dict(leaves), tmp_path / 'weights.safetensors')
  expected = {path: array.astype(np.float32) for path, array in leaves.items()}
  assert_equal(loaded(tmp_path / 'weights.safetensors'), expected)


def test_kernels_that_lie_as_ours_are_left_so(tmp_path):
  file = state_dict(random_leaves())
  for name, array in file.items():
    file[name] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
  np.savez(tmp_path / 'weights.npz', **file)
  assert_equal(loaded(tmp_path / 'weights.npz'), random_leaves())


def test_classifier_is_left_out_where_the_classes_are_others(tmp_path):
  np.savez(tmp_path / 'weights.npz', **state_dict(random_leaves()))
  network = create(num_classes=10)
  with pytest.raises(UserError, match=r'2 of another shape.*classifier=False') as error:
    loaded(tmp_path / 'weights.npz', network)
  assert 'classifier.1.weight (7, 1280) for params/classifier/kernel (1280, 10)' in str(error.value)
  body = {path: a for path, a in random_leaves().items() if 'classifier' not in path}
  assert_equal(loaded(tmp_path / 'weights.npz', network, classifier=False), body)
  file = state_dict(random_leaves())
  headless = {name: array for name, array in file.items() if 'classifier' not in name}
  np.savez(tmp_path / 'headless.npz', **headless)
  assert_equal(loaded(tmp_path / 'headless.npz', network, classifier=False), body)


def test_background_of_1001_classes_is_dropped(tmp_path):
  leaves = random_leaves(1001)
  np.savez(tmp_path / 'weights.npz', **state_dict(leaves))
  found = loaded(tmp_path / 'weights.npz', create(1000))
  kernel, bias = (leaves[f'params/classifier/{leaf}'] for leaf in ('kernel', 'bias'))
  np.testing.assert_array_equal(found['params/classifier/kernel'], kernel[:, 1:])
  np.testing.assert_array_equal(found['params/classifier/bias'], bias[1:])
  assert_equal(loaded(tmp_path / 'weights.npz', create(1001)), leaves)


def mistaken(path, change):
  file = state_dict(random_leaves())
  change(file)
  np.savez(path, **file)
  with pytest.raises(UserError, match='does not fit this MobileNetV2') as error:
    loaded(path)
  message = str(error.value)
  assert str(path) in message and '\n' not in message and len(message) < 1000
  return message


def test_a_missing_tensor_is_named(tmp_path):
  message = mistaken(tmp_path / 'a.npz', lambda file: file.pop('features.3.conv.0.1.bias'))
  assert '1 missing (features.3.conv.0.1.bias for params/block_3/expand/norm/bias (' in message
  assert 'unknown' not in message and 'another shape' not in message


def test_an_unknown_tensor_is_named(tmp_path):
  message = mistaken(tmp_path / 'a.npz', lambda file: file.update({'x.y': np.zeros((2, 3))}))
  assert '1 unknown (x.y (2, 3)).' in message
  assert 'missing' not in message


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path):
  name = 'features.1.conv.0.0.weight'
  message = mistaken(tmp_path / 'a.npz', lambda file: file.update({name: np.zeros((8, 1, 5, 5))}))
  ours = 'params/block_1/depthwise/conv/kernel (3, 3, 1, 8)'
  assert f'1 of another shape ({name} (8, 1, 5, 5) for {ours})' in message


def test_many_mistakes_are_counted_and_the_first_named(tmp_path):
  def change(file):
    for name in [name for name in file if name.startswith('features.17.')]:
      file[f'lost.{name}'] = file.pop(name)

  message = mistaken(tmp_path / 'a.npz', change)
  assert '15 missing (' in message and message.count(' for ') < 15 and ', ...)' in message


def test_a_network_without_the_files_layers_is_refused(tmp_path):
  np.savez(tmp_path / 'v2.npz', **state_dict(random_leaves()))
  network = models.create('mobilenet_v3_large', num_classes=CLASSES, width=0.1)
  with pytest.raises(UserError, match='v2.npz.*MobileNetV2.* does not fit this MobileNetV3'):
    loaded(tmp_path / 'v2.npz', network)


@pytest.mark.parametrize(
  'network',
  [
    models.create('vit_tiny', num_classes=CLASSES),
    models.create('condconv_mobilenet_v2', num_classes=CLASSES),
    nn.Dense(CLASSES),
    MobileNetV2,
    'mobilenet_v2',
  ],
  ids=lambda network: type(network).__name__,
)
def test_networks_that_no_weights_are_read_for_are_refused(network, tmp_path):
  np.savez(tmp_path / 'weights.npz', **state_dict(random_leaves()))
  with pytest.raises(UserError) as refused:
    pretrained.load(network, tmp_path / 'weights.npz')
  assert str(refused.value) == (
    f'No weights are read for a network of the type {type(network).__name__}; make one by '
    "models.create('mobilenet_v2', ...): MobileNetV2, MobileNetV3, EfficientNet, ResNet."
  )


@pytest.mark.parametrize('path', [None, 3, b'weights.npz'])
def test_what_is_no_path_is_told(path):
  kind = type(path).__name__
  with pytest.raises(UserError, match=f'^path is the name of a file, and this is {kind}.$'):
    loaded(path)


def test_names_of_no_library_are_shown(tmp_path):
  np.savez(tmp_path / 'a.npz', foo=np.zeros(3), bar=np.zeros(3))
  with pytest.raises(UserError, match=r"a.npz.*no known library.*\['foo', 'bar'\].*torchvision"):
    loaded(tmp_path / 'a.npz')


@pytest.mark.parametrize('ending', ['.safetensors', '.npz', '.h5', '.weights.h5', '.keras'])
def test_damaged_file_is_one_clear_sentence(ending, tmp_path):
  path = tmp_path / f'weights{ending}'
  path.write_bytes(b'not at all what the name says' * 100)
  with pytest.raises(UserError, match=rf"'.*weights{ending}' cannot be read as .*damaged"):
    pretrained.read(path)


def test_keras_archive_without_weights_is_one_clear_sentence(tmp_path):
  path = tmp_path / 'model.keras'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('config.json', '{}')
  with pytest.raises(UserError, match='model.keras.* cannot be read as a .keras file'):
    pretrained.read(path)


def test_truncated_file_is_one_clear_sentence(tmp_path):
  file = state_dict(random_leaves())
  save_file(file, tmp_path / 'a.safetensors')
  np.savez(tmp_path / 'a.npz', **file)
  with h5py.File(tmp_path / 'a.h5', 'w') as h5:
    h5['layers/dense/vars/0'] = np.zeros((100, 1000))
  for path in (tmp_path / 'a.safetensors', tmp_path / 'a.npz', tmp_path / 'a.h5'):
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match=f'{path.name}.* cannot be read'):
      pretrained.read(path)


def test_missing_file_and_unknown_ending_are_one_clear_sentence(tmp_path):
  with pytest.raises(UserError, match="There is no file '.*none.npz'"):
    pretrained.read(tmp_path / 'none.npz')
  (tmp_path / 'weights.onnx').touch()
  with pytest.raises(UserError, match=r"weights.onnx' is of an unknown kind.*'.safetensors'"):
    pretrained.read(tmp_path / 'weights.onnx')


class Print:
  """Unpickling it prints."""

  def __reduce__(self):
    return print, ('executed',)


def test_npz_that_would_execute_code_is_refused_unexecuted(tmp_path, capsys):
  np.savez(tmp_path / 'a.npz', a=np.array([Print()], object))
  with pytest.raises(UserError, match='a.npz'):
    pretrained.read(tmp_path / 'a.npz')
  assert 'executed' not in capsys.readouterr().out
  np.load(tmp_path / 'a.npz', allow_pickle=True)['a']
  assert 'executed' in capsys.readouterr().out  # It is as bad as it looks.


def test_without_pytorch_the_way_out_is_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)  # Importing it fails.
  (tmp_path / 'weights.pth').write_bytes(b'')
  with pytest.raises(UserError, match='weights.pth.*pip install torch.*safetensors'):
    pretrained.read(tmp_path / 'weights.pth')


def test_optimizer_of_keras_is_left_out(tmp_path):
  with h5py.File(tmp_path / 'a.weights.h5', 'w') as file:
    for name in ('layers/conv2d_10', 'layers/conv2d_2', 'layers/conv2d', 'optimizer'):
      file[f'{name}/vars/0'] = np.ones(2)
  assert list(pretrained.read(tmp_path / 'a.weights.h5')) == [
    f'layers/{name}/vars/0' for name in ('conv2d', 'conv2d_2', 'conv2d_10')
  ]
