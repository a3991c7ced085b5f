"""What an export tells Triton of its programs, read by Triton's own schema."""

import onnxruntime
import pytest
from triton_server import ABOUT, NEEDED, parsed, programs, write

pytestmark = NEEDED


@pytest.mark.parametrize('kind', ['two stages', 'cascade', 'one stage'])
def test_configurations_are_of_tritons_schema_and_say_what_onnx_runtime_says(tmp_path, kind):
  parts = programs(kind)
  write(tmp_path, parts, ABOUT)
  configs = parsed(tmp_path)
  entry = 'network' if kind == 'one stage' else 'two_stage'
  assert configs.keys() == {entry, *(part.name for part in parts)}
  sessions = {
    part.name: onnxruntime.InferenceSession(tmp_path / part.name / '1' / 'model.onnx')
    for part in parts
  }
  types = {'tensor(float)': 'TYPE_FP32'}
  for name, session in sessions.items():
    config = configs[name]
    assert (config['name'], config['backend']) == (name, 'onnxruntime')
    for told, known in (('input', session.get_inputs()), ('output', session.get_outputs())):
      assert [one['name'] for one in config[told]] == [own.name for own in known]
      for one, own in zip(config[told], known, strict=True):
        assert one['data_type'] == types[own.type]
        scalar = 'reshape' in one  # To no axes.
        assert not scalar or (one['dims'], one['reshape']) == (['1'], {})
        assert ['batch', *([] if scalar else map(int, one['dims']))] == own.shape
  for config in configs.values():
    assert config['max_batch_size'] == 32 and config['dynamic_batching'] == {}
  labels = {
    (name, one['name']): one['label_filename']
    for name, config in configs.items()
    for one in config['output']
    if 'label_filename' in one
  }
  assert labels == {(entry, 'probabilities'): 'labels.txt'}
  assert (tmp_path / entry / 'labels.txt').read_text().splitlines() == [
    f'number {i}' for i in range(10)
  ]
  if kind != 'one stage':
    both = configs[entry]
    assert both['input'] == configs['preview']['input']
    assert [(one['name'], one['data_type'], one['dims']) for one in both['output']] == [
      ('probabilities', 'TYPE_FP32', ['10']), ('confidence', 'TYPE_FP32', ['1']),
      ('stage', 'TYPE_STRING', ['1']), ('madds', 'TYPE_INT64', ['1']),
    ]  # fmt: skip
    assert {name: value['string_value'] for name, value in both['parameters'].items()} == {
      'threshold': '2.0',
      'madds_first': '5',
      'madds_all': '1000000000000',
      'handed_on': 'logits' if kind == 'cascade' else 'coefficients,logits',
    }
