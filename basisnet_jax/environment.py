"""What a process needs around it before it starts to compute."""

import os
import sys
import time

STARTED = time.time()  # Sources that changed after it are not what runs.

# glibc's malloc: XLA takes a few GB for each step on CPU and frees them after it. By default they
# go back to the system, which clears them anew, in small pages: up to as long as the step itself.
_TUNABLES = {
  'glibc.malloc.hugetlb': '1',  # Huge pages.
  'glibc.malloc.mmap_max': '0',  # Large blocks come from the heap, too,
  'glibc.malloc.trim_threshold': str(2**62),  # which keeps what was freed for the next step.
}


def start_again() -> None:
  """Starts the process again, once, with what only the environment at the start can change.

  That is how memory is taken (a tunable that is set already stays as it is), and UTF-8 for names
  of files and what is printed, whatever the locale: TensorFlow takes no others. Linux only.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  missing = [f'{name}={value}' for name, value in _TUNABLES.items() if name not in tunables]
  if sys.platform == 'linux' and missing:
    os.environ['PYTHONUTF8'] = '1'
    os.environ['GLIBC_TUNABLES'] = ':'.join(filter(None, [tunables, *missing]))
    os.execv(sys.executable, sys.orig_argv)


def dispatch_in_calling_thread() -> None:
  """Lets what runs on one CPU device start in the thread that calls it; before JAX is used.

  It takes its memory there, and only the main thread's heap keeps large blocks (`start_again`).
  Nothing is lost: beside a step that uses all cores there is nothing to do. Several devices, and
  accelerators, are not concerned.
  """
  import jax

  jax.config.update('jax_cpu_enable_async_dispatch', False)
