"""Time from the command to the end of the first training step, with a cold and a warm cache.

  python -m benchmarks.startup --data_dir=DIR [--output=DIR]

This is the main recipe's own command, in fresh processes; imagenet2012's validation images stand in
for its training images. The batch is only 32, since it is the start that is measured.
"""

from collections.abc import Iterator
import os
import pty
import re
import select
import signal
import subprocess
import tempfile
import termios
import time

import jax

from benchmarks import measure, ours, table

_WARM = 3
_LIMIT = 20.0  # Seconds that a warm start may take.
_TIMEOUT = 900.0


def cases(seconds: float, data_dir: str) -> Iterator[table.Row]:
  """A cold start, then warm ones; `seconds` is unused."""
  del seconds
  with tempfile.TemporaryDirectory() as folder:
    cold, *warm = [_first_step(folder, data_dir, run) for run in range(1 + _WARM)]
  case, ratio = 'command to the end of the first step', [seconds / _LIMIT for seconds in warm]
  yield table.Row(case, 'cold cache', measure.spread([cold]), 's')
  limit = {'against': f'{_LIMIT:g} s', 'ratio': measure.spread(ratio), 'bar': 'at most 1'}
  yield table.Row(case, 'warm cache', measure.spread(warm), 's', **limit)


def _first_step(folder, data_dir, run):
  """Seconds until the progress bar says that a step is done."""
  terminal, end = pty.openpty()  # The bar redraws itself only on terminals.
  termios.tcsetwinsize(end, (24, 120))
  # With an accelerator, the host is one step ahead: once the second has begun, the first is done.
  first = 1 if jax.default_backend() == 'cpu' else 2
  start = time.perf_counter()
  process = subprocess.Popen(
    ours.command('', f'{folder}/{run}', data_dir),
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': f'{folder}/cache'},
    stdout=end,
    stderr=end,
  )
  os.close(end)
  text = ''
  try:
    while (left := start + _TIMEOUT - time.perf_counter()) > 0:
      if not select.select([terminal], [], [], left)[0]:  # It may stay silent forever.
        break
      text += os.read(terminal, 65536).decode(errors='replace')
      if re.search(rf'\| ([{first}-9]|[1-9][\d,]+)/', text):
        return time.perf_counter() - start
  except OSError:  # The process has ended.
    pass
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(terminal)
  raise SystemExit(f'No first step:\n{text[-2000:]}')


if __name__ == '__main__':
  table.main('startup', 'From the command to the first training step', cases, data_dir=True)
