"""Telemetry, judged by TensorBoard's own reader."""

import io
import math
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import ml_collections
import numpy as np
import PIL.Image
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from basisnet_jax.training.telemetry import Telemetry


def tensors(folder, tag):
  """[(step, value)] as TensorBoard reads them."""
  events = EventAccumulator(str(folder), size_guidance={'tensors': 0}).Reload().Tensors(tag)
  return [(event.step, tensor_util.make_ndarray(event.tensor_proto)) for event in events]


def hparams(folder):
  metadata = EventAccumulator(str(folder)).Reload().SummaryMetadata('_hparams_/session_start_info')
  data = plugin_data_pb2.HParamsPluginData.FromString(metadata.plugin_data.content)
  return {
    name: getattr(value, value.WhichOneof('kind'))
    for name, value in data.session_start_info.hparams.items()
  }


def test_scalars_are_read_back_at_their_steps(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    for step in (100, 200):
      telemetry.scalars(
        step,
        {
          'train/loss': jnp.float32(step / 8),
          'eval/specialist/top1': np.float64(0.5),
          'epoch': 3,
        },
      )
  assert tensors(tmp_path, 'train/loss') == [(100, 12.5), (200, 25.0)]
  assert tensors(tmp_path, 'eval/specialist/top1') == [(100, 0.5), (200, 0.5)]
  assert tensors(tmp_path, 'epoch') == [(100, 3.0), (200, 3.0)]


def test_loss_that_is_not_finite_is_kept_visible(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.scalars(1, {'train/loss': math.nan})
    telemetry.scalars(2, {'train/loss': math.inf})
    telemetry.scalars(3, {'train/loss': 1.0})
  values = [float(value) for _, value in tensors(tmp_path, 'train/loss')]
  np.testing.assert_array_equal(values, [math.nan, math.inf, 1.0])


@pytest.mark.parametrize('bad', [np.zeros(2), 'high', None, 1j])
def test_bad_scalar_is_reported_where_it_is_passed_and_spoils_nothing(tmp_path, bad):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    with pytest.raises(ValueError, match="metric 'train/loss'"):
      telemetry.scalars(1, {'train/loss': bad})
    telemetry.scalars(2, {'train/loss': 7})
  assert tensors(tmp_path, 'train/loss') == [(2, 7.0)]


def test_pictures_are_read_back_pixel_by_pixel(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.images(4, {'eval/coefficients': picture})
  ((step, (width, height, encoded)),) = tensors(tmp_path, 'eval/coefficients')
  assert (step, int(width), int(height)) == (4, 7, 5)
  np.testing.assert_array_equal(PIL.Image.open(io.BytesIO(encoded)), picture)


def test_histograms_count_every_finite_entry(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.histograms(
      5,
      {
        'coefficients': jnp.linspace(0, 1, 60, dtype=jnp.bfloat16).reshape(3, 4, 5),
        'broken': np.array([math.nan, 1.0, math.inf, 3.0]),
        'lost': np.array([math.nan]),
      },
    )
  for tag, low, high, count in (('coefficients', 0, 1, 60), ('broken', 1, 3, 2)):
    ((step, buckets),) = tensors(tmp_path, tag)  # Rows of: left edge, right edge, count.
    assert step == 5
    assert (buckets[0, 0], buckets[-1, 1], buckets[:, 2].sum()) == (low, high, count)
  assert 'lost' not in EventAccumulator(str(tmp_path)).Reload().Tags()['tensors']


def test_text_is_a_code_block_whatever_it_contains(tmp_path):
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.text(0, {'config': 'seed: 0\n```\nname: *x*'})
  ((_, value),) = tensors(tmp_path, 'config')
  assert value.item().decode() == '    seed: 0\n    ```\n    name: *x*'


def test_hyper_parameters_keep_their_names_and_types(tmp_path):
  config = ml_collections.ConfigDict(
    {
      'seed': 0,
      'model': {'name': 'basisnet', 'coefficients': {'shared': True, 'temperature': 1.5}},
      'evaluation': {'thresholds': (0.3, 0.7)},
      'steps': None,
    }
  )
  with Telemetry(str(tmp_path), enabled=True) as telemetry:
    telemetry.hparams(config)
  found = hparams(tmp_path)
  assert found == {
    'seed': 0,
    'model.name': 'basisnet',
    'model.coefficients.shared': True,
    'model.coefficients.temperature': 1.5,
    'evaluation.thresholds': '(0.3, 0.7)',
    'steps': 'None',
  }
  assert found['model.coefficients.shared'] is True


def test_flushed_values_are_in_the_file_before_close(tmp_path):
  telemetry = Telemetry(str(tmp_path), enabled=True)
  telemetry.scalars(1, {'loss': 2})
  telemetry.flush()
  assert tensors(tmp_path, 'loss') == [(1, 2.0)]
  telemetry.close()
  telemetry.close()
  telemetry.scalars(2, {'loss': 2})
  assert len(tensors(tmp_path, 'loss')) == 1


def test_other_processes_write_nothing_and_load_no_tensorflow(tmp_path):
  code = f"""
    import sys
    from basisnet_jax.training.telemetry import Telemetry
    with Telemetry({str(tmp_path)!r}, enabled=False) as telemetry:
      telemetry.scalars(1, {{'loss': 'not a number'}})
      telemetry.flush()
    sys.exit('tensorflow' in sys.modules)
  """
  assert subprocess.run([sys.executable, '-c', textwrap.dedent(code)]).returncode == 0
  assert not list(tmp_path.iterdir())
