"""Exports, as users make and run them: what they say, and what they are without this package."""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import forks
import jax
import numpy as np
from PIL import Image
import pytest
import saved
from sklearn.datasets import load_digits
import tiny

from basisnet_jax import export
from basisnet_jax import main as program
from basisnet_jax.inference import exporting

ROOT = pathlib.Path(__file__).parents[1]
RUN = [
  *tiny.RUN,
  '--config.data.train_split=train[:80%]',
  '--config.data.heldout_split=train[80%:]',
]


def run(*arguments):
  """The program to its end: (exit code, stdout, stderr)."""
  process = forks.start('-m', 'basisnet_jax.main', *arguments, cwd=ROOT, env=forks.environment(1))
  out, err = process.communicate(timeout=600)
  return process.returncode, out, err


def run_well(*arguments):
  code, out, err = run(*arguments)
  assert code == 0, err
  return out


def refused(*arguments):
  """The sentence of a mistake."""
  code, _, err = run('--mode=export', *arguments)
  assert code == 2
  assert err.count('\n') == 1, err
  return err


def ask(folder, *arguments):
  """An export's run.py where this package cannot be imported: (exit code, stdout, stderr)."""
  without = 'import runpy, sys; sys.modules["basisnet_jax"] = None; sys.argv = sys.argv[1:]'
  script = f'{without}; runpy.run_path(sys.argv[0], run_name="__main__")'
  command = [sys.executable, '-c', script, folder / 'run.py', *arguments]
  done = subprocess.run(
    command, capture_output=True, text=True, cwd=folder.parent, env=forks.environment(1)
  )
  return done.returncode, done.stdout, done.stderr


def about(folder):
  return json.loads((folder / 'model.json').read_text())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, data_flag):
  folder = tmp_path_factory.mktemp('runs') / 'exported'
  run_well(*RUN, data_flag, f'--workdir={folder}')
  return folder


@pytest.fixture(scope='module')
def exported(workdir):
  """(folder, what the program said)."""
  folder = workdir.parent / 'for the phone'
  return folder, run_well('--mode=export', f'--workdir={workdir}', f'--output={folder}')


@pytest.fixture(scope='module')
def photo(workdir):
  path = workdir.parent / 'photo.png'
  Image.fromarray(np.uint8(255 / 16 * load_digits().images[3])).resize((16, 16)).save(path)
  return path


def test_an_export_says_without_this_package_what_the_run_says(workdir, exported, photo):
  folder, _ = exported
  table = workdir.parent / 'table.jsonl'
  for threshold in ('0', '2'):
    run_well(
      '--mode=predict', f'--workdir={workdir}', f'--images={photo}', f'--output={table}',
      f'--threshold={threshold}',
    )  # fmt: skip
    answer = json.loads(table.read_text())
    other = shutil.copytree(folder, folder.parent / f'at {threshold}')
    (other / 'model.json').write_text(json.dumps(about(folder) | {'threshold': float(threshold)}))
    code, out, err = ask(other, photo)
    assert code == 0, err
    *best, said = out.splitlines()
    assert [line.split()[0] for line in best] == answer['labels']
    for line, probability in zip(best, answer['probabilities'], strict=True):
      assert float(line.split()[1].rstrip('%')) == pytest.approx(100 * probability, abs=0.06)
    stage = {'0': 'lightweight', '2': 'specialist'}[threshold]
    assert answer['stage'] == stage
    assert said.startswith(f'({stage}; ') and f'{answer["confidence"]:.3f}' in said


def test_flags_offer_what_exports_can_be():
  # They name it themselves: --help waits for nothing that exports import.
  flags = program.flags.FLAGS
  assert flags['weights'].parser.enum_values == list(exporting.WEIGHTS)
  assert flags['format'].help == f'For --mode=export: {", ".join(export.FORMATS)}.'


