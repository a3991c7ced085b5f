"""Checks all hosts before a job: run it on each of them with the training's flags.

  python launch/preflight.py --config=configs/mnv3.py --workdir=gs://BUCKET/mnv3 \
      --config.data.data_dir=gs://BUCKET/tensorflow_datasets [--coordinator_address=...]

Process 0 prints a table (check, found, verdict). All processes end with code 0 if all is well, with
2 and a sentence for each failed check, or with 1 if JAX itself crashed. In order:

  processes       all meet
  versions        Python, the libraries and the sources of basisnet_jax are the same everywhere
  recipe          each value of the resolved recipe is the same everywhere, and so is the workdir
  clocks          agree within five seconds
  workdir         process 0 can write to it, and the others see what it wrote (and then removes)
  devices         each host has the same number, all of one kind; they fill the recipe's mesh
  data            each host opens the dataset and reads its batches; images/s of the input alone
  training step   the recipe's own, at its batch size, on random images: compiles, finite, speed
  all-reduce      64 MB over all devices, ten times: the sum is right; median time, GB/s

Each check has a time limit (--time_limit, 600 s; a minute for checks that need seconds), after
which the host that did not answer is named. Nothing is trained or kept. It uses the devices, so no
training may run on them meanwhile.
"""

import os
import pathlib
import sys
import traceback

# This file is run as a script: check the package beside it, and find your own networks in the
# current folder, as `python -m` does.
sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), os.getcwd()]

from absl import app, flags, logging  # noqa: E402

from basisnet_jax import command_line, supervisor  # noqa: E402
from basisnet_jax import main as program  # noqa: E402, F401  Defines our flags.
from basisnet_jax.errors import UserError  # noqa: E402

_TIME_LIMIT = flags.DEFINE_float('time_limit', 600.0, 'Seconds that a check may take.')


def main(config) -> None:
  """Checks the job of a resolved recipe and ends the process."""
  import jax

  from basisnet_jax import distributed
  from basisnet_jax.preflight import table

  logging.set_verbosity(logging.WARNING)
  # If a process dies, the others should name it, not end with it.
  jax.config.update('jax_enable_recoverability', True)
  jax.config.update('jax_enable_preemption_service', False)  # SIGTERM ends.
  f = flags.FLAGS
  workdir = f.workdir or os.path.join('runs', config.name)
  try:
    distributed.initialize(
      f.coordinator_address, f.num_processes, f.process_id, f.processes_timeout
    )
    failed = table.run(config, workdir, _TIME_LIMIT.value)
    code = 2 if failed else 0
  except UserError as error:
    failed, code = [str(error)], 2
  except Exception:  # JAX could not even begin.
    failed, code = [traceback.format_exc()], 1
  for sentence in failed:
    print(sentence, file=sys.stderr)
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(code)  # An orderly end would wait for whatever is stuck.


def run() -> None:
  """The command-line entry point."""
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')  # JAX's C++ code prints only errors.
  if supervisor.is_needed(1):
    # Without process 0, JAX aborts the others from C++ and prints pages.
    code = supervisor.supervise(0)
    if code > 2:
      print(
        f'The preflight on this host was ended (code {code}): by a signal, or because process 0 is '
        'gone; see its output.',
        file=sys.stderr,
      )
    sys.exit(1 if code > 2 else code)
  app.run(main, flags_parser=command_line.parse_flags)


if __name__ == '__main__':
  run()
