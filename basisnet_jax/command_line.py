"""The command line: --config=recipe.py[:variant], --config.key=value, and the program's flags.

Every mistake in it is reported as one sentence (`UserError`), never as a stack trace.
"""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import difflib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import types

from absl import flags
import ml_collections
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from basisnet_jax import base_config
from basisnet_jax.config import check_recipe, flatten, hold_to_ranges, is_saved
from basisnet_jax.config_ranges import describe
from basisnet_jax.errors import UserError, of_buckets
from basisnet_jax.sweep import Sweep

_BASE = base_config.__file__
_SAVED = os.path.join(os.path.dirname(_BASE), 'saved_config.py')
# Bash leaves --workdir=~/runs as it is, and there would be a folder named ~.
_PATHS = r'config|workdir|output|images|video|config\.[\w.]*(?:weights|workdir)'
_AT_HOME = re.compile(rf'(--?(?:{_PATHS})=)(~(?:/.*)?)', re.DOTALL)


def parse_flags(argv: Sequence[str]) -> ml_collections.ConfigDict:
  """Parses the command line; for `app.run(main, flags_parser=command_line.parse_flags)`.

  `main` then receives the config; it is `flags.FLAGS.config` too. A mistake is
  printed as one sentence to stderr and the process exits with status 2.
  """
  try:
    return parse(argv, flags.FLAGS)
  except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)


def parse(argv: Sequence[str], flag_values: flags.FlagValues) -> ml_collections.ConfigDict:
  """Parses `argv` (program name first) into `flag_values` and returns the locked config.

  Without `--config` the recipe is the one saved in `--workdir`, if there is one,
  and the base recipe otherwise. Raises UserError for any mistake in `argv` or
  in the recipe.
  """
  # The flags of an earlier call would count as defined twice.
  for name in [n for n in flag_values if n.split('.')[0] == 'config']:
    delattr(flag_values, name)
  try:
    arguments = _arguments(argv, flag_values)
  except flags.Error as error:
    raise UserError(_one_line(error)) from error
  recipe, arguments = _take(arguments, 'config')
  if recipe is not None:
    path, colon, variant = recipe.partition(':')
    config = load_recipe(path, *([variant] if colon else []))
  else:
    workdir, _ = _take(arguments, 'workdir')
    with of_buckets():
      saved = workdir and is_saved(workdir)
      config = load_recipe(_SAVED, workdir) if saved else load_recipe(_BASE)
  defaults = flatten(config)
  _check_keys(arguments, config)
  argv = [argv[0], *arguments]
  try:
    help_string = 'The recipe: a path, or path:variant.'
    config_flags.DEFINE_config_dict('config', config, help_string, flag_values, sys_argv=argv)
    # For --help: the default is a file, and the flag is one of the program's own.
    flag_values['config'].default_as_str = repr(os.path.relpath(_BASE))
    flag_values.register_key_flag_for_module(argv[0], flag_values['config'])
    unparsed = flag_values(argv)[1:]
  except flags.UnrecognizedFlagError as error:
    known = dict.fromkeys([*flag_values, *(f'config.{key}' for key in defaults)])
    raise UserError(
      f'--{error.flagname} is not a flag; did you mean {_nearest(error.flagname, known)}?'
    ) from error
  except flags.IllegalFlagValueError as error:
    raise UserError(_describe_bad_value(error, config)) from error
  except (flags.Error, ValueError) as error:
    raise UserError(f'The command line is wrong: {_one_line(error)}.') from error
  if unparsed:
    raise UserError(
      f'{unparsed[0]!r} belongs to no flag; every argument is --flag=value, without spaces.'
    )
  for name in set(flag_values) - {f'config.{key}' for key in defaults}:
    if flag_values[name].value != flag_values[name].value:  # The flag's bounds let NaN through.
      raise UserError(f'--{name}=nan cannot be used: it is not a number.')
  hold_to_ranges(config)
  return config


def load_recipe(path: str, *arguments: str) -> ml_collections.ConfigDict:
  """Returns the locked config of the recipe at `path`; `arguments` is its variant, if any.

  Raises UserError for a file that is missing, is not a recipe or raises, for a
  variant that it does not have, and for what `config.check_recipe` refuses.
  """
  with _running(path):
    get_config = getattr(_execute(path), 'get_config', None)
    if not callable(get_config):
      raise UserError(f'{path} is not a recipe: it has no function get_config().')
    try:
      inspect.signature(get_config).bind(*arguments)
    except TypeError:
      if arguments:
        raise UserError(f'{path} takes no variants; leave out :{arguments[0]}.') from None
      raise UserError(f'{path} needs an argument: --config={path}:ARGUMENT.') from None
    config = get_config(*arguments)
  if not isinstance(config, ml_collections.ConfigDict):
    raise UserError(
      f'get_config() in {path} returned {type(config).__name__}, not a ConfigDict;'
      ' end it with `return c`.'
    )
  check_recipe(config, f'The recipe {path}')
  return config.lock()


def parse_sweep(
  argv: Sequence[str], flag_values: flags.FlagValues
) -> tuple[str, Sweep, dict[str, ml_collections.ConfigDict]]:
  """Returns (its path, the sweep, {row: its config with the command line's overrides}).

  `argv` is as in `parse`; its --config names a recipe that has a SWEEP.
  Raises UserError as `parse` does, for any row.
  """
  arguments = _arguments(argv, flag_values)
  path, arguments = _take(arguments, 'config')
  if path is None:
    raise UserError('A sweep needs --config=SWEEP.py, such as those in configs/sweeps.')
  if ':' in path:
    raise UserError(f'A sweep runs all of its rows: --config={path.partition(":")[0]} alone.')
  with _running(path):
    sweep = getattr(_execute(path), 'SWEEP', None)
  if not isinstance(sweep, Sweep):
    raise UserError(f'{path} is not a sweep: it has no SWEEP = Sweep(rows=...).')
  if any(re.match(r'--?config\.seed\b', argument) for argument in arguments):
    raise UserError('A sweep sets config.seed itself; choose by --seeds, such as --seeds=0,1,2.')
  rows = {}
  for row in sweep.rows:
    config = parse([argv[0], f'--config={path}:{row}', *arguments], flag_values)
    rows[row] = config.copy_and_resolve_references()
  return path, sweep, rows


