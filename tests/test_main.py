"""The program, as users run it: trained, killed, continued, evaluated, counted, and refused."""

import csv
import json
import random
import re
import shutil
import subprocess
import time

import forks
import numpy as np
from PIL import Image
import pytest
from running import ROOT, arrays, checkpoints, evaluation, run, run_well, start
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

# Evaluated halfway and at the end. Of networks that are known without the recipe's file.
SHORT = [
  '--config=tests/tiny.py',
  '--config.model.specialist=resnet_18',
  '--config.model.lightweight.name=resnet_18',
  '--config.model.width=0.125',
  '--config.model.lightweight.width=0.125',
  '--config.training.steps=12',
  '--config.training.batch_size=32',
  '--config.evaluation.every_epochs=0.12',
  '--config.checkpoint.every_steps=5',
  '--config.logging.every_steps=4',
]
PICTURES = ('cost_accuracy.png', 'coefficients.png')


@pytest.fixture(scope='module')
def turkish(tmp_path_factory):
  """The environment of a Turkish user; the locale is compiled where that is possible."""
  folder = tmp_path_factory.mktemp('locales')
  if shutil.which('localedef'):
    subprocess.run(['localedef', '-i', 'tr_TR', '-f', 'UTF-8', folder / 'tr_TR.UTF-8'])
  return {'LC_ALL': 'tr_TR.UTF-8', 'LOCPATH': str(folder)}


@pytest.fixture(scope='module')
def short(tmp_path_factory, data_flag, turkish):
  """A short run, started again when finished, and evaluated from its workdir alone."""
  workdir = tmp_path_factory.mktemp('runs') / 'short'
  found = {'workdir': workdir}
  found['train'], _ = run_well(*SHORT, data_flag, f'--workdir={workdir}')
  found['trained'] = evaluation(workdir), checkpoints(workdir)
  found['again'], found['again_progress'] = run_well(*SHORT, data_flag, f'--workdir={workdir}')
  found['again_trained'] = evaluation(workdir), checkpoints(workdir)
  (workdir / 'evaluation.json').unlink()
  for name in PICTURES:
    (workdir / name).unlink()
  found['evaluate'], _ = run_well('--mode=evaluate', f'--workdir={workdir}', **turkish)
  found['evaluated'] = evaluation(workdir)
  return found


def test_evaluation_has_both_stages_and_early_termination(short):
  found, _ = short['trained']
  assert (found['step'], found['images']) == (12, 360)
  for stage in ('lightweight', 'specialist'):
    assert set(found[stage]) == {'loss', 'top1', 'top5'}
    assert 0 <= found[stage]['top1'] <= found[stage]['top5'] <= 1 < found[stage]['loss']
  for point in found['early_exit']:
    assert set(point) == {'threshold', 'exit_rate', 'average_madds', 'top1'}
    assert found['lightweight_madds'] <= point['average_madds'] <= found['total_madds']
  assert [point['threshold'] for point in found['early_exit']] == [
    0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99,
  ]  # fmt: skip


def test_workdir_holds_what_a_run_leaves(short):
  workdir = short['workdir']
  assert checkpoints(workdir) == [5, 10, 12]
  assert (workdir / 'labels.txt').read_text().splitlines() == [str(i) for i in range(10)]
  versions = json.loads((workdir / 'versions.json').read_text())
  assert {'jax', 'flax', 'python', 'device'} <= set(versions)
  assert json.loads((workdir / 'config.json').read_text())['model']['num_bases'] == 2
  for name in PICTURES:
    assert (workdir / name).read_bytes().startswith(b'\x89PNG')
  (best,) = (workdir / 'best').iterdir()
  assert best.name in ('6', '12')


def test_training_prints_cost_table_and_what_comes_next(short):
  out = short['train']
  assert 'MAdds' in out and 'early termination at 0.7' in out
  assert f'--mode=evaluate --workdir={short["workdir"]}' in out
  assert re.search(r'step 6 .*specialist top1 \d+\.\d\d%', out)


def test_dashboards_get_curves_histograms_and_the_recipe(short):
  events = EventAccumulator(str(short['workdir']), size_guidance={'tensors': 0}).Reload()
  steps = {tag: [event.step for event in events.Tensors(tag)] for tag in events.Tags()['tensors']}
  for name in ('loss', 'top1', 'top5'):
    for stage in ('lightweight', 'specialist'):
      assert steps[f'train/{stage}/{name}'] == [4, 8, 12]
      assert steps[f'eval/{stage}/{name}'][:2] == [6, 12]
  for tag in ('train/loss', 'train/learning_rate', 'perf/images_per_second', 'perf/data_wait'):
    assert steps[tag] == [4, 8, 12]
  for name in ('exit_rate', 'average_madds', 'top1'):
    assert steps[f'eval/early_exit/{name}'][:2] == [6, 12]
  assert steps['eval/confidence'][:2] == steps['eval/coefficients'][:2] == [6, 12]
  for name in ('entropy', 'effective_bases', 'input_dependence', 'layers', 'maps'):
    assert steps[f'eval/coefficients/{name}'][:2] == [6, 12]
  assert steps['config'] == [0]
  assert '_hparams_/session_start_info' in steps


