"""The tutorial, executed as a newcomer would, in an empty folder."""

import json
import os
import pathlib
import re

import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOK = ROOT / 'docs' / 'tutorial.ipynb'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('tutorial')


@pytest.fixture(scope='module')
def outputs(folder):
  """{a code cell's id: its outputs}; where a cell fails, its error is the test's."""
  notebook = nbformat.read(NOTEBOOK, as_version=4)
  # One device, as a newcomer has; nothing of what the machine's user has set for IPython.
  own = {
    'PYTHONPATH': os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')])),
    'XLA_FLAGS': os.environ.get('XLA_FLAGS', '').replace('device_count=8', 'device_count=1'),
    'IPYTHONDIR': str(folder / 'ipython'),
    'MPLBACKEND': 'module://matplotlib_inline.backend_inline',
  }
  resources = {'metadata': {'path': str(folder)}}
  nbclient.NotebookClient(notebook, timeout=300, resources=resources).execute(env=os.environ | own)
  return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == 'code'}


def printed(outputs):
  return ''.join(o.text for o in outputs if o.output_type == 'stream' and o.name == 'stdout')


def percents(text):
  return [float(number) for number in re.findall(r'([\d.]+)%', text)]


def has_picture(outputs):
  return any('image/png' in output.get('data', {}) for output in outputs)


def test_it_trains_two_stages_of_which_the_second_is_better(outputs):
  first, second = printed(outputs['train']).splitlines()[-2:]
  (lightweight,), (specialist,) = percents(first), percents(second)
  assert specialist > 85
  assert 60 < lightweight < specialist


def test_it_shows_cost_and_coefficients(outputs):
  assert 'lightweight stage 198,976, both stages 3,858,464' in printed(outputs['cost'])
  assert 'coefficients (360, 12, 4)' in printed(outputs['coefficients'])
  assert has_picture(outputs['coefficients-plot'])


def test_its_higher_thresholds_let_fewer_exit_and_the_last_is_as_good_as_the_specialist(outputs):
  rates, top1 = zip(*map(percents, printed(outputs['early']).splitlines()), strict=True)
  assert list(rates) == sorted(rates, reverse=True) and rates[0] > rates[-1]
  (specialist,) = percents(printed(outputs['train']).splitlines()[-1])
  assert abs(top1[-1] - specialist) < 2
  assert has_picture(outputs['early-plot'])


def test_its_predictor_and_its_exported_programs_answer(outputs, folder):
  (right,) = percents(printed(outputs['predict']).splitlines()[0])
  assert right > 85
  assert (folder / 'tutorial/exported/specialist.stablehlo').stat().st_size > 100_000
  assert printed(outputs['run']).startswith('a 0:\n0  ')


def test_it_is_stored_clean():
  """No outputs, and nothing of the machine and the time that it was written on."""
  notebook = json.loads(NOTEBOOK.read_text(encoding='utf-8'))
  nbformat.validate(notebook)
  assert set(notebook['metadata']) == {'kernelspec', 'language_info'}
  assert notebook['metadata']['kernelspec']['name'] == 'python3'
  assert notebook['metadata']['language_info'] == {'name': 'python'}
  for cell in notebook['cells']:
    assert not cell['metadata'] and not cell.get('outputs') and not cell.get('execution_count')
    assert not re.search(r'/(home|root|tmp|Users|work)/', ''.join(cell['source']))
