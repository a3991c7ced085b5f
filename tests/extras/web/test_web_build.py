"""`make web`: what it lacks is a sentence; types and packages."""

import json
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


def test_an_export_of_other_formats_is_told_how_to_become_a_page(made, tmp_path):
  about = made['about'] | {'formats': ['stablehlo', 'onnx']}
  (tmp_path / 'model.json').write_text(json.dumps(about))
  code, said = pages.build(tmp_path, tmp_path / 'site')
  assert code != 0
  assert f'{tmp_path}/model.tflite does not exist; export a run first' in said
  assert f'--format=stablehlo,onnx,tflite --output={tmp_path})' in said


def test_types_are_right():
  done = subprocess.run(
    [WEB / 'node_modules' / '.bin' / 'tsc', '--project', WEB], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stdout


def test_the_lock_names_no_registry():
  lock = (WEB / 'package-lock.json').read_text()
  assert 'resolved' not in lock and '://' not in lock
