"""The Java of an export's README, compiled, with stand-ins for Android and LiteRT's class there."""

import json
import math
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import phones
from PIL import Image
import pytest
import running
import tiny

from basisnet_jax import photos
from basisnet_jax.inference import android

SIDE = phones.SIDE
STAND_INS = pathlib.Path(__file__).parent / 'android'

pytestmark = pytest.mark.skipif(
  not shutil.which('javac'), reason='It takes a Java compiler: apt-get install default-jdk-headless'
)


@pytest.fixture(scope='module', params=phones.KINDS)
def exported(request, tmp_path_factory):
  return phones.exported(request.param, tmp_path_factory.mktemp('exported'))


def ask(folder, text, path):
  """What the Java of a README sees of a photo, gray levels `[r, r, 3]`, and answers."""
  (source,) = re.findall(r'```java\n(.*?)```', text, re.DOTALL)
  (folder / 'Network.java').write_text(source)
  sources = [folder / 'Network.java', *STAND_INS.rglob('*.java')]
  subprocess.run(['javac', '-Xlint:all', '-Werror', '-d', folder, *sources], check=True)
  python = [sys.executable, STAND_INS / 'interpreter.py', folder / 'model.tflite']
  done = subprocess.run(
    ['java', '-cp', folder, 'Main', *python, path], check=True, capture_output=True, text=True
  )
  seen, answer = (np.float32(line.split()) for line in done.stdout.splitlines())
  side = math.isqrt(seen.size // 3)
  return np.round((seen.reshape(side, side, 3) + 1) * 127.5), answer


@pytest.mark.parametrize('threshold', [-1.0, 2.0])
def test_it_answers_as_the_programs_do(exported, threshold):
  folder, parts = exported
  path = phones.photo(folder, SIDE, SIDE)
  seen, answer = ask(folder, phones.readme(android, exported, threshold=threshold), path)
  pixels = np.asarray(Image.open(path))
  np.testing.assert_array_equal(seen, pixels)
  wanted = phones.probabilities(parts, pixels, threshold)
  np.testing.assert_allclose(answer, wanted, rtol=1e-3, atol=1e-5)
  assert np.ptp(answer) > 0.01  # It says something.


@pytest.mark.parametrize('exported', ['one stage'], indirect=True)
@pytest.mark.parametrize('size', [(40, 30), (333, 500), (1024, 768), (20, 60)])
def test_it_sees_nearly_what_evaluation_sees(exported, size):
  path = phones.photo(exported[0], *size)
  seen, _ = ask(exported[0], phones.readme(android, exported, threshold=0.5, crop=0.875), path)
  wanted = np.float32(photos.central_square(photos.read(path), SIDE, 0.875))
  assert np.abs(seen - wanted).mean() < 4


def test_an_export_of_a_run_has_it(tmp_path, data_flag):
  running.run_well(*tiny.RUN, data_flag, f'--workdir={tmp_path}/run')
  folder = tmp_path / 'export'
  running.run_well(
    '--mode=export', f'--workdir={tmp_path}/run', '--format=tflite', f'--output={folder}'
  )
  path = phones.photo(tmp_path, tiny.RESOLUTION, tiny.RESOLUTION)
  _, answer = ask(folder, (folder / 'README.md').read_text(), path)
  labels = json.loads((folder / 'model.json').read_text())['labels']
  wanted = [f'{labels[i]}  {answer[i]:.1%}' for i in np.argsort(-answer)[:5]]
  command = [sys.executable, folder / 'run.py', path]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  assert done.stdout.splitlines()[:5] == wanted
