"""Programs for machines that are not here: they are lowered for GPUs and TPUs on a CPU."""

import importlib

import jax
import jax.numpy as jnp
import pytest
import tiny

from basisnet_jax import sharding
from basisnet_jax.inference import early_exit
from basisnet_jax.models import target
from basisnet_jax.training import learning

PLATFORMS = {'gpu': 'cuda', 'tpu': 'tpu'}
KERNELS = '__gpu$xla.gpu.triton'


@pytest.fixture(params=PLATFORMS)
def backend(request, monkeypatch):
  """The forms of layers are chosen as on that backend."""
  monkeypatch.setattr(target, 'platform', lambda: request.param)
  if request.param == 'gpu' and jax.__version_info__ >= (0, 11):
    # It asks which GPU kernels are for. In public it takes a mesh of such devices alone.
    gpu_info = importlib.import_module('jax._src.pallas.triton.gpu_info')
    monkeypatch.setattr(gpu_info, 'get_device_kind', lambda: 'NVIDIA H100 80GB HBM3')
  return request.param


def lowered(function, backend, *arguments):
  # Of Pallas' kernels, which JAX promises to read in no other version.
  kernels = [jax.export.DisabledSafetyCheck.custom_call(KERNELS)]
  export = jax.export.export(function, platforms=[PLATFORMS[backend]], disabled_checks=kernels)
  exported = export(*arguments)
  assert exported.platforms == (PLATFORMS[backend],)
  return exported.mlir_module()


@pytest.mark.filterwarnings('ignore:The Pallas Triton backend is deprecated')  # See the kernels.
@pytest.mark.parametrize('dtype, remat', [('float32', True), ('bfloat16', False)])
def test_training_step(backend, dtype, remat):
  config = tiny.get_config()
  config.training.remat_preview = remat
  config.model.dtype = dtype
  mesh = sharding.create_mesh(config.sharding.mesh)
  training = learning.Training(config, mesh, 160)
  (batch,) = sharding.to_device([tiny.batch(16, resolution=16)], mesh)
  program = lowered(training.step().jitted, backend, training.state, batch)
  assert 'stablehlo.convolution' in program and 'stablehlo.while' not in program
  assert (KERNELS in program) == (backend == 'gpu')


def test_early_exit(backend):
  model, images = tiny.basisnet(), jnp.zeros((8, 8, 8, 3))
  variables = jax.eval_shape(model.init, jax.random.key(0), images)
  predict = jax.jit(early_exit.make_predict(model, chunks=(4, 1)))
  program = lowered(predict, backend, variables, images, 0.5)
  # One loop for each size of chunk, in the one program.
  assert program.count('stablehlo.while') == 2
