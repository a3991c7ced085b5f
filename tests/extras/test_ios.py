"""The C of an export's README, compiled, with LiteRT of Python behind the functions it calls."""

import ctypes
import json
import pathlib
import re
import shutil
import subprocess
import sys

from ai_edge_litert.interpreter import Interpreter
import numpy as np
import phones
from PIL import Image
import pytest
import running
import tiny

from basisnet_jax.data import decoding
from basisnet_jax.inference import ios

SIDE = phones.SIDE
STAND_IN = pathlib.Path(__file__).parent / 'ios'
POINTER, TEXT, SIZE, STATUS = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
OK, ERROR = 0, 1

pytestmark = pytest.mark.skipif(not shutil.which('cc'), reason='It takes a C compiler.')


class LiteRT:
  """What stands behind LiteRT's functions; each pointer is a number of `self.behind`."""

  def __init__(self, library):
    self.library, self.behind, self.runs = library, [None], []
    self.callbacks = [self.give(*function) for function in self.functions()]

  def functions(self):
    yield 'TfLiteModelCreateFromFile', self.pointer, POINTER, TEXT
    yield 'TfLiteInterpreterCreate', self.interpreter, POINTER, POINTER, POINTER
    yield 'TfLiteInterpreterGetSignatureRunner', self.runner, POINTER, POINTER, TEXT
    yield 'TfLiteSignatureRunnerAllocateTensors', lambda runner: OK, STATUS, POINTER
    yield 'TfLiteSignatureRunnerGetInputTensor', self.input, POINTER, POINTER, TEXT
    yield 'TfLiteSignatureRunnerInvoke', self.invoke, STATUS, POINTER
    yield 'TfLiteSignatureRunnerGetOutputTensor', self.output, POINTER, POINTER, TEXT
    yield 'TfLiteTensorCopyFromBuffer', self.put, STATUS, POINTER, POINTER, SIZE
    yield 'TfLiteTensorCopyToBuffer', self.get, STATUS, POINTER, POINTER, SIZE

  def give(self, name, function, result, *arguments):
    callback = ctypes.CFUNCTYPE(result, *arguments)(function)
    POINTER.in_dll(self.library, f'python_{name}').value = ctypes.cast(callback, POINTER).value
    return callback

  def pointer(self, to):
    self.behind.append(to)
    return len(self.behind) - 1

  def interpreter(self, model, options):
    assert options is None
    path = pathlib.Path(self.behind[model].decode())
    return self.pointer(Interpreter(str(path))) if path.exists() else 0

  def runner(self, interpreter, name):
    interpreter, name = self.behind[interpreter], name.decode()
    if name not in interpreter.get_signature_list():
      return 0
    return self.pointer((interpreter.get_signature_runner(name), {}, {}, name))

  def input(self, runner, name):
    runner, values, _, _ = self.behind[runner]
    return self.tensor(runner.get_input_details(), values, name.decode())

  def output(self, runner, name):
    runner, _, values, _ = self.behind[runner]
    return self.tensor(runner.get_output_details(), values, name.decode())

  def tensor(self, details, values, name):
    return self.pointer((details[name]['shape'], values, name)) if name in details else 0

  def put(self, tensor, data, size):
    shape, values, name = self.behind[tensor]
    if size != 4 * np.prod(shape):
      return ERROR
    values[name] = np.frombuffer(ctypes.string_at(data, size), np.float32).reshape(shape)
    return OK

  def invoke(self, runner):
    runner, inputs, outputs, name = self.behind[runner]
    outputs |= runner(**inputs)
    self.runs.append(name)
    return OK

  def get(self, tensor, data, size):
    shape, values, name = self.behind[tensor]
    if size != 4 * np.prod(shape):
      return ERROR
    ctypes.memmove(data, np.ascontiguousarray(values[name], np.float32).ctypes.data, size)
    return OK


