"""The runner of exports: what it sees of photos, against `photos`, and whom it asks."""

import functools
import json
import sys
import types

import jax
import jax.numpy as jnp
from kinds_of_photos import KINDS, encoded
import numpy as np
from PIL import Image
import pytest

from basisnet_jax import photos
from basisnet_jax.errors import UserError
from basisnet_jax.inference import exporting, run_export

RESOLUTION = 24


@pytest.fixture
def about(monkeypatch):
  """What model.json says of the images; tests change it."""
  told = {'crop': 0.875, 'resolution': RESOLUTION, 'resize': 'bicubic'}
  monkeypatch.setattr(run_export, 'about', lambda: told)
  return told


@pytest.mark.parametrize('kind', KINDS)
def test_it_sees_of_each_photo_what_predict_sees(tmp_path, about, kind):
  path = tmp_path / 'photo'
  path.write_bytes(encoded(kind))
  for method in ('bilinear', 'bicubic'):
    about['resize'] = method
    wanted = photos.central_square(photos.read(path), RESOLUTION, about['crop'], method)
    found = np.rint((run_export.pixels(path) + 1) * 127.5)
    np.testing.assert_array_equal(found, wanted[None])


def test_what_predict_refuses_it_refuses(tmp_path, about):
  path = tmp_path / 'photo.tiff'
  Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
  with pytest.raises(UserError, match='decimal numbers'):
    photos.read(path)
  with pytest.raises(ValueError, match='decimal numbers'):
    run_export.pixels(path)


WELL = {
  'formats': ['stablehlo'], 'labels': ['a', 'b'], 'threshold': 0.5,
  'crop': 1.0, 'resolution': RESOLUTION, 'resize': 'bilinear',
  'programs': {'network': {'inputs': {'images': [RESOLUTION] * 2}, 'outputs': ['probabilities']}},
}  # fmt: skip


@pytest.mark.parametrize(
  'told',
  [
    {},
    [],
    None,
    {'model_config': {'class_name': 'Sequential'}},
    {name: value for name, value in WELL.items() if name != 'labels'},
    WELL | {'threshold': '0.5'},
    WELL | {'crop': -1},
    WELL | {'resolution': 24.5},
    WELL | {'resize': 'nearest'},
    WELL | {'formats': ['onnx', 'caffe']},
    WELL | {'programs': {'network': None}},
  ],
  ids=repr,
)
def test_a_model_json_of_others_is_told(tmp_path, monkeypatch, told):
  (tmp_path / 'model.json').write_text(json.dumps(told))
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  monkeypatch.setattr(run_export, 'about', functools.cache(run_export.about.__wrapped__))
  with pytest.raises(SystemExit, match=r'model\.json is broken, .*it is not what an export writes'):
    run_export.start('photo.jpg')


def test_a_program_that_can_be_read_but_not_run_is_told(tmp_path, monkeypatch):
  program = exporting.Program(
    'network', lambda x: (x.mean((1, 2, 3)),), {'images': (RESOLUTION, RESOLUTION, 3)}, ('mean',)
  )
  data = exporting.stablehlo(program)
  assert data.count(b'ML\xefR') == 1  # How MLIR's bytes begin.
  (tmp_path / 'network.stablehlo').write_bytes(data.replace(b'ML\xefR', b'ML\xefX'))
  (tmp_path / 'photo.png').write_bytes(encoded('RGB'))
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  monkeypatch.setattr(run_export, 'about', lambda: WELL)
  with pytest.raises(SystemExit, match=r'^The network of .* is broken, or does not go .*\.$'):
    run_export.start(tmp_path / 'photo.png')


def test_other_labels_than_classes_are_told(tmp_path, monkeypatch):
  program = exporting.Program(
    'network',
    lambda x: (jnp.ones((x.shape[0], 3)), jnp.ones(x.shape[:1])),
    {'images': (RESOLUTION, RESOLUTION, 3)},
    ('probabilities', 'confidence'),
  )
  told = WELL | {'programs': {'network': {'inputs': program.inputs, 'outputs': program.outputs}}}
  (tmp_path / 'network.stablehlo').write_bytes(exporting.stablehlo(program))
  (tmp_path / 'photo.png').write_bytes(encoded('RGB'))
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  monkeypatch.setattr(run_export, 'about', lambda: told)
  with pytest.raises(SystemExit, match=r'/model\.json has 2 labels, and the network 3 classes\.$'):
    run_export.start(tmp_path / 'photo.png')


