"""What servers are asked, and what they are to say."""

import io

import numpy as np
from PIL import Image
import pytest
from servers import start
import tiny

import basisnet_jax


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, data_flag):
  folder = tmp_path_factory.mktemp('runs') / 'served'
  process = start(*tiny.RUN, data_flag, f'--workdir={folder}')
  _, err = process.communicate(timeout=600)
  assert process.returncode == 0, err
  return folder


@pytest.fixture(scope='module')
def images():
  """PNG files, all different."""
  random, found = np.random.default_rng(0), []
  for i in range(160):
    pixels = random.integers(0, 256, (2 + i % 5, 3 + i % 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((40 + i, 30)).save(file, 'PNG')
    found.append(file.getvalue())
  return found


@pytest.fixture(scope='module')
def expected(workdir, images):
  """(threshold, the answers): of the predictor; about half exit, none near the threshold."""
  predictor = basisnet_jax.load(str(workdir))
  sure = sorted(answer.confidence for answer in predictor.predict(images, threshold=0.0))
  middle = sure[len(sure) // 4 : -len(sure) // 4]
  gap = max(range(len(middle) - 1), key=lambda i: middle[i + 1] - middle[i])
  threshold = (middle[gap] + middle[gap + 1]) / 2
  return threshold, predictor.predict(images, threshold=threshold, top_k=10)
