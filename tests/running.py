"""The program, started as users do, and what its runs leave in their workdirs."""

import json
import pathlib
import subprocess
import sys

import forks
import jax
import numpy as np
from orbax import checkpoint as ocp

ROOT = pathlib.Path(__file__).parents[1]


def command(*arguments, devices=1, **variables):
  """(command, environment) of the program on so many simulated devices."""
  environment = forks.environment(devices) | {'PYTHONUNBUFFERED': '1', **variables}
  return [sys.executable, '-m', 'basisnet_jax.main', *arguments], environment


def start(*arguments, devices=1, stderr=subprocess.PIPE, **variables):
  """Starts it: a fork, or anew where variables of the environment are given."""
  (_, *program), environment = command(*arguments, devices=devices, **variables)
  return forks.start(*program, cwd=ROOT, env=environment, stderr=stderr, anew=bool(variables))


def run(*arguments, **options):
  """Runs it to its end: (exit code, stdout, stderr)."""
  process = start(*arguments, **options)
  out, err = process.communicate(timeout=600)
  return process.returncode, out, err


def run_well(*arguments, **options):
  """The same for what must not fail: (stdout, stderr)."""
  code, out, err = run(*arguments, **options)
  assert code == 0, err
  return out, err


def evaluation(workdir):
  return json.loads((workdir / 'evaluation.json').read_text())


def checkpoints(workdir):
  """The steps that are saved."""
  return sorted(int(path.name) for path in workdir.glob('checkpoints/*') if path.name.isdigit())


def arrays(workdir, step):
  """{path: array} of a checkpoint, read by Orbax itself."""
  path = workdir / 'checkpoints' / str(step) / 'state'
  as_numpy = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
    ocp.PyTreeCheckpointHandler().metadata(path).tree,
  )
  state = ocp.PyTreeCheckpointer().restore(path, restore_args=as_numpy)
  flat, _ = jax.tree_util.tree_flatten_with_path(state)
  return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}
