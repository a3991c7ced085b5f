"""What a process has around it: memory that stays."""

import os
import subprocess
import sys

import pytest

START = 'from basisnet_jax import environment\nenvironment.start_again()\n'
FAULTS = """
import os, resource, statistics
import jax, numpy as np

def faults(take):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  take()
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

@jax.jit
def compute(x):  # Not fused: 400 MB between the operations.
  doubled = jax.lax.optimization_barrier(2 * x)
  return doubled.sum() + doubled.max()

x = jax.device_put(np.ones(100_000_000, np.float32))
for take in (lambda: np.ones(50_000_000), lambda: jax.block_until_ready(compute(x))):
  for _ in range(3):
    take()
  print(statistics.median(faults(take) for _ in range(5)))
print(os.environ.get('GLIBC_TUNABLES'))
"""


def printed(script, **environment):
  clean = {name: value for name, value in os.environ.items() if name != 'GLIBC_TUNABLES'}
  clean |= {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': ''}  # One device.
  command = [sys.executable, '-c', script]
  done = subprocess.run(
    command, env=clean | environment, check=True, capture_output=True, text=True
  )
  return done.stdout.split()


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_memory_that_was_freed_is_used_again_without_being_mapped_anew():
  """Judge: the kernel's count of page faults; 400 MB are 200 pages of 2 MB at the least.

  The median of five: where memory is short the kernel moves pages, which count, too.
  """
  dispatch = 'environment.dispatch_in_calling_thread()\n'
  host, devices, tunables = printed(START + dispatch + FAULTS)
  assert int(host) < 20 and int(devices) < 20 and 'mmap_max=0' in tunables
  host, devices, _ = printed(START + FAULTS)
  assert int(host) < 20 and int(devices) >= 190
  host, devices, tunables = printed(FAULTS)
  assert int(host) >= 190 and int(devices) >= 190 and tunables == 'None'


@pytest.mark.skipif(sys.platform != 'linux', reason='of glibc')
def test_tunables_that_are_set_stay():
  script = START + "import os; print(os.environ['GLIBC_TUNABLES'])"
  (tunables,) = printed(script, GLIBC_TUNABLES='glibc.malloc.hugetlb=0')
  found = dict(pair.split('=') for pair in tunables.split(':'))
  assert found['glibc.malloc.hugetlb'] == '0' and found['glibc.malloc.mmap_max'] == '0'


@pytest.mark.skipif(sys.platform != 'linux', reason='of /dev')
@pytest.mark.parametrize('closed', ['>&-', '2>&-', '<&- >&- 2>&-'])
def test_what_is_printed_to_a_closed_stream_is_in_no_file(closed, tmp_path):
  script = (
    START
    + f"""
import os
with open({str(tmp_path / 'file')!r}, 'w') as file:
  for stream in (1, 2):
    os.write(stream, b'stray')  # As libraries in C++ do.
  file.write('whole')
"""
  )
  clean = {name: value for name, value in os.environ.items() if name != 'GLIBC_TUNABLES'}
  command = ['sh', '-c', f'exec "$0" -c "$1" {closed}', sys.executable, script]
  subprocess.run(command, env=clean, check=True, capture_output=True)
  assert (tmp_path / 'file').read_text() == 'whole'