def test_what_is_printed_is_what_is_written(exported):
  folder, out = exported
  assert out.endswith(f"\nTry: python '{folder}/run.py' photo.jpg\n")  # As a shell wants it.
  assert about(folder)['labels'] == [str(i) for i in range(10)]
  rows = re.findall(r'^(\w+\.stablehlo) +([0-9.]+) +[0-9.e-]+$', out, re.MULTILINE)
  assert [name for name, _ in rows] == ['preview.stablehlo', 'specialist.stablehlo']
  for name, megabytes in rows:
    assert f'{(folder / name).stat().st_size / 1e6:.1f}' == megabytes
  readme = (folder / 'README.md').read_text()
  assert out.split('\n\n')[0] in readme
  assert f"pip install numpy pillow 'jax>={jax.__version__}' flatbuffers\n" in readme
  assert 'python run.py photo.jpg stablehlo' in readme
  seen = 'of the central square (of 0.875 of the shorter side),\nresized to 16 pixels'
  assert (about(folder)['crop'], about(folder)['resolution']) == (0.875, 16) and seen in readme
  written = {str(path.relative_to(folder)) for path in folder.rglob('*')}
  assert written == {'README.md', 'model.json', 'run.py', *(name for name, _ in rows)}


def test_the_threshold_that_was_chosen_is_told(workdir, exported):
  folder, out = exported
  kept = json.loads((workdir / 'early_exit.json').read_text())
  found, heldout = about(folder), kept['heldout']
  assert found['threshold'] == kept['threshold']
  assert found['chosen']['reason'] == kept['reason']
  for key in ('data', 'split', 'images', 'exit_rate', 'average_madds', 'top1', 'specialist_top1'):
    assert found['chosen'][key] == heldout[key]
  share = f'{heldout["exit_rate"]:.1%} of the 287 held-out images of digits (train[80%:])'
  readme = (folder / 'README.md').read_text()
  for text in (out, ' '.join(readme.split())):
    assert kept['reason'] in text and share in text
    assert f'{heldout["average_madds"] / 1e6:.4g} million multiply-adds on average' in text


@pytest.mark.parametrize('by', ['threshold', 'average_madds'])
def test_a_threshold_can_be_given(workdir, tmp_path, by):
  cost = json.loads((workdir / 'cost.json').read_text())
  budget = (cost['lightweight_madds'] + cost['total_madds']) / 2e6
  value = {'threshold': 0.625, 'average_madds': budget}[by]
  out = run_well('--mode=export', f'--workdir={workdir}', f'--output={tmp_path}', f'--{by}={value}')
  found = about(tmp_path)
  assert found['chosen'] is None
  if by == 'threshold':
    assert found['threshold'] == 0.625
  else:  # About half of the held-out images exit.
    quantiles = json.loads((workdir / 'early_exit.json').read_text())
    assert found['threshold'] in quantiles['heldout']['confidence_quantiles'][48:52]
  told = 'The lightweight model (preview) answers where its confidence is at least '
  told += f'{found["threshold"]:.4g}, for'
  assert told in out and told in ' '.join((tmp_path / 'README.md').read_text().split())
  assert 'Nobody exits' not in out


def test_where_no_threshold_was_chosen_it_is_said(workdir, tmp_path):
  without = shutil.copytree(workdir, tmp_path / 'without')
  (without / 'early_exit.json').unlink()
  out = run_well('--mode=export', f'--workdir={without}', f'--output={tmp_path / "export"}')
  assert about(tmp_path / 'export')['threshold'] == 2.0
  told = 'Every image goes through both stages'
  assert told in out and 'Nobody exits: give --threshold, or have one chosen' in out
  assert told in (tmp_path / 'export' / 'README.md').read_text()


