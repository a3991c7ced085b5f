"""The walls between the rooms: who may import whom, read from the sources."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'basisnet_jax'
ENTRIES = 'main.py', 'predict.py', 'stream.py', 'serve.py', 'export.py'
FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob('*.py'))}


def imports(tree, *, at_the_top=False):
  """Dotted names of all modules that a file imports (or of those on its top level)."""
  names = set()
  for node in tree.body if at_the_top else ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'imports are absolute'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def importers(*modules, **options):
  """The files that import one of these modules or anything in them."""
  return {
    name
    for name, path in FILES.items()
    for found in imports(ast.parse(path.read_text()), **options)
    if any(f'{found}.'.startswith(f'{module}.') for module in modules)
  }


def rooms(files):
  return {name.split('/')[0] for name in files}


def test_imports_are_found_wherever_they_stand():
  tree = ast.parse('import a.b\nfrom c import d as e\ndef f():\n  import g')
  assert imports(tree) == {'a.b', 'c.d', 'g'}
  assert imports(tree, at_the_top=True) == {'a.b', 'c.d'}
  assert 'models/basisnet.py' in importers('flax')
  assert len(FILES) > 30


@pytest.mark.parametrize(
  'room, may_import_it',
  [
    (
      'models',
      {'models', 'evaluation', 'inference', 'training', *ENTRIES},
    ),
    ('data', {'data', 'training'}),
    (
      'evaluation',
      {'evaluation', 'inference', 'sweep', 'training', *ENTRIES},
    ),
    ('inference', {'inference', 'serving', *ENTRIES} - {'main.py'}),
    ('serving', {'serving', 'serve.py'}),
    ('training', {'training', 'preflight', 'sweep', *ENTRIES}),
    ('sweep', {'sweep', 'command_line.py', 'main.py'}),
    ('preflight', {'preflight'}),
    ('base_config', {'command_line.py', 'config.py'}),
    ('config', {'command_line.py', 'saved_config.py', 'training', 'preflight', 'main.py'}),
    ('command_line', {'main.py'}),
    ('main', set()),
  ],
)
def test_arrows_point_one_way(room, may_import_it):
  assert rooms(importers(f'basisnet_jax.{room}')) <= may_import_it


def test_data_and_sweeps_know_nothing_of_jax():
  assert not {'data', 'sweep'} & rooms(importers('jax', 'flax', 'optax', 'orbax', 'clu'))


def test_tensorflow_is_imported_for_data_and_lazily_for_event_files():
  modules = 'tensorflow', 'tensorflow_datasets', 'tensorboard'
  assert rooms(importers(*modules, at_the_top=True)) == {'data'}
  assert {name for name in importers(*modules) if not name.startswith('data/')} == {
    'training/telemetry.py'
  }
  # Whoever imports the data, imports TensorFlow: nobody does before it is needed.
  assert rooms(importers('basisnet_jax.data', at_the_top=True)) == {'data'}


@pytest.mark.parametrize(
  'module, files',
  [
    ('orbax', {'training/checkpoints.py'}),
    ('clu.metric_writers', {'training/telemetry.py'}),
    ('clu.metrics', {'evaluation/metrics.py'}),
    ('tqdm', {'training/progress.py'}),
    ('onnx', {'inference/onnx_file.py'}),
    ('onnxruntime', {'inference/onnx_file.py', 'inference/run_export.py'}),
    (
      'matplotlib',
      {f'evaluation/plots{name}.py' for name in ('', '_calibration', '_coefficients', '_rows')},
    ),
    ('scipy', {'evaluation/risk_control.py', 'training/mixing.py'}),
    ('sklearn', {'data/digits.py'}),
    ('ray', {'inference/on_ray.py'}),
    ('triton_python_backend_utils', {'inference/triton_two_stage.py'}),
    ('uvicorn', {'serving/engine.py'}),
    ('prometheus_client', {'serving/counts.py'}),
    ('absl.flags', {'main.py', 'command_line.py'}),
    ('absl.app', {'main.py'}),
  ],
)
def test_one_file_knows_the_library(module, files):
  assert importers(module) == files


def test_a_config_dict_is_seen_by_entry_points_alone():
  assert importers('ml_collections') <= {
    'base_config.py', 'command_line.py', 'config.py', 'export.py', 'saved_config.py',
    'preflight/job.py', 'preflight/table.py',
    'training/evaluator.py', 'training/experiment.py', 'training/learning.py', 'training/loop.py',
    'training/teacher.py', 'training/trained.py',
  }  # fmt: skip


def test_flags_are_read_in_main_alone():
  def reads_flags(tree):
    return any(isinstance(node, ast.Attribute) and node.attr == 'FLAGS' for node in ast.walk(tree))

  readers = {name for name, path in FILES.items() if reads_flags(ast.parse(path.read_text()))}
  assert readers == {'main.py', 'command_line.py'}  # The latter hands them to the parser.


def test_no_file_is_long():
  assert {name for name, path in FILES.items() if len(path.read_text().splitlines()) > 350} == set()
