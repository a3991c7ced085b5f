"""The machine that the tests see: eight CPU devices, and compiled programs kept between runs."""

import gc
import os
import pathlib

# All of it must be in the environment before JAX is imported, also for subprocesses.
_CACHE = pathlib.Path(__file__).parents[1] / '.cache' / 'jax'
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(_CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
_FLAGS = ['--xla_force_host_platform_device_count=8']
if 'EVERY_NETWORK' not in os.environ:  # `make test-extras` compiles as users do.
  _FLAGS += [  # A fifth of the time.
    '--xla_backend_optimization_level=0',
    '--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters',
    '--xla_cpu_parallel_codegen_split_count=1',
  ]
for flag in _FLAGS:
  if flag.split('=')[0] not in os.environ.get('XLA_FLAGS', ''):
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flag}'.strip()

import pytest  # noqa: E402

gc.set_threshold(50_000)  # As the program does.


@pytest.fixture(scope='module')
def data_flag(tmp_path_factory):
  """Where the data of a file's runs of the program go."""
  return f'--config.data.data_dir={tmp_path_factory.mktemp("data")}'


def pytest_collection_modifyitems(items):
  """Files that start processes come first: a long one at the end would leave cores idle."""
  start_them = {'forks', 'nbclient', 'running', 'servers', 'subprocess'}
  items.sort(key=lambda item: start_them.isdisjoint(vars(item.module)))