def test_images_that_cannot_be_read_are_not_among_those_compared(monkeypatch):
  part = exporting.Program(
    'network',
    lambda images: (images.mean((1, 2)), images.max((1, 2, 3))),
    {'images': (2, 2, 3)},
    ('probabilities', 'confidence'),
  )
  batch = {'image': np.zeros((4, 2, 2, 3), np.uint8), 'label': np.zeros(4, int)}
  batch['mask'] = np.array([1, 0, 1, 1])
  for name, found in (('open_dataset', None), ('num_images', 4), ('eval_batches', [batch])):
    monkeypatch.setattr(export.experiment, name, lambda *_, found=found: found)
  title, _ = export._compared(tiny.get_config(), [part], {'onnx': {'network': part.call}}, 0.5)
  assert '3 images of digits, test' in title


def test_smaller_weights_are_compared_on_images(workdir, exported, tmp_path):
  code, out, err = run(
    '--mode=export', f'--workdir={workdir}', f'--output={tmp_path}', '--weights=int8'
  )
  assert code == 0, err
  assert err.startswith('stablehlo: writing, reading')  # A minute may pass before more is said.
  name = 'specialist.stablehlo'
  assert (tmp_path / name).stat().st_size < 0.6 * (exported[0] / name).stat().st_size
  found = re.search(r'early exit +([0-9.]+)% +([0-9.]+)% +([0-9.]+)%', out)
  assert found and float(found[3]) > 90
  assert 'no bases' not in out


def test_of_a_network_without_bases_it_is_said_that_they_alone_become_smaller(data_flag, tmp_path):
  here = f'--workdir={tmp_path}/run'
  run_well(*tiny.RUN, data_flag, here, '--config.model.name=resnet_18')
  out = run_well('--mode=export', here, f'--output={tmp_path}/export', '--weights=int8')
  sentence = 'There are no bases: only tflite has fewer bytes by --weights=int8.'
  assert sentence in out and sentence in (tmp_path / 'export' / 'README.md').read_text()


def test_of_bases_that_are_all_depthwise_it_is_said_that_these_stay(tmp_path, capsys):
  saved.run(tmp_path, model__based_layers='depthwise')
  config = tiny.get_config()
  config.data.data_dir = str(tmp_path / 'data')
  export.export_workdir(config, str(tmp_path), str(tmp_path / 'export'), ['stablehlo'], 'int8')
  sentence = 'All bases are depthwise: only tflite has fewer bytes by --weights=int8.'
  out = capsys.readouterr().out
  assert sentence in out and sentence in (tmp_path / 'export' / 'README.md').read_text()


def test_what_cannot_be_exported_is_a_sentence(workdir, exported, tmp_path):
  folder, _ = exported
  here = f'--workdir={workdir}'
  assert '--format=coreml: there are stablehlo, tflite' in refused(here, '--format=coreml')
  assert '--format names none; there are stablehlo' in refused(here, '--format=')
  assert '--threshold=nan cannot be used' in refused(here, '--threshold=nan')
  (tmp_path / 'file').touch()
  sentence = refused(here, f'--output={tmp_path}/file/export')
  assert f'{tmp_path}/file is a file; name a folder' in sentence
  sentence = refused(here, f'--output={folder}', '--format=onnx')
  assert 'preview.stablehlo, specialist.stablehlo of an earlier export would stay' in sentence
  assert 'all formats (--format=onnx,stablehlo)' in sentence
  assert about(folder)['formats'] == ['stablehlo']
  (tmp_path / 'README.md').write_text('# Mine')
  assert 'no export wrote its README.md' in refused(here, f'--output={tmp_path}')
  assert (tmp_path / 'README.md').read_text() == '# Mine'


@pytest.mark.parametrize('name, library', [('onnx', 'onnxruntime'), ('tflite', 'litert_converter')])
def test_a_converter_that_is_missing_is_named_before_other_formats_are_made(
  workdir, tmp_path, name, library
):
  without = f'import runpy, sys; sys.modules[{library!r}] = None'
  script = f'{without}; runpy.run_module("basisnet_jax.main", run_name="__main__", alter_sys=True)'
  flags = '--mode=export', f'--workdir={workdir}', f'--output={tmp_path / "there"}'
  command = [sys.executable, '-c', script, *flags, f'--format=stablehlo,{name}']
  environment = forks.environment(1)
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
  assert done.returncode == 2
  err = done.stderr
  assert err.count('\n') == 1 and f'--format={name}' in err and 'pip install' in err, err
  assert not (tmp_path / 'there').exists()