def test_finished_run_started_again_trains_no_more(short):
  assert short['again_trained'] == short['trained']
  assert 'early termination at 0.7' in short['again']
  assert re.search(r'training 100%  12/12', short['again_progress'])


def test_evaluation_needs_nothing_but_the_workdir_and_is_the_same_in_turkish(short):
  found, _ = short['trained']
  assert short['evaluated'] == found
  assert 'early termination at 0.7' in short['evaluate']
  assert all((short['workdir'] / name).exists() for name in PICTURES)
  assert (short['workdir'] / 'report.html').read_text().endswith('</html>\n')
  assert '--config.data.heldout_split=' in short['evaluate']  # How to have a threshold chosen.


TINY = [
  '--config=tests/tiny.py',
  '--config.training.steps=80',
  '--config.evaluation.every_epochs=0.6',
]


def test_prediction_needs_nothing_but_the_workdir(short, tmp_path):
  digits = load_digits()
  for i in range(5):
    pixels = np.uint8(255 / 16 * digits.images[i])
    Image.fromarray(pixels).resize((16, 16)).save(tmp_path / f'{i}.png')
  (tmp_path / 'no.jpg').write_text('no image')
  output, workdir = tmp_path / 'tables' / 'out.jsonl', f'--workdir={short["workdir"]}'
  asked = ['--mode=predict', workdir, f'--images={tmp_path}', '--threshold=0.15', '--top_k=3']
  _, err = run_well(*asked, f'--output={output}')
  rows = [json.loads(line) for line in output.read_text().splitlines()]
  assert [row['file'] for row in rows] == [str(tmp_path / f'{i}.png') for i in range(5)]
  for row in rows:
    assert len(row['labels']) == 3 and sorted(row['probabilities'])[::-1] == row['probabilities']
    assert row['stage'] == ('lightweight' if row['confidence'] >= 0.15 else 'specialist')
  assert 'Left out 1 file that could not be read' in err and 'no.jpg: not an image of a kind' in err
  exited = 100 * sum(row['stage'] == 'lightweight' for row in rows) / 5
  assert '5 images, ' in err and f'{exited:.1f}% exited, threshold 0.15' in err
  out, _ = run_well(*asked)
  assert out.splitlines()[0].startswith('file,stage,confidence,madds,label_1')
  assert len(out.splitlines()) == 6
  smaller, _ = run_well(*asked, '--weights=int8')
  assert smaller != out and len(smaller.splitlines()) == 6
  code, _, err = run(*asked, '--max_latency=5')
  assert code == 2 and 'exclude each other' in err


def test_a_stream_of_frames_has_two_devices(short, tmp_path):
  frames = [Image.new('RGB', (20, 20), (40 * i, 50, 60)) for i in range(4)]
  frames[0].save(tmp_path / 'a.gif', save_all=True, append_images=frames[1:], duration=20)
  output = tmp_path / 'out.csv'
  asked = [f'--workdir={short["workdir"]}', f'--video={tmp_path / "a.gif"}', f'--output={output}']
  _, err = run_well('--mode=stream', *asked, devices=2)
  assert [line.split(',')[:2] for line in output.read_text().splitlines()[1:]] == [
    [str(i), 'specialist'] for i in range(4)
  ]
  assert '4 frames came; 0 dropped, 0 answered by the specialist of an earlier one' in err
  assert '0.0% exited, threshold 2' in err
  assert re.search(r'lightweight [0-9.]+ on \S+0\S*, specialist [0-9.]+ on \S+1', err)
  _, err = run_well('--mode=stream', *asked, '--reuse=2')
  assert '3 answered by the specialist of an earlier one' in err
  with output.open() as file:
    own, *again = csv.DictReader(file)
  assert [row['stage'] for row in again] == ['specialist, reused'] * 3
  assert all(int(row['madds']) < int(own['madds']) for row in again)  # Nothing was blended.
  folder = tmp_path / 'frames'
  folder.mkdir()
  for i in (0, 2):
    frames[i].save(folder / f'{i}.png')
  (folder / '1.png').write_text('no image')
  _, err = run_well('--mode=stream', *asked, f'--video={folder}', '--threshold=0')
  assert 'Left out 1 file that could not be read' in err and '1.png: not an image of a kind' in err
  assert '2 images, ' in err and '100.0% exited, threshold 0' in err
  rows = [line.split(',')[:2] for line in output.read_text().splitlines()[1:]]
  assert rows == [[str(folder / f'{i}.png'), 'lightweight'] for i in (0, 2)]