@pytest.mark.parametrize(
  'confidence, stage, label',
  [(0.75, 'lightweight', 'a'), (0.25, 'specialist', 'b'), (np.nan, 'specialist', 'b')],
)
def test_who_is_not_sure_enough_asks_the_specialist(
  tmp_path, monkeypatch, capsys, confidence, stage, label
):
  image = (RESOLUTION, RESOLUTION, 3)

  def answers(values):
    return lambda images: jnp.broadcast_to(jnp.array(values), (images.shape[0], 2))

  def preview(images):
    return answers([0.9, 0.1])(images), jnp.full(images.shape[:1], confidence)

  programs = [
    exporting.Program('preview', preview, {'images': image}, ('probabilities', 'confidence')),
    exporting.Program(
      'specialist', lambda x: (answers([0.2, 0.8])(x),), {'images': image}, ('probabilities',)
    ),
  ]
  told = WELL | {'programs': {p.name: {'inputs': p.inputs, 'outputs': p.outputs} for p in programs}}
  for program in programs:
    (tmp_path / f'{program.name}.stablehlo').write_bytes(exporting.stablehlo(program))
  (tmp_path / 'photo.png').write_bytes(encoded('RGB'))
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  monkeypatch.setattr(run_export, 'about', lambda: told)
  run_export.start(tmp_path / 'photo.png')
  best, _, last = capsys.readouterr().out.splitlines()
  assert best.startswith(f'{label}  ')
  assert last == f'({stage}; confidence of the first prediction {confidence:.3f})'


def test_a_second_photo_compiles_nothing(tmp_path, monkeypatch):
  program = exporting.Program(
    'network', lambda x: (x.mean((1, 2, 3)),), {'images': (RESOLUTION, RESOLUTION, 3)}, ('mean',)
  )
  told = WELL | {'programs': {'network': {'inputs': program.inputs, 'outputs': program.outputs}}}
  (tmp_path / 'network.stablehlo').write_bytes(exporting.stablehlo(program))
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  monkeypatch.setattr(run_export, 'about', lambda: told)
  compiled = []

  def on_event(name, *_, **__):
    compiled.extend([name] * name.endswith('backend_compile_duration'))

  jax.monitoring.register_event_duration_secs_listener(on_event)
  try:
    counts = []
    for value in (0.25, 0.5):
      images = np.full((1, RESOLUTION, RESOLUTION, 3), value, np.float32)
      found = run_export.stablehlo('network', {'images': images})['mean']
      np.testing.assert_allclose(found, value)
      counts.append(len(compiled))
  finally:
    jax.monitoring.unregister_event_duration_listener(on_event)
  assert counts[0] == counts[1] > 0


def test_a_program_of_onnx_is_read_once(tmp_path, monkeypatch):
  read = []

  class Session:
    def __init__(self, data):
      read.append(data)

    def run(self, _, inputs):
      return [inputs['images'].mean()]

  monkeypatch.setitem(sys.modules, 'onnxruntime', types.SimpleNamespace(InferenceSession=Session))
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  told = {'programs': {'network': {'inputs': ['images'], 'outputs': ['mean']}}}
  monkeypatch.setattr(run_export, 'about', lambda: told)
  (tmp_path / 'network.onnx').write_bytes(b'own')
  for value in (0.25, 0.5):
    assert run_export.onnx('network', {'images': np.full((1, 2), value)}) == {'mean': value}
  assert read == [b'own']


def test_an_interpreter_of_tflite_is_made_once(tmp_path, monkeypatch):
  made = []

  class Interpreter:
    def __init__(self, model_content):
      made.append(model_content)

    def get_signature_runner(self, name):
      return Signature()

  class Signature:
    def get_input_details(self):
      return ['images']

    def __call__(self, images):
      return {'mean': images.mean()}

  fake = types.SimpleNamespace(Interpreter=Interpreter)
  monkeypatch.setitem(sys.modules, 'ai_edge_litert', types.ModuleType('ai_edge_litert'))
  monkeypatch.setitem(sys.modules, 'ai_edge_litert.interpreter', fake)
  monkeypatch.setattr(run_export, 'FOLDER', tmp_path)
  monkeypatch.setattr(run_export, 'about', lambda: WELL)
  (tmp_path / 'model.tflite').write_bytes(b'own')
  for value in (0.25, 0.5):
    assert run_export.tflite('network', {'images': np.full((1, 2), value)}) == {'mean': value}
  assert made == [b'own']
