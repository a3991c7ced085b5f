"""Keeps the compiled training step for the next start, which then need not trace it.

JAX's compilation cache finds a program by the result of tracing and lowering, which take longer
than all the rest of a warm start. Here it is found by their inputs.
"""

import hashlib
import importlib.metadata
import os
import pathlib
import pickle
import re
import sys
import sysconfig
import threading
from typing import Any
import zlib

from absl import logging
from etils import epath
import jax
from jax.experimental import serialize_executable

from basisnet_jax import environment, whole_file
from basisnet_jax.evaluation import metrics

_PACKAGE = pathlib.Path(__file__).parents[1]
_MOST = 64  # Steps to keep, some MB each.


def path_of(*recipe: Any) -> epath.Path | None:
  """Returns where the step for `recipe` is kept, a path that depends on everything it is made of.

  That is the source of this package and of all loaded modules that are not installed, the versions
  of installed packages, JAX's options, and the devices. `recipe` is trees of any kind, of which the
  shapes, dtypes and shardings of arrays and the `repr` of everything else count.

  Returns:
    None if nothing is kept: JAX has no cache folder, there are several processes (untested), or a
    source file has changed since this process started, which may be running the old one.
  """
  folder = jax.config.jax_compilation_cache_dir
  if not folder or jax.process_count() > 1:
    return None
  sources = sorted(_sources())
  if not all(map(_is_what_runs, sources)):
    return None
  leaves, structure = jax.tree.flatten(recipe)
  made_of = (
    [(x.shape, x.dtype, x.sharding) if hasattr(x, 'sharding') else x for x in leaves],
    structure,
    sorted(f'{package.name} {package.version}' for package in importlib.metadata.distributions()),
    sys.version,
    sorted((name, str(value)) for name, value in jax.config.values.items()),
    [os.environ.get(name) for name in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')],
    [(device.id, device.device_kind) for device in jax.devices()],
    jax.devices()[0].client.platform_version,
    _processor(),
  )
  digest = hashlib.sha256(repr(made_of).encode())
  for path in sources:
    digest.update(path.read_bytes())
  return epath.Path(folder) / 'steps' / f'{digest.hexdigest()}.step'


def _sources():
  """Python files that are not covered by a version number."""
  paths = sysconfig.get_paths()
  installed = tuple(paths[name] for name in ('stdlib', 'purelib', 'platlib'))
  loaded = {getattr(module, '__file__', None) or '' for module in list(sys.modules.values())}
  own = {path for path in loaded if path.endswith('.py') and not path.startswith(installed)}
  return {*map(pathlib.Path, own), *_PACKAGE.rglob('*.py')}  # Some of ours are imported late.


def _is_what_runs(source):
  return source.exists() and source.stat().st_mtime < environment.STARTED


def _processor():
  """The number of cores, over which work is split, and the instruction sets: others would crash."""
  try:
    text = pathlib.Path('/proc/cpuinfo').read_text()
  except OSError:  # Not Linux; there, machines rarely share a cache folder.
    text = ''
  return os.cpu_count(), re.findall('^(?:flags|Features).*', text, re.MULTILINE)[:1]


def compile_and_keep(step: jax.stages.Lowered, path: epath.Path) -> jax.stages.Compiled:
  """Compiles `step(state, batch, ...) -> (state, metrics)` and keeps it if possible.

  A program from JAX's own cache is not kept: on CPU, serializing it again loses its functions
  (jaxlib 0.10), so that it would fail in the middle of the next run's first step.
  """
  found, thread = [], threading.get_ident()

  def on_event(event, **_):
    if event == '/jax/compilation_cache/cache_hits' and threading.get_ident() == thread:
      found.append(event)

  jax.monitoring.register_event_listener(on_event)
  try:
    compiled = step.compile()
  finally:
    jax.monitoring.unregister_event_listener(on_event)
  if not found:
    _keep(compiled, path)
  return compiled


def _keep(step, path):
  try:
    program, _, _ = serialize_executable.serialize(step)
  except (NotImplementedError, ValueError, jax.errors.JaxRuntimeError) as error:
    # This backend cannot, or not with this step's constants: no later start will do better.
    logging.log_first_n(
      logging.INFO, 'The compiled step is not kept for the next start: it cannot be written (%s)',
      1, error,
    )  # fmt: skip
    return
  _, collected = jax.tree.unflatten(step.out_tree, [None] * step.out_tree.num_leaves)
  names = tuple(type(collected).__annotations__)
  try:
    whole_file.write(path, zlib.compress(pickle.dumps((names, program)), 1))  # Adds a checksum.
    kept = sorted(path.parent.glob('*.step'), key=lambda other: other.stat().mtime)
    for old in kept[:-_MOST]:
      old.unlink(missing_ok=True)
  except OSError as error:
    logging.warning('The compiled step is not kept for the next start: %s', error)


def load(path: epath.Path, *arguments: Any) -> jax.stages.Compiled | None:
  """Loads the step kept at `path` for these arguments or their shapes; None if there is none."""
  if not path.exists():
    return None
  try:
    names, program = pickle.loads(zlib.decompress(path.read_bytes()))
    collected = metrics.collection(names).single_from_model_output(**dict.fromkeys(names, 0.0))
    taken, returned = map(jax.tree.structure, ((arguments, {}), (arguments[0], collected)))
    return serialize_executable.deserialize_and_load(program, taken, returned)
  except Exception as error:  # Whatever is wrong with the file, the step can be compiled.
    logging.warning('The step that %s keeps is compiled anew: %s', path, error)
    return None
