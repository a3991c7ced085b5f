"""Builds the reference of all modules into site/, out of their docstrings: `make docs`."""

import importlib
import pathlib
import pkgutil
import sys
import types
import warnings

import pdoc

import basisnet_jax

# The program, whose flags `--help` lists; the recipe that it starts again from; what exports hold.
LEFT_OUT = (
  'basisnet_jax.inference.run_export',
  'basisnet_jax.inference.triton_two_stage',
  'basisnet_jax.main',
  'basisnet_jax.saved_config',
)


def main(folder: str = 'site') -> None:
  """Writes the pages; whatever pdoc cannot make sense of is an error."""
  # pdoc looks at what a module holds, and this is fetched when it is asked for.
  basisnet_jax.load = basisnet_jax.load
  # pdoc imports what it leaves out, too, and this is there in Triton's container alone.
  sys.modules.setdefault('triton_python_backend_utils', types.ModuleType('triton'))
  # Of packages that name what is imported from them, it would leave out the modules within.
  names = [name for _, name, is_package in _modules() if is_package]
  for package in map(importlib.import_module, ['basisnet_jax', *names]):
    if hasattr(package, '__all__'):
      within = (module.name for module in pkgutil.iter_modules(package.__path__))
      package.__all__ = [*package.__all__, *sorted(set(within) - set(package.__all__))]
  warnings.filterwarnings('error', module=r'pdoc\b')
  # Initializers are functions of JAX, whose annotations mean something in their own modules alone.
  warnings.filterwarnings('ignore', r'Error parsing type annotation .*_init\.')
  pdoc.render.configure(docformat='google', footer_text=f'basisnet_jax {basisnet_jax.__version__}')
  modules = 'basisnet_jax', *(f'!{name}$' for name in LEFT_OUT)
  pdoc.pdoc(*modules, output_directory=pathlib.Path(folder))
  print(f'Written: {folder}/index.html')


def _modules():
  return pkgutil.walk_packages(basisnet_jax.__path__, 'basisnet_jax.')


if __name__ == '__main__':
  main(*sys.argv[1:])
