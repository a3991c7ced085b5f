"""Exports that a real Triton serves: what clients get."""

import json
import pathlib
import re
import runpy
import shutil
import time

import forks
import jax
import numpy as np
import onnxruntime
from PIL import Image
import pytest
from triton_server import ABOUT, NEEDED, SIDE, Server, parsed, programs, python, write

import basisnet_jax

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
pytestmark = NEEDED
# Forward passes of so many images at once differ in the last digits.
SAME = {'rtol': 2e-4, 'atol': 1e-5}
RUN = [
  '--config=tests/tiny.py',
  '--config.model.specialist=resnet_10',  # Known without the recipe's file.
  '--config.model.lightweight.name=resnet_10',
  '--config.model.width=0.125',
  '--config.model.lightweight.width=0.125',
  '--config.training.steps=12',
  '--config.data.train_split=train[:90%]',
  '--config.data.heldout_split=train[90%:]',
]


def threshold_of(path, value):
  """Writes another one, as users may."""
  text, count = re.subn(
    '(key: "threshold" value { string_value: )"[^"]*"', rf'\1"{value!r}"', path.read_text()
  )
  assert count == 1
  path.write_text(text)


@pytest.fixture(scope='module')
def made(tmp_path_factory, data_flag):
  """What is exported of a run, images, and the predictor's answers for them; half exit."""
  folder = tmp_path_factory.mktemp('exports')
  workdir, exported = folder / 'run', folder / 'exported'
  for flags in (
    [*RUN, data_flag],
    ['--mode=export', f'--output={exported}', '--format=triton'],
  ):
    command = '-m', 'basisnet_jax.main', f'--workdir={workdir}', *flags
    process = forks.start(*command, cwd=ROOT, env=forks.environment(1))
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
  chosen = json.loads((workdir / 'early_exit.json').read_text())
  told = parsed(exported / 'triton')['two_stage']['parameters']
  assert float(told['threshold']['string_value']) == chosen['threshold']
  random, photos = np.random.default_rng(0), []
  for i in range(160):
    small = random.integers(0, 256, (2 + i % 5, 3 + i % 7, 3), np.uint8)
    photos.append(folder / f'{i}.png')
    Image.fromarray(small).resize((40 + i, 30)).save(photos[-1])
  predictor = basisnet_jax.load(str(workdir))
  sure = sorted(answer.confidence for answer in predictor.predict(photos, threshold=0.0))
  middle = sure[len(sure) // 4 : -len(sure) // 4]
  gap = max(range(len(middle) - 1), key=lambda i: middle[i + 1] - middle[i])
  threshold = (middle[gap] + middle[gap + 1]) / 2
  pixels = runpy.run_path(str(exported / 'run.py'))['pixels']
  return {
    'exported': exported,
    'photos': photos,
    'images': np.concatenate([pixels(photo) for photo in photos]),
    'threshold': threshold,
    'answers': predictor.predict(photos, threshold=threshold, top_k=10),
  }


@pytest.fixture(scope='module')
def server(made, tmp_path_factory):
  """Of the export, at the threshold; of it as nobody and as all; and of a network of one stage."""
  folder = tmp_path_factory.mktemp('server')
  repository = folder / 'triton'
  shutil.copytree(made['exported'] / 'triton', repository)
  threshold_of(repository / 'two_stage' / 'config.pbtxt', made['threshold'])
  for name, threshold in {'nobody': 2.0, 'everybody': 0.0}.items():
    shutil.copytree(repository / 'two_stage', repository / name)
    config = repository / name / 'config.pbtxt'
    config.write_text(config.read_text().replace('"two_stage"', f'"{name}"'))
    threshold_of(config, threshold)
  write(repository, programs('one stage'), ABOUT)
  for config in repository.glob('*/config.pbtxt'):
    text = config.read_text()
    if 'backend: "onnxruntime"' in text:
      config.write_text(text.replace('backend: "onnxruntime"', 'backend: "python"'))
      shutil.copy(HERE / 'triton_stand_in.py', config.parent / '1' / 'model.py')
  server = Server(repository, folder)
  yield server
  server.process.kill()
  server.process.wait()


def test_many_clients_get_the_answers_for_their_own_images(made, server, tmp_path):
  images, expected = made['images'], made['answers']
  np.save(tmp_path / 'images.npy', images)
  before = {name: server.seen(name) for name in ('two_stage', 'preview', 'specialist')}
  clients = HERE / 'triton_clients.py'
  python(clients, str(server.port), tmp_path / 'images.npy', tmp_path / 'answers.npz')
  with np.load(tmp_path / 'answers.npz', allow_pickle=True) as file:
    answers = dict(file)
  assert answers.keys() == {'probabilities', 'confidence', 'stage', 'madds'}
  for i, right in enumerate(expected):
    best = [int(label) for label in right.labels]
    np.testing.assert_allclose(answers['probabilities'][i, best], right.probabilities, **SAME)
    np.testing.assert_allclose(answers['confidence'][i, 0], right.confidence, **SAME)
    assert answers['stage'][i, 0].decode() == right.stage
    assert answers['madds'][i, 0] == right.madds
  undecided = sum(right.stage == 'specialist' for right in expected)
  assert 40 <= undecided <= 120
  new = {name: np.subtract(server.seen(name), before[name]) for name in before}
  assert new['two_stage'][0] == new['preview'][0] == len(images)
  assert new['specialist'][0] == undecided  # And no image more.
  assert new['two_stage'][1] < len(images) / 2  # They were answered together.
  assert new['preview'][1] <= new['two_stage'][1] >= new['specialist'][1]


def test_several_images_of_one_request_are_answered_in_order(made, server):
  status, found = server.infer('two_stage', made['images'][:32])
  assert status == 200
  assert [stage for (stage,) in found['stage']] == [own.stage for own in made['answers'][:32]]
  for row, right in zip(found['probabilities'], made['answers'], strict=False):
    best = [int(label) for label in right.labels]
    np.testing.assert_allclose(row[best], right.probabilities, **SAME)


def test_answers_are_those_of_the_files_in_onnx_runtime(made, server):
  images = made['images'][:8]
  sessions = {
    name: onnxruntime.InferenceSession(made['exported'] / f'triton/{name}/1/model.onnx')
    for name in ('preview', 'specialist')
  }
  first, confidence, coefficients, logits = sessions['preview'].run(None, {'images': images})
  known = {'images': images, 'coefficients': coefficients, 'logits': logits}
  (last,) = sessions['specialist'].run(None, known)
  assert np.abs(first - last).max() > 0.01
  for model, stage, wanted in (
    ('everybody', 'lightweight', first),
    ('nobody', 'specialist', last),
  ):
    status, found = server.infer(model, images)
    assert status == 200
    assert set(found['stage'][:, 0]) == {stage}
    np.testing.assert_allclose(found['probabilities'], wanted, **SAME)
    np.testing.assert_allclose(found['confidence'][:, 0], confidence, **SAME)
  assert server.infer('preview', images)[1]['confidence'].shape == (8, 1)


def test_a_network_of_one_stage_is_asked_by_its_own_name(server):
  (part,) = programs('one stage')
  images = np.float32(np.random.default_rng(0).uniform(-1, 1, (3, SIDE, SIDE, 3)))
  probabilities, confidence = map(np.asarray, jax.jit(part.call)(images))
  status, found = server.infer('network', images)
  assert status == 200
  np.testing.assert_allclose(found['probabilities'], probabilities, **SAME)
  np.testing.assert_allclose(found['confidence'][:, 0], confidence, **SAME)
  _, found = server.infer('network', images, probabilities={'classification': 2})
  for row, values in zip(found['probabilities'], probabilities, strict=True):
    best = np.argsort(-values)[:2]
    assert [one.split(':')[1:] for one in row] == [[str(i), f'number {i}'] for i in best]
    assert [float(one.split(':')[0]) for one in row] == pytest.approx(values[best], abs=1e-5)


def test_the_client_of_the_readme_shows_labels_and_who_answered(made, server):
  exported = made['exported']
  text = (exported / 'README.md').read_text()
  assert 'docker run' in text and 'tritonserver --model-repository=/models' in text
  (client,) = re.findall('```python\n(.*?)```', text, re.DOTALL)
  assert "'localhost:8000'" in client
  page = (ROOT / 'docs' / 'fine_tune_and_ship.md').read_text()
  assert client.replace('16, 16', '160, 160') in page
  client = client.replace('localhost:8000', f'localhost:{server.port}')
  answered = zip(made['photos'], made['answers'], strict=True)
  by_stage = {right.stage: (photo, right) for photo, right in answered}
  assert by_stage.keys() == {'lightweight', 'specialist'}
  for photo, right in by_stage.values():
    said = python('-c', client.replace("'photo.jpg'", f"'{photo}'"), cwd=exported)
    labels = re.findall(r"b'([0-9.]+):(\d+):(\d+)'", said)
    assert [label for *_, label in labels] == list(right.labels[:5])
    assert [float(p) for p, *_ in labels] == pytest.approx(right.probabilities[:5], abs=1e-4)
    assert f"b'{right.stage}'" in said and str(right.madds) in said


@pytest.mark.parametrize(
  'change, kind, message',
  [
    (lambda x: x[:, :8], 'FP32', r"unexpected shape for input 'images' .* got \[1,8,16,3\]"),
    (lambda x: x[0], 'FP32', r"unexpected shape for input 'images' .* got \[16,16,3\]"),
    (lambda x: x[:0], 'FP32', "input byte size mismatch for input 'images'"),
    (lambda x: np.repeat(x, 33, 0), 'FP32', 'batch-size must be <= 32'),
    (np.uint8, 'UINT8', "'images' data-type is 'UINT8', but model 'two_stage' expects 'FP32'"),
  ],
  ids=['size', 'no batch', 'nothing', 'too many', 'bytes'],
)
def test_bad_images_are_refused_in_a_sentence(made, server, change, kind, message):
  image = made['images'][:1]
  status, error = server.infer('two_stage', change(image), kind)
  assert status == 400 and re.search(message, error), error
  assert server.infer('two_stage', image)[0] == 200


def test_a_model_that_is_missing_is_named(made, server):
  stages = {right.stage: i for i, right in enumerate(made['answers'])}
  ask = lambda stage: server.infer('two_stage', made['images'][[stages[stage]]])  # noqa: E731
  server.ask('POST', '/v2/repository/models/specialist/unload', {})
  until = time.monotonic() + 60
  while server.ask('GET', '/v2/models/specialist/ready')[0] == 200:
    assert time.monotonic() < until
  try:
    status, error = ask('specialist')
    assert status >= 400 and 'specialist: ' in error, error
    assert ask('lightweight')[0] == 200
  finally:
    assert server.ask('POST', '/v2/repository/models/specialist/load', {})[0] == 200
  assert ask('specialist')[0] == 200
