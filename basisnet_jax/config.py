"""Operations on configs: applying variants, comparing, saving to a workdir and loading."""

from collections.abc import Callable, Mapping, Sequence
import importlib.metadata
import json
import platform
from typing import Any

from etils import epath
import ml_collections
from ml_collections.config_flags import config_path

import basisnet_jax
from basisnet_jax import base_config, config_ranges, whole_file
from basisnet_jax.config_ranges import describe
from basisnet_jax.errors import UserError

_LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'tensorflow-datasets')
# Keys that may change when a run is continued: they do not affect what it computes.
_FREE = (
  'name',
  'data.data_dir',
  'data.broken_images',
  'data.heldout_split',
  'training.accumulation',
  'training.nonfinite',
  'training.stall_timeout',
  'evaluation.',
  'early_exit.',
  'checkpoint.',
  'logging.',
  'sharding.',
)
# Of these, the keys that choose a threshold: what a finished run has found depends on them.
_CHOOSING = ('data.heldout_split', 'early_exit.')
_READ_ONCE = ('init.weights', 'init.lightweight_weights')  # Files read when a run begins.


def apply_variants(
  c: ml_collections.ConfigDict,
  argument: str | None,
  variants: Mapping[str, Callable[[ml_collections.ConfigDict], Any] | Mapping[str, Any]],
) -> ml_collections.ConfigDict:
  """Applies the variants in `argument` ('k8', 'k8,small' or nothing) to `c`, in their order.

  A variant is a function that changes the config, or a dict of dotted keys and
  values. Each one is appended to `c.name` ('mnv3' becomes 'mnv3_k8'), so that
  variants do not share a default workdir. Returns `c`; raises UserError with the
  list of variants for an unknown one.
  """
  for name in argument.split(',') if argument else ():
    if name not in variants:
      raise UserError(
        f'{c.name} has no variant {name!r}; it has {", ".join(variants) or "none"}'
        ' (several are joined by commas).'
      )
    variant = variants[name]
    if callable(variant):
      variant(c)
    else:
      for key, value in variant.items():
        config_path.set_value(key, c, value)
    c.name = f'{c.name}_{name}'
  return c


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns {dotted key: value} for every leaf."""
  flat = {}
  for key, value in config.items():
    if isinstance(value, ml_collections.ConfigDict | dict):
      flat.update(flatten(value, f'{prefix}{key}.'))
    else:
      flat[f'{prefix}{key}'] = value
  return flat


def changed_keys(
  old: ml_collections.ConfigDict, new: ml_collections.ConfigDict
) -> dict[str, tuple[Any, Any]]:
  """Returns {dotted key: (old, new)} where the two differ; an absent key counts as None."""
  old, new = flatten(old), flatten(new)
  keys = dict.fromkeys([*old, *new])
  return {k: (old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)}


def check_same_run(
  config: ml_collections.ConfigDict, workdir: str, *, finished: bool = False
) -> None:
  """Raises a UserError if a recipe saved in the workdir computes something else.

  With `finished`, also if it chooses a threshold in another way: the run will not choose again.
  """
  if not is_saved(workdir):
    return
  changed = {
    key: values
    for key, values in changed_keys(load(workdir), config).items()
    if (not key.startswith(_FREE) or (finished and key.startswith(_CHOOSING)))
    and not _is_moved(key, *values)
  }
  if changed:
    keys = ', '.join(f'{key} was {old!r} and is {new!r}' for key, (old, new) in changed.items())
    raise UserError(
      f'{workdir} holds a run of another recipe ({keys}); give this one another --workdir, or '
      'the old values.'
    )


def _is_moved(key, old, new) -> bool:
  """Whether the key names a file that only a fresh run reads, and that file is gone."""
  return key in _READ_ONCE and bool(old and new) and not epath.Path(old).exists()


def is_saved(workdir: str) -> bool:
  """Whether `save` has written a config to `workdir`."""
  return (epath.Path(workdir) / 'config.json').exists()


def save(
  config: ml_collections.ConfigDict,
  workdir: str,
  *,
  label_names: Sequence[str],
  device_kind: str,
) -> None:
  """Writes config.json, versions.json and labels.txt (a name per line) to `workdir`.

  Makes the folder if need be, and replaces each file in one step. Raises
  UserError if it cannot be written.
  """
  folder = epath.Path(workdir)
  texts = {
    'versions.json': json.dumps(versions() | {'device': device_kind}, indent=2) + '\n',
    'labels.txt': ''.join(f'{name}\n' for name in label_names),
    'config.json': json.dumps(config.to_dict(), indent=2) + '\n',
  }
  try:
    for name, text in texts.items():
      whole_file.write(folder / name, text)
  except OSError as error:
    raise UserError(
      f'The workdir {workdir} cannot be written ({error.strerror}); choose another --workdir.'
    ) from error


def load(workdir: str) -> ml_collections.ConfigDict:
  """Returns the locked config that `save` wrote to `workdir`, equal in every value and type.

  A key that the saved file lacks (an older run) gets the base recipe's default.
  Raises UserError if the file is missing or damaged, or has unknown keys or values that make no
  sense.
  """
  path = epath.Path(workdir) / 'config.json'
  if not path.exists():
    raise UserError(
      f'{path} does not exist: train there first, or give the --workdir of a run that was.'
    )
  mend = 'restore the file, or give the recipe by --config'
  try:
    saved = json.loads(path.read_text())
  except (ValueError, OSError) as error:
    raise UserError(f'{path} cannot be read ({error}); {mend}.') from error
  if not isinstance(saved, dict):
    raise UserError(f'{path} holds a {type(saved).__name__}, not a config; {mend}.')
  saved = flatten(saved)
  config = base_config.get_config()
  defaults = flatten(config)
  if unknown := [key for key in saved if key not in defaults]:
    raise UserError(f'{path} has keys this version does not know, {", ".join(unknown)}; {mend}.')
  for key, value in saved.items():
    wanted = config_path.get_type(key, config)
    value = _to_tuple(value)
    if wanted is float and type(value) is int:
      value = config_ranges.decimal(value)
    if not _fits(value, wanted, defaults[key]):
      raise UserError(f'{path} has {value!r} for {key}, wanted {describe(wanted)}; {mend}.')
    config_path.set_value(key, config, value)
  hold_to_ranges(config, prefix=f'{path}: ', mend=f'; {mend}')
  return config


def check_recipe(config: ml_collections.ConfigDict, name: str) -> None:
  """Raises a UserError unless a recipe has the base recipe's keys, with values of their types.

  Otherwise `load` would refuse what `save` writes. A NumPy float, such as `0.1 * np.sqrt(2)`,
  becomes Python's. `name` is what errors call the recipe.
  """
  base = base_config.get_config()
  found, defaults = flatten(config), flatten(base)
  for key in dict.fromkeys([*defaults, *found]):
    if key not in found:
      raise UserError(f'{name} has no key {key!r}: begin it with c = base_config.get_config().')
    if key not in defaults:
      raise UserError(f'{name} has the key {key!r}, which is not in base_config.py; leave it out.')
    value, wanted = found[key], config_path.get_type(key, base)
    if _fits(value, wanted, defaults[key]):
      continue
    if not (wanted is float and isinstance(value, float)):
      raise UserError(
        f'{name} sets {key} to {value!r}, wanted {describe(wanted)} (its default is '
        f'{defaults[key]!r}).'
      )
    with config.ignore_type():
      config_path.set_value(key, config, float(value))


def _fits(value: Any, wanted: type, default: Any) -> bool:
  """Whether a key takes a value; None is a placeholder that was not set."""
  # Not isinstance: bool is an int to Python, but not to us.
  return type(value) is wanted or (value is None and default is None)


def hold_to_ranges(config: ml_collections.ConfigDict, **options: str) -> None:
  """Runs `config_ranges.check` on a config, and puts the tuples that it returns into it."""
  defaults = flatten(base_config.get_config())
  for key, value in config_ranges.check(flatten(config), defaults, **options).items():
    config_path.set_value(key, config, value)


def versions() -> dict[str, str]:
  """Returns the versions of Python, of this package and of the libraries it builds on."""
  versions = {'basisnet_jax': basisnet_jax.__version__, 'python': platform.python_version()}
  versions |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
  for name in ('tensorflow', 'tensorflow-cpu'):  # One module, two packages.
    try:
      versions['tensorflow'] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return versions


def _to_tuple(value: Any) -> Any:
  return tuple(map(_to_tuple, value)) if isinstance(value, list) else value
