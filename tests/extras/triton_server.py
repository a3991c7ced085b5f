"""Triton as tests of exports have it: in an environment of its own that `make test-extras` makes.

PyTriton's server has no ONNX Runtime: `triton_stand_in` runs the files in its place. All else, the
model of both stages, its batches and its calls of the others, is as exported.
"""

import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time

import forks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from basisnet_jax.inference import exporting, onnx_file, triton_repository

SIDE = tiny.RESOLUTION
TRITON = pathlib.Path(os.environ.get('TRITON', pathlib.Path(sys.prefix, 'triton')))
NEEDED = pytest.mark.skipif(
  not list(TRITON.glob('lib/*/site-packages/pytriton')),
  reason=f'no Triton in {TRITON}: make test-extras installs it on Linux, x86-64',
)
ABOUT = {
  'labels': [f'number\n{i}' for i in range(10)],
  'threshold': 2.0,
  'madds': {'first': 5, 'all': 10**12},
}


def python(*arguments, **options):
  """A program in Triton's environment to its end: what it printed."""
  done = subprocess.run(
    [TRITON / 'bin' / 'python', *arguments], capture_output=True, text=True, timeout=300, **options
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def parsed(repository):
  """{model: its configuration by Triton's schema, as JSON}."""
  code = """if True:
    import json, pathlib, sys
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2
    found = {}
    for path in pathlib.Path(sys.argv[1]).glob('*/config.pbtxt'):
      config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
      found[path.parent.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    print(json.dumps(found))
  """
  return json.loads(python('-c', code, repository))


def programs(kind):
  model = {
    'two stages': tiny.basisnet(),
    'cascade': tiny.basisnet().clone(layers=()),
    'one stage': tiny.TinyNetwork(10),
  }[kind]
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
  return exporting.programs(model, variables, SIDE, {'network': 0.1}, 'margin')


def write(repository, parts, about):
  """What an export has, of programs."""
  files = triton_repository.files(parts, about)
  files |= {triton_repository.program_file(part.name): onnx_file.model(part) for part in parts}
  for name, content in files.items():
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


class Server:
  """Triton with a repository whose ONNX stand-ins run, ready."""

  def __init__(self, repository, folder):
    (package,) = TRITON.glob('lib/*/site-packages/pytriton')
    libraries = python('-c', 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))').strip()
    version = python('-c', 'import sys; print("%d.%d" % sys.version_info[:2])').strip()
    own = package / 'tritonserver'
    shutil.copytree(own / 'backends', folder / 'backends')
    stub = own / 'python_backend_stubs' / version / 'triton_python_backend_stub'
    shutil.copy(stub, folder / 'backends' / 'python')
    self.port = forks.free_port()
    ports = {'http': self.port, 'grpc': forks.free_port(), 'metrics': forks.free_port()}
    environment = {
      'PATH': f'{TRITON / "bin"}:{os.environ["PATH"]}',  # There Python looks for its libraries.
      'LD_LIBRARY_PATH': f'{package.parent / "nvidia_pytriton.libs"}:{libraries}',
    }
    self.log = folder / 'log.txt'
    with self.log.open('w') as log:
      self.process = subprocess.Popen(
        [
          own / 'bin' / 'tritonserver',
          f'--model-repository={repository}',
          f'--backend-directory={folder / "backends"}',
          f'--backend-config=python,shm-region-prefix-name=test{self.port}',
          '--model-control-mode=explicit', '--load-model=*',
          *(f'--{name}-port={port}' for name, port in ports.items()),
          *(f'--{name}-address=127.0.0.1' for name in ports),
        ],
        stdout=log, stderr=subprocess.STDOUT, env=environment,
      )  # fmt: skip
    until = time.monotonic() + 120
    while not self._ready():
      assert self.process.poll() is None, self.log.read_text()
      assert time.monotonic() < until, self.log.read_text()
      time.sleep(0.05)

  def _ready(self):
    try:
      return self.ask('GET', '/v2/health/ready')[0] == 200
    except ConnectionError:
      return False

  def ask(self, method, path, body=None):
    """(status, what JSON says)."""
    connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
    try:
      connection.request(method, path, body if body is None else json.dumps(body))
      answer = connection.getresponse()
      content = answer.read()
      return answer.status, json.loads(content) if content else None
    finally:
      connection.close()

  def infer(self, model, images, kind='FP32', **outputs):
    """(status, {output: array}, or what is wrong), with parameters of outputs."""
    one = {'name': 'images', 'shape': images.shape, 'datatype': kind, 'data': images.tolist()}
    body = {'inputs': [one]}
    if outputs:
      body['outputs'] = [{'name': name, 'parameters': own} for name, own in outputs.items()]
    status, found = self.ask('POST', f'/v2/models/{model}/infer', body)
    if status != 200:
      return status, found['error']
    return status, {
      own['name']: np.array(own['data']).reshape(own['shape']) for own in found['outputs']
    }

  def seen(self, model):
    """(images, batches) that a model has answered."""
    (own,) = self.ask('GET', f'/v2/models/{model}/stats')[1]['model_stats']
    return own['inference_count'], own['execution_count']