def test_an_export_to_where_one_was_takes_its_place(workdir, exported):
  folder = shutil.copytree(exported[0], workdir.parent / 'again')
  (folder / 'notes.txt').write_text('mine')
  (folder / 'unfinished').mkdir()  # Of one that was killed.
  run_well('--mode=export', f'--workdir={workdir}', f'--output={folder}', '--threshold=0.25')
  assert about(folder)['threshold'] == 0.25
  names = {path.name for path in exported[0].iterdir()}
  assert {path.name for path in folder.iterdir()} == names | {'notes.txt'}


def cut(path):
  path.write_bytes(path.read_bytes()[:-40])


def flip(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


@pytest.mark.parametrize(
  'spoil, sentence',
  [
    (lambda f: (f / 'photo.png').unlink(), 'No such file or directory: .*photo.png'),
    (lambda f: (f / 'photo.png').write_bytes(b'no image'), 'photo.png is broken, or of a kind'),
    (lambda f: (f / 'photo.png').write_bytes(b'no image'), r'\(no image of a kind that'),
    (lambda f: cut(f / 'photo.png'), r'photo.png is broken, or of a kind .* \(.*truncated'),
    (lambda f: (f / 'preview.stablehlo').unlink(), 'No such file or directory: .*preview.stable'),
    (lambda f: (f / 'preview.stablehlo').write_bytes(b'x'), r'preview.stablehlo is broken, or of'),
    (lambda f: flip(f / 'preview.stablehlo'), 'preview.stablehlo .*another file than model.json'),
    (lambda f: (f / 'model.json').unlink(), 'No such file or directory: .*model.json'),
    (lambda f: (f / 'model.json').write_text('{'), 'model.json is broken, or of a kind'),
  ],
)
def test_what_run_py_cannot_read_is_a_sentence(exported, photo, tmp_path, spoil, sentence):
  folder = shutil.copytree(exported[0], tmp_path / 'export')
  shutil.copy(photo, folder)
  spoil(folder)
  code, out, err = ask(folder, folder / 'photo.png')
  assert code == 1 and not out
  assert re.search(sentence, err) and err.count('\n') == 1


def test_run_py_answers_where_labels_cannot_be_written_as_they_are(
  exported, photo, tmp_path, monkeypatch
):
  folder = shutil.copytree(exported[0], tmp_path / 'export')
  told = about(folder) | {'labels': [f'größe {i}' for i in range(10)]}
  (folder / 'model.json').write_text(json.dumps(told, ensure_ascii=False), encoding='utf-8')
  monkeypatch.setenv('PYTHONIOENCODING', 'ascii')
  code, out, err = ask(folder, photo)
  assert code == 0, err
  assert out.count('gr\\xf6\\xdfe ') == 5


@pytest.mark.parametrize(
  'arguments', [[], ['--help'], ['a.png', 'onnx'], ['a.png', 'stablehlo', 'more'], ['a.png', 'x']]
)
def test_run_py_says_how_it_is_used(exported, arguments):
  code, _, err = ask(exported[0], *arguments)
  assert code == 1 and err == 'Usage: python run.py photo.jpg [stablehlo]\n'


@pytest.mark.parametrize('name', ['jax', 'flatbuffers', 'numpy', 'PIL'])
def test_run_py_without_what_it_needs_is_a_sentence(exported, photo, name):
  script = f'import runpy, sys; sys.modules["{name}"] = None; sys.argv = sys.argv[1:]; '
  script += 'runpy.run_path(sys.argv[0], run_name="__main__")'
  command = [sys.executable, '-c', script, exported[0] / 'run.py', photo]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 1
  assert name in done.stderr and done.stderr.endswith(' (README.md has the pip install line)\n')
  assert done.stderr.count('\n') == 1
