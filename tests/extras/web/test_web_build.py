"""`make web`: what it lacks is a sentence; types and packages."""

import subprocess

import pages
from pages import WEB


def test_what_make_web_lacks_is_a_sentence(made, tmp_path):
  code, said = pages.build(tmp_path / 'nothing', tmp_path / 'site')
  assert code != 0
  assert f'{tmp_path}/nothing/model.json does not exist; export a run first' in said
  code, said = pages.build(made['export'], tmp_path / 'site', tmp_path / 'nowhere')
  assert code != 0 and f'SAMPLES={tmp_path}/nowhere does not exist.' in said
  code, said = pages.build(made['export'], made['folder'])
  assert code != 0 and 'has other files in it: name a new folder.' in said
  assert (made['export'] / 'model.json').exists()


def test_types_are_right():
  done = subprocess.run(
    [WEB / 'node_modules' / '.bin' / 'tsc', '--project', WEB], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_the_lock_names_no_registry():
  lock = (WEB / 'package-lock.json').read_text()
  assert 'resolved' not in lock and '://' not in lock