def test_run_killed_at_any_moments_equals_the_uninterrupted_run(tmp_path, data_flag):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  recipe = [
    *TINY,
    data_flag,
    '--config.training.resolutions=((0.0, 8), (0.3, 16))',
    '--config.data.random_erasing=0.5',
  ]
  flags = [*recipe, f'--workdir={broken}']
  run_well(*recipe, f'--workdir={whole}')

  def saving():
    return bool(list(broken.glob('checkpoints/*-tmp')))

  def later():
    """A random moment after the first checkpoint."""
    if not began and checkpoints(broken):
      began.append(time.monotonic())
    return bool(began) and time.monotonic() - began[0] > delay

  began, delay = [], random.uniform(0, 0.2)
  forks.kill_when(start(*flags), saving)  # In the first save of all.
  forks.kill_when(start(*flags), later)
  reached = checkpoints(broken)[-1]
  assert 0 < reached < 80

  _, progress = run_well(*flags)
  resumed_at = int(re.search(r'(\d+)/80', progress)[1])
  assert resumed_at >= reached
  expected, found = arrays(whole, 80), arrays(broken, 80)
  assert found.keys() == expected.keys() and len(found) > 50
  for path, value in expected.items():
    np.testing.assert_array_equal(found[path], value, err_msg=path)
  assert evaluation(broken) == evaluation(whole)


def test_plain_network_trains_on_two_devices_where_the_locale_is_ascii(tmp_path, data_flag):
  workdir = tmp_path / 'Läufe İ'
  arguments = [
    '--config=tests/tiny.py',
    data_flag,
    f'--workdir={workdir}',
    '--config.model.name=tiny',
    '--config.training.steps=3',
    '--config.training.batch_size=16',
  ]
  # Without Python's own remedy for that locale.
  out, _ = run_well(*arguments, devices=2, LC_ALL='C', PYTHONCOERCECLOCALE='0', PYTHONUTF8='0')
  found = evaluation(workdir)
  assert set(found) == {'step', 'images', 'network', 'total_madds'}
  assert (found['step'], found['images']) == (3, 360)
  assert re.search(r'\nnetwork ', out) and 'early termination' not in out
  assert 'eval/network/top1' in EventAccumulator(str(workdir)).Reload().Tags()['tensors']


def test_cost_needs_neither_data_nor_workdir(tmp_path):
  arguments = [
    '--mode=cost',
    '--config.model.name=mobilenet_v3_large',
    '--config.model.resolution=224',
    f'--output={tmp_path / "cost.json"}',
  ]
  out, _ = run_well(*arguments)
  found = json.loads((tmp_path / 'cost.json').read_text())
  # Howard et al. 2019: 219M multiply-adds and 5.4M parameters, batch normalisation folded.
  assert found['total_madds'] == pytest.approx(219e6, rel=0.02)
  assert found['total_params'] == pytest.approx(5.4e6, rel=0.02)
  assert sum(layer['madds'] for layer in found['layers']) == found['total_madds']
  assert sum(layer['params'] for layer in found['layers']) == found['total_params']
  assert {'path', 'output', 'madds', 'params'} <= set(found['layers'][0])
  assert 'block_15' in out and '216.59M' in out
  assert not (ROOT / 'runs' / 'base').exists()


@pytest.mark.parametrize(
  'arguments, sentence',
  [
    (
      ['--config=configs/digits.py', '--config.data.name=imagenet2012', '--workdir={tmp}/w',
       '--config.data.data_dir={tmp}/nowhere'],
      r"Dataset 'imagenet2012' is not in {tmp}/nowhere .*data_dir",
    ),
    (['--mode=evaluate', '--workdir={tmp}/w'], r'no checkpoint in {tmp}/w'),
    (
      ['--mode=cost', '--config=tests/tiny.py', '--output={tmp}'],
      r'^{tmp} cannot be written \(.*directory\); name another by --output',
    ),
    (['--mode=evaluate', '--threshold=0.5'],
     r'^--threshold is for --mode=predict, stream, serve, export, and this is --mode=evaluate; l'),
    (['--batch_size=32'], r'^--batch_size is for --mode=serve, and this is --mode=train; leave it'),
    (['--mode=serve', '--max_body=inf'], r'--max_body=inf cannot be used: inf is not'),
    (['--mode=serve', '--request_timeout=inf'], r'--request_timeout=inf cannot be used: inf is'),
  ],
  ids=['no data', 'no checkpoint', 'no file', 'no reader', 'nor here', 'no limit', 'no end'],
)  # fmt: skip
def test_mistake_ends_in_a_sentence_and_exit_code_two(tmp_path, arguments, sentence):
  code, out, err = run(*(argument.format(tmp=tmp_path) for argument in arguments))
  assert code == 2
  assert re.search(sentence.format(tmp=tmp_path), err)
  assert 'Traceback' not in out + err
  assert len([line for line in err.splitlines() if line.strip()]) == 1


def test_a_bucket_that_cannot_be_reached_ends_a_training_in_a_sentence_to_be_tried_again():
  code, out, err = run(*SHORT, '--workdir=s3://zoo/lion')  # TensorFlow alone has no S3.
  assert code == 3, err  # After 2 launchers would stop.
  assert re.match(r's3://zoo/lion\S* cannot be written or read \(', err.splitlines()[-1])
  assert 'Traceback' not in out + err
