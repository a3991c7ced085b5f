"""What a process needs in its environment before it starts to compute."""

import os
import sys
import time

STARTED = time.time()  # Sources that changed after this are not what runs.

# glibc's malloc: on CPU, XLA allocates a few GB for each step and frees them after it. By default
# they go back to the system, which clears them again in small pages: this can take as long as the
# step itself.
_TUNABLES = {
  'glibc.malloc.hugetlb': '1',  # Huge pages.
  'glibc.malloc.mmap_max': '0',  # Large blocks come from the heap, too,
  'glibc.malloc.trim_threshold': str(2**62),  # which keeps freed memory for the next step.
}


def start_again() -> None:
  """Restarts the process, once, with settings that only the environment at the start can change.

  These are how memory is allocated (tunables that are already set stay as they are), and UTF-8 for
  file names and output, whatever the locale: TensorFlow accepts no other names. Standard streams
  that are closed become the null device. Linux only.
  """
  tunables = os.environ.get('GLIBC_TUNABLES', '')
  missing = [f'{name}={value}' for name, value in _TUNABLES.items() if name not in tunables]
  if sys.platform == 'linux' and missing:
    os.environ['PYTHONUTF8'] = '1'
    os.environ['GLIBC_TUNABLES'] = ':'.join(filter(None, [tunables, *missing]))
    for stream in range(3):
      try:
        os.fstat(stream)
      except OSError:  # The next file would be opened in its place, and be printed into.
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    os.execv(sys.executable, sys.orig_argv)


def dispatch_in_calling_thread() -> None:
  """Makes programs on a single CPU device run in the calling thread; call it before JAX is used.

  They allocate their memory there, and only the main thread's heap keeps large blocks
  (`start_again`). Nothing is lost: while a step uses all cores, there is nothing else to do.
  Several devices, and accelerators, are not affected.
  """
  import jax

  jax.config.update('jax_cpu_enable_async_dispatch', False)
