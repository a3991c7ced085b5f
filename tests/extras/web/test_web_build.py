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
  code, said = pages.build(made['export'], made['site'], made['site'] / 'samples')
  assert code != 0 and 'has files of the page itself' in said


def test_make_web_removes_only_what_it_wrote(made, tmp_path):
  site = tmp_path / 'site'
  site.mkdir()
  (site / 'samples.json').write_text('["mine"]')
  (site / 'notes.txt').write_text('mine')
  code, said = pages.build(made['export'], site)
  assert code != 0 and 'was not written by make web: name a new folder, or move it.' in said
  assert sorted(path.name for path in site.iterdir()) == ['notes.txt', 'samples.json']
  for path in site.iterdir():
    path.unlink()
  code, said = pages.build(made['export'], site, made['samples'])
  assert code == 0 and f'Written: {site}/ (' in said and f'--directory {site} ' in said
  assert any((site / 'samples').iterdir())
  (site / 'wasm' / 'notes.txt').write_text('mine')
  code, said = pages.build(made['export'], site)
  assert code != 0 and f'{site}/wasm/notes.txt was not written by make web' in said
  assert (site / 'model.tflite').exists()
  (site / 'wasm' / 'notes.txt').unlink()
  # What the build before had and this one has not goes.
  pages.built(made['export'], site)
  assert not any((site / 'samples').iterdir())
  assert (site / 'model.tflite').read_bytes() == (made['export'] / 'model.tflite').read_bytes()


def test_samples_are_the_files_that_are_seen(made, tmp_path):
  # As a Mac leaves them on other systems' disks: beside each photo a hidden file of its own.
  album = tmp_path / 'photos' / 'album.png'
  album.mkdir(parents=True)
  (album / '._1.png').write_text('no image')
  pages.photo(album / '1.png', 1)
  site = pages.built(made['export'], tmp_path / 'site', tmp_path / 'photos')
  assert json.loads((site / 'samples.json').read_text()) == ['album.png 1.png']


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