class App:
  """The C of a README, compiled."""

  def __init__(self, folder, text):
    (source,) = re.findall(r'```c\n(.*?)```', text, re.DOTALL)
    (folder / 'network.c').write_text(source)
    path = folder / f'{len(list(folder.iterdir()))}.so'  # A loaded one is not loaded again.
    strict = ('-std=c11', '-pedantic', '-Wall', '-Wextra', '-Werror', '-O2')
    checked = ('-fsanitize=undefined', '-fno-sanitize-recover')
    within = (f'-I{STAND_IN}', f'-I{folder}', '-shared', '-fPIC', STAND_IN / 'stand_in.c')
    subprocess.run(['cc', *strict, *checked, *within, '-o', path, '-lm'], check=True)
    self.library, self.model = ctypes.CDLL(path), str(folder / 'model.tflite').encode()
    self.litert = LiteRT(self.library)
    for name in ('network_open', 'network_answer', 'seen'):
      getattr(self.library, name).restype = ctypes.c_bool

  def opens(self, path=None):
    return self.library.network_open(path or self.model)

  def answer(self, path, classes):
    return self.call('network_answer', path, classes)

  def sees(self, path, side=SIDE):
    return np.round((self.call('seen', path, side * side * 3) + 1) * 127.5).reshape(side, side, 3)

  def call(self, name, path, size):
    rgba = np.asarray(Image.open(path).convert('RGBA'))
    height, width, _ = rgba.shape
    values = np.full(size, np.nan, np.float32)
    done = getattr(self.library, name)(rgba.tobytes(), width, height, POINTER(values.ctypes.data))
    assert done
    return values


@pytest.fixture(scope='module', params=phones.KINDS)
def exported(request, tmp_path_factory):
  return phones.exported(request.param, tmp_path_factory.mktemp('exported'))


def app(exported, **about):
  return App(exported[0], phones.readme(ios, exported, **about))


@pytest.mark.parametrize('threshold', [-1.0, 2.0])
def test_it_answers_as_the_programs_do(exported, threshold):
  folder, parts = exported
  path, asked = phones.photo(folder, SIDE, SIDE), app(exported, threshold=threshold)
  assert asked.opens()
  pixels = np.asarray(Image.open(path))
  np.testing.assert_array_equal(asked.sees(path), pixels)
  answer = asked.answer(path, 10)
  wanted = phones.probabilities(parts, pixels, threshold)
  np.testing.assert_allclose(answer, wanted, rtol=1e-3, atol=1e-5)
  assert np.ptp(answer) > 0.01  # It says something.
  assert asked.litert.runs == [part.name for part in (parts if threshold > 1 else parts[:1])]


@pytest.mark.parametrize('exported', ['one stage'], indirect=True)
@pytest.mark.parametrize('resize', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
  'size', [(40, 30), (333, 500), (1024, 768), (20, 60), (1, 9), (32, 33), (9, 1)]
)
def test_it_sees_what_evaluation_sees(exported, size, resize):
  path = phones.photo(exported[0], *size)
  seen = app(exported, crop=0.875, resize=resize).sees(path)
  wanted = decoding.decode_central_crop(path.read_bytes(), SIDE, 0.875, resize)
  assert np.abs(seen - np.float32(wanted)).max() <= 1  # Both round.


@pytest.mark.parametrize('exported', ['basisnet', 'one stage'], indirect=True)
def test_a_model_that_is_another_or_missing_is_told(exported, tmp_path):
  folder, parts = exported
  asked = app(exported)
  assert not asked.opens(str(tmp_path / 'none.tflite').encode())
  other = 'one stage' if len(parts) > 1 else 'basisnet'
  phones.exported(other, tmp_path)
  assert not asked.opens(str(tmp_path / 'model.tflite').encode())


def test_an_export_of_a_run_has_it(tmp_path, data_flag):
  running.run_well(*tiny.RUN, data_flag, f'--workdir={tmp_path}/run')
  folder = tmp_path / 'export'
  running.run_well(
    '--mode=export', f'--workdir={tmp_path}/run', '--format=tflite', f'--output={folder}'
  )
  path = phones.photo(tmp_path, 50, 40)
  labels = json.loads((folder / 'model.json').read_text())['labels']
  asked = App(folder, (folder / 'README.md').read_text())
  assert asked.opens()
  answer = asked.answer(path, len(labels))
  command = [sys.executable, folder / 'run.py', path]
  done = subprocess.run(command, check=True, capture_output=True, text=True)
  best = int(np.argmax(answer))
  label, told = done.stdout.splitlines()[0].rsplit(None, 1)
  assert label == labels[best]
  assert abs(float(told.rstrip('%')) / 100 - answer[best]) < 0.01
