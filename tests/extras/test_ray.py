"""Predictions on a local Ray cluster: the same answers, in order, though a worker is killed."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import forks
import numpy as np
from PIL import Image
import pytest
import ray
import ray.cloudpickle

from basisnet_jax.errors import UserError
from basisnet_jax.inference import on_ray
from basisnet_jax.inference.prediction import Prediction

# Ray warns of itself.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Workers cannot import tests.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning:ray')
RUN = [sys.executable, '-m', 'basisnet_jax.main']
RECIPE = [
  '--config=tests/tiny.py',
  '--config.training.steps=10',
  '--config.model.lightweight.name=resnet_10',
  '--config.model.lightweight.width=0.125',
  '--config.model.specialist=resnet_10',
  '--config.model.width=0.125',
  '--config.model.lightweight.output_stride=4',
  '--config.model.output_stride=4',
]


class Fake:
  """A predictor that tells the name of the file and who predicted it."""

  def __init__(self, folder, seconds=0.0):
    self._seconds = seconds
    (pathlib.Path(folder) / f'{os.getpid()}.pid').touch()

  def stream(self, paths, threshold, *, top_k):
    for path in paths:
      time.sleep(self._seconds)
      name = pathlib.Path(path).name
      assert os.path.isabs(path)
      answer = Prediction((name,) * top_k, (threshold,) * top_k, 'network', 0.5, os.getpid())
      yield path, UserError(f'{name} is bad') if name.startswith('bad') else answer


def refuse():
  raise UserError('This run cannot be read.')


def fail(error, *_, **__):
  raise error


def test_answers_come_in_order_and_bad_files_are_told(tmp_path):
  paths = [f'{"bad" if i % 100 == 7 else "good"}_{i}' for i in range(1000)]
  load = functools.partial(Fake, str(tmp_path))
  ended_by = signal.getsignal(signal.SIGTERM)
  answers = on_ray.stream(load, paths, 0.25, top_k=2, address='local')
  assert signal.getsignal(signal.SIGTERM) == ended_by  # Ray's own ends in addresses and an abort.
  found = list(answers)
  assert [path for path, _ in found] == paths
  for path, answer in found:
    if path.startswith('bad'):
      assert str(answer) == f'{path} is bad'
    else:
      assert answer[:4] == ((path, path), (0.25, 0.25), 'network', 0.5)
      assert answer.madds != os.getpid()


def test_a_killed_worker_loses_nothing(tmp_path):
  paths = [str(i) for i in range(1024)]
  answers = on_ray.stream(
    functools.partial(Fake, str(tmp_path), 0.004), paths, 0.5, top_k=1, address='local'
  )
  found = [next(answers)]
  (first,) = tmp_path.glob('*.pid')
  os.kill(int(first.stem), signal.SIGKILL)
  found += answers
  assert [path for path, _ in found] == [answer.labels[0] for _, answer in found] == paths
  assert len(list(tmp_path.glob('*.pid'))) > 1
  assert len({answer.madds for _, answer in found}) > 1


def test_what_cannot_be_is_a_sentence(monkeypatch):
  with pytest.raises(UserError, match='A worker on Ray failed: This run cannot be read.'):
    list(on_ray.stream(refuse, ['a'], 0.5, top_k=1, address='local'))
  with pytest.raises(UserError, match='--ray=127.0.0.1:9: no Ray cluster answers there'):
    # Before an answer is asked for, and so before the table is opened for writing.
    on_ray.stream(refuse, ['a'], 0.5, top_k=1, address='127.0.0.1:9')
  with monkeypatch.context() as patch:
    patch.setattr(ray, 'init', functools.partial(fail, Exception('The node\ntimed out.')))
    with pytest.raises(UserError, match=r'--ray=local: Ray did not start \(The node timed out'):
      on_ray.stream(refuse, ['a'], 0.5, top_k=1, address='local')
  monkeypatch.setitem(sys.modules, 'ray', None)
  with pytest.raises(UserError, match=r'--ray needs Ray: pip install basisnet_jax\[ray\]'):
    list(on_ray.stream(refuse, ['a'], 0.5, top_k=1, address='local'))


def test_a_trained_run_predicts_the_same_with_ray_and_without(tmp_path):
  def run(*arguments):
    done = subprocess.run(
      [*RUN, *arguments], capture_output=True, text=True, env=forks.environment(1), timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stderr

  workdir = f'--workdir={tmp_path / "run"}'
  run(*RECIPE, workdir)
  random, photos = np.random.default_rng(0), tmp_path / 'photos'
  photos.mkdir()
  for i in range(40):
    pixels = np.uint8(random.integers(0, 256, (12, 12, 3)))
    Image.fromarray(pixels).save(photos / f'{i}.png')
  (photos / 'no.jpg').write_text('no image')
  tables = []
  for flags in ([], ['--ray=local']):
    output = tmp_path / f'{len(flags)}.jsonl'
    asked = [workdir, f'--images={photos}', f'--output={output}', '--threshold=0.15', *flags]
    err = run('--mode=predict', *asked)
    assert '40 images, ' in err and 'Left out 1 file that could not be read' in err
    tables.append([json.loads(line) for line in output.read_text().splitlines()])
  assert len(tables[0]) == 40
  for alone, on_cluster in zip(*tables, strict=True):
    assert {**alone, 'probabilities': 0, 'confidence': 0} == {
      **on_cluster, 'probabilities': 0, 'confidence': 0
    }  # fmt: skip
    np.testing.assert_allclose(alone['probabilities'], on_cluster['probabilities'], rtol=1e-4)