def _arguments(argv: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
  """Arguments after the program's name, flag files included; '~' in paths is the home folder."""
  arguments = flag_values.read_flags_from_files(list(argv[1:]), force_gnu=False)
  at_home = ((argument, _AT_HOME.fullmatch(argument)) for argument in arguments)
  return [found[1] + os.path.expanduser(found[2]) if found else one for one, found in at_home]


def _execute(path: str) -> types.ModuleType:
  _check_path(path)
  spec = importlib.util.spec_from_file_location('recipe', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@contextlib.contextmanager
def _running(path: str) -> Iterator[None]:
  """Turns any exception of a recipe into a UserError."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:  # Recipes are programs: they may raise anything.
    raise UserError(_describe_crash(error, path)) from error


def _take(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
  """Returns the last value of --name=value or --name value, and the other arguments."""
  value, others, rest = None, [], iter(arguments)
  for argument in rest:
    if argument in (f'--{name}', f'-{name}'):
      value = next(rest, '')
    elif match := re.fullmatch(rf'--?{name}=(.*)', argument, re.DOTALL):
      value = match[1]
    else:
      others.append(argument)
      if argument == '--':
        others.extend(rest)
  return value, others


def _check_path(path: str) -> None:
  if os.path.isfile(path) and path.endswith('.py'):
    return
  folder = path if os.path.isdir(path) else os.path.dirname(path) or '.'
  if not path:
    problem = '--config has no value'
  elif os.path.isdir(path):
    problem = f'--config={path} is a folder, not a recipe'
  elif os.path.isfile(path):
    problem = f'--config={path} is not a Python file'
  else:
    problem = f'--config={path} does not exist'
  names = os.listdir(folder) if os.path.isdir(folder) else ()
  files = [os.path.join(folder, n) for n in sorted(names) if n.endswith('.py')]
  choice = f'name a recipe, such as {_join(files)}' if files else 'name a recipe (a Python file)'
  raise UserError(f'{problem}; {choice}.')


def _check_keys(arguments: Sequence[str], config: ml_collections.ConfigDict) -> None:
  keys = flatten(config)
  for argument in arguments:
    if argument == '--':
      return
    match = re.match(r'--?(?:no)?config\.([^=]*)', argument)
    if match is None or match[1] in keys:
      continue
    inner = [key for key in keys if key.startswith(f'{match[1]}.')]
    if inner:
      raise UserError(
        f'--config.{match[1]} is a group of keys;'
        f' set one of them, such as --config.{inner[0]}=VALUE.'
      )
    begun = [f'--config.{key}' for key in keys if match[1].startswith(f'{key}.')]
    nearest = _nearest(f'config.{match[1]}', [f'config.{key}' for key in keys])
    near = ' or '.join([*begun, nearest])
    base = os.path.relpath(_BASE)
    raise UserError(
      f'The config has no key {match[1]!r}; did you mean {near}? ({base} lists all keys.)'
    )


def _describe_bad_value(error: flags.Error, config: ml_collections.ConfigDict) -> str:
  # The library's text is 'flag --NAME=VALUE: REASON', and REASON is the cause.
  reason = str(error.__context__)
  text = str(error).removeprefix('flag --').removesuffix(f': {reason}')
  name, _, value = text.partition('=')
  if not name.startswith('config.'):
    return f'--{name}={value} cannot be used: {_one_line(reason)}.'
  wanted = config_path.get_type(name.removeprefix('config.'), config)
  hint = ''
  if wanted is int:
    try:
      hint = f' (write {int(float(value))})' if float(value).is_integer() else ''
    except (ValueError, OverflowError):
      pass
  return f'--{name} was given {value!r}, wanted {describe(wanted)}{hint}.'


def _describe_crash(error: Exception, path: str) -> str:
  if isinstance(error, SyntaxError):
    lines = [error.lineno] if error.filename == os.path.abspath(path) else []
  else:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == os.path.abspath(path)]
  where = f', line {lines[-1]},' if lines else ''
  cause = error
  while cause.args and isinstance(cause.args[0], Exception):
    cause = cause.args[0]  # ConfigDict wraps a KeyError in its AttributeError.
  message = cause.args[0] if isinstance(cause, KeyError) and cause.args else cause
  message = re.sub('Other fields present: .*', '', str(message))
  return f'The recipe {path}{where} failed with {type(error).__name__}: {_one_line(message)}'


def _nearest(name: str, candidates: Iterable[str]) -> str:
  """Names the candidate most like `name`, as a whole and in its last part, and near ties."""

  def likeness(candidate):
    pairs = (name, candidate), (name.split('.')[-1], candidate.split('.')[-1])
    return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

  ranked = sorted(candidates, key=likeness, reverse=True)
  close = [c for c in ranked[:3] if likeness(c) > likeness(ranked[0]) - 0.1]
  return ' or '.join(f'--{c}' for c in close)


def _join(names: Sequence[str]) -> str:
  return ', '.join(names[:20]) + (', ...' if len(names) > 20 else '')


def _one_line(error: Exception | str) -> str:
  return ' '.join(str(error).split()).rstrip('.')
