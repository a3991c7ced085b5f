"""What is written for readers: docstrings of the reference, and what pages point at."""

import ast
import pathlib
import re
import subprocess
import sys

from absl import flags
import pytest

from basisnet_jax import base_config, config
from basisnet_jax import main as program

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted((ROOT / 'basisnet_jax').rglob('*.py'))
PAGES = sorted([ROOT / 'README.md', ROOT / 'launch/README.md', *(ROOT / 'docs').glob('*.md')])


def undocumented(tree, prefix=''):
  """Names of what is public and has no docstring, of classes their methods too."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
      if node.name.startswith('_'):
        continue
      if not ast.get_docstring(node):
        yield prefix + node.name
      if isinstance(node, ast.ClassDef):
        yield from undocumented(node, f'{prefix}{node.name}.')


def test_all_that_is_public_has_a_docstring():
  assert list(undocumented(ast.parse('class A:\n  "a"\n  def b(self): ...\ndef _c(): ...'))) == [
    'A.b'
  ]
  missing = []
  for path in SOURCES:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names = [*([] if ast.get_docstring(tree) else ['the module']), *undocumented(tree)]
    missing += [f'{path.relative_to(ROOT)}: {name}' for name in names]
  assert not missing


def test_what_the_reference_leaves_out_exists():
  tree = ast.parse((ROOT / 'docs/reference.py').read_text(encoding='utf-8'))
  (left_out,) = (
    ast.literal_eval(node.value)
    for node in tree.body
    if isinstance(node, ast.Assign) and node.targets[0].id == 'LEFT_OUT'
  )
  assert {f'{name.replace(".", "/")}.py' for name in left_out} <= {
    str(path.relative_to(ROOT)) for path in SOURCES
  }


def test_the_reference_is_built(tmp_path):
  command = [sys.executable, 'docs/reference.py', str(tmp_path)]
  built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert built.returncode == 0, built.stderr
  assert (tmp_path / 'basisnet_jax/inference/predictor.html').exists()
  assert not (tmp_path / 'basisnet_jax/inference/triton_two_stage.html').exists()


def commands(text):
  """Commands of the program in a page's blocks, each on one line."""
  for block in re.findall(r'^```\w*\n(.*?)^```', text, re.DOTALL | re.MULTILINE):
    for line in block.replace('\\\n', ' ').splitlines():
      if 'basisnet_jax.main' in line or line.lstrip().startswith('launch/local.sh'):
        yield line.split('#')[0]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
  links = re.findall(r'\]\(([^)#]+)[^)]*\)', page.read_text(encoding='utf-8'))
  broken = [link for link in links if '://' not in link and not (page.parent / link).exists()]
  assert not broken


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_flags_and_recipes_that_there_are(page):
  assert program  # Its flags.
  keys = config.flatten(base_config.get_config().to_dict())
  for command in commands(page.read_text(encoding='utf-8')):
    for name, value in re.findall(r'--([\w.]+)(?:=(\S+))?', command):
      if name.startswith('config.'):
        assert name.removeprefix('config.') in keys, command
      elif name == 'config' and not re.search('[A-Z]{4}', value):  # 'RECIPE' is the reader's.
        assert (ROOT / value.partition(':')[0].strip('\'"[]')).exists(), command
      elif name != 'config':
        assert name in flags.FLAGS, command


def test_targets_of_make_are_explained():
  makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
  targets = re.search(r'^\.PHONY: (.*)', makefile, re.MULTILINE)[1].split()
  explained = re.findall(r"^\t@echo 'make (\S+)", makefile, re.MULTILINE)
  assert set(explained) == set(targets) - {'help'}
  text = '\n'.join(page.read_text(encoding='utf-8') for page in PAGES)
  assert set(re.findall(r'(?:^|`)make ([a-z-]+)(?=[`\s])', text, re.MULTILINE)) <= set(targets)


def test_help_tells_which_modes_read_a_flag():
  modes = {}
  for mode, holders in program._READS.items():
    for holder in holders:
      modes.setdefault(holder.name, []).append(mode)
  for name, readers in modes.items():
    told = re.search(r'For --mode=([\w ,]+):', flags.FLAGS[name].help)
    if name != 'output':  # Something else for each.
      assert re.findall(r'\w+', told[1].replace(' and ', ' ')) == readers, name
