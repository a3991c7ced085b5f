"""What the page says of photos, against the export's own run.py."""

import json
import re
import runpy
import shutil

from ai_edge_litert.interpreter import Interpreter
import jax
import jax.numpy as jnp
import numpy as np
import pages
from pages import asked, assert_same, badge, choose, likeliest, pairs, photo
from PIL import Image
from playwright.sync_api import expect
import pytest

from basisnet_jax.inference import exporting, litert


@pytest.mark.parametrize('which', ['certain', 'unsure'])
def test_answers_are_those_of_the_exports_run_py(made, address, visit, which):
  page = visit(address)
  choose(page, made[which])
  wanted, stage, confidence = asked(made['export'], made[which])
  assert stage == {'certain': 'lightweight', 'unsure': 'specialist'}[which]
  assert (
    badge(page) == {'lightweight': 'Lightweight: ended early', 'specialist': 'Specialist'}[stage]
  )
  assert_same(likeliest(page), wanted)
  assert page.locator('#label').inner_text() == wanted[0][0]
  assert f'confidence of {confidence:.3f}' in page.locator('#why').inner_text()
  madds = made['about']['madds']
  cost = madds['first'] if stage == 'lightweight' else madds['all']
  times = dict(pairs(page, '#times dt', '#times dd'))
  assert times['MAdds'] == f'{cost / 1e6:.2f} M'
  assert re.fullmatch(r'(under )?[0-9.]+ ms', times['Lightweight'])
  assert (times['Specialist'] == 'not run') == (stage == 'lightweight')
  who = {'lightweight': 'lightweight model', 'specialist': 'specialist'}[stage]
  assert f'The {who} answered.' in page.locator('[role=status]').inner_text()


@pytest.mark.parametrize(
  'name,options',
  [
    ('turned.jpg', {'size': (640, 427), 'quality': 92, 'exif': 6}),
    ('tall.webp', {'size': (300, 511), 'lossless': True}),
    ('small.png', {'size': (9, 7)}),
    ('gray.png', {'mode': 'L'}),
    ('palette.png', {'mode': 'P'}),
    ('clear.png', {'mode': 'RGBA'}),
    ('print.jpg', {'mode': 'CMYK', 'quality': 95}),
  ],
)
def test_photos_of_all_kinds_are_prepared_as_by_run_py(made, address, visit, name, options):
  if orientation := options.pop('exif', None):
    options['exif'] = Image.Exif()
    options['exif'][0x0112] = orientation
  mode = options.pop('mode', 'RGB')
  path = photo(made['folder'] / name, 77, **options)
  if mode != 'RGB':
    image = Image.open(path).convert(mode)
    if mode == 'RGBA':
      image.putalpha(Image.linear_gradient('L').resize(image.size))
    image.save(path)
  page = visit(address)
  choose(page, path)
  wanted, _, _ = asked(made['export'], path)
  assert_same(likeliest(page), wanted)


def test_the_threshold_decides_who_answers_and_what_it_costs(made, address, visit):
  page = visit(address)
  slider = page.locator('#threshold')
  facts = lambda: [page.locator(f'#{i}').inner_text() for i in ('images', 'early', 'average')]  # noqa: E731
  first, both = (made['about']['madds'][key] / 1e6 for key in ('first', 'all'))
  assert facts() == ['0', '–', '–']
  choose(page, made['certain'])
  choose(page, made['unsure'])
  assert badge(page) == 'Specialist'
  # As exported, with one of two early; then for nobody, for all; counted anew at each.
  assert facts() == ['2', '50.0%', f'{(first + both) / 2:.2f} M']
  specialist = likeliest(page)
  slider.press('Home')
  expect(page.locator('#badge')).to_have_text('Lightweight: ended early')
  assert page.locator('#threshold-value').inner_text() == 'never wait'
  assert facts() == ['2', '100.0%', f'{first:.2f} M']
  assert likeliest(page) != specialist
  slider.press('End')
  expect(page.locator('#badge')).to_have_text('Specialist')
  told = f'always wait, {both:.2f} M MAdds on average'
  expect(slider).to_have_attribute('aria-valuetext', told)
  assert facts() == ['2', '0.0%', f'{both:.2f} M']
  assert likeliest(page) == specialist
  slider.press('ArrowLeft')
  page.get_by_role('button', name='as exported').click()
  assert page.locator('#threshold-value').inner_text() == f'{made["about"]["threshold"]:.3f}'
  assert facts()[1] == '50.0%'
  page.get_by_role('button', name='Count anew').click()
  expect(page.locator('#images')).to_have_text('0')
  assert facts() == ['0', '–', '–']


def test_the_average_cost_is_that_of_the_confidences_at_any_threshold(made, address, visit):
  page = visit(address)
  sure = sorted(made['sure'].values())
  page.locator('#file').set_input_files(list(made['sure']))
  expect(page.locator('#images')).to_have_text(str(len(sure)))
  first, both = (made['about']['madds'][key] / 1e6 for key in ('first', 'all'))
  seen = set()
  for threshold in (0, 0.005, *(np.arange(1, 40) / 40), 1, 1.005, 1.01):
    if min(abs(threshold - c) for c in sure) < 1e-3:  # Two builds of LiteRT need not agree.
      continue
    page.locator('#threshold').fill(f'{threshold:.3f}')
    early = sum(c >= threshold for c in sure) / len(sure)
    average = f'{first * early + both * (1 - early):.2f} M'
    expect(page.locator('#average')).to_have_text(average)
    assert page.locator('#early').inner_text() == f'{early:.1%}'
    assert page.locator('#saved').inner_text() == f'{early * (1 - first / both):.1%}'
    # Each bar has as much of each colour as it has images of each kind.
    shares = page.locator('#histogram .first').evaluate_all(
      '(a) => a.map((e) => +e.style.flexGrow)'
    )
    assert sum(shares) == round(early * len(sure))
    seen.add(early)
  assert len(seen) > 5


def test_answers_are_those_of_predict(made, address, visit):
  table = made['folder'] / 'table.jsonl'
  photos = made['folder'] / 'predicted'
  photos.mkdir()
  for path in made['sure']:
    shutil.copy(path, photos)
  pages.program(
    '--mode=predict', f'--workdir={made["folder"]}/run', f'--images={photos}', '--top_k=5',
    f'--output={table}', f'--threshold={made["about"]["threshold"]!r}',
  )  # fmt: skip
  page, stages = visit(address), set()
  for answer in map(json.loads, table.read_text().splitlines()):
    choose(page, answer['file'])
    wanted = zip(
      answer['labels'], (f'{100 * p:.1f}%' for p in answer['probabilities']), strict=True
    )
    assert_same(likeliest(page), list(wanted))
    stage = {'lightweight': 'Lightweight: ended early', 'specialist': 'Specialist'}[answer['stage']]
    assert badge(page) == stage
    stages.add(stage)
  assert len(stages) == 2


def test_times_are_no_more_exact_than_the_browsers_clock(made, served, visit, tmp_path):
  site = shutil.copytree(made['site'], tmp_path / 'site')
  # As in other browsers, whose clocks go by whole milliseconds.
  coarse = 'const now = () => Math.floor(Date.now()); performance.now = now;'
  (site / 'worker.js').write_text(f'{{{coarse}}}{(site / "worker.js").read_text()}')
  page = visit(served(site))
  choose(page, made['unsure'])
  times = dict(pairs(page, '#times dt', '#times dd'))
  for stage in ('Lightweight', 'Specialist'):
    assert re.fullmatch(r'under 1 ms|[0-9]+ ms', times[stage])


def test_what_the_threshold_did_on_held_out_images_is_told(made, served, visit, tmp_path):
  page = visit(served(made['site']))
  expect(page.locator('#heldout')).to_be_hidden()
  site = shutil.copytree(made['site'], tmp_path / 'site')
  chosen = {'data': 'pets', 'images': 1234, 'exit_rate': 0.875, 'average_madds': 7.5e6}
  (site / 'model.json').write_text(json.dumps(made['about'] | {'chosen': chosen}))
  page = visit(served(site))
  assert page.locator('#heldout').inner_text() == (
    f'At {made["about"]["threshold"]:.3f}, as exported, 87.5% of 1,234 held-out images of pets '
    'ended early, for 7.50 M MAdds on average.'
  )


def test_a_confidence_that_is_no_number_asks_the_specialist(made, served, visit, tmp_path):
  about = json.loads((made['export'] / 'model.json').read_text())
  image = {'images': (about['resolution'],) * 2 + (3,)}

  def likely(images, label):
    # What no input has a part in, the converter would not take for an output.
    return jax.nn.one_hot(jnp.full(1, label), len(about['labels'])) + 0 * images.mean()

  def preview(images):
    return likely(images, 3), jnp.sqrt(images.mean((1, 2, 3)) - 2)

  programs = [
    exporting.Program('preview', preview, image, ('probabilities', 'confidence')),
    exporting.Program('specialist', lambda x: (likely(x, 7),), image, ('probabilities',)),
  ]
  site = shutil.copytree(made['site'], tmp_path / 'site')
  (site / 'model.tflite').write_bytes(litert.flatbuffer(programs))
  del about['sha256']
  (site / 'model.json').write_text(json.dumps(about))
  shutil.copy(made['export'] / 'run.py', site)
  page = visit(served(site))
  choose(page, made['certain'])
  assert badge(page) == 'Specialist'
  assert page.locator('#label').inner_text() == about['labels'][7]
  told = (
    f'The lightweight model said {about["labels"][3]}, with a confidence of NaN: that is no number.'
  )
  assert page.locator('#why').inner_text() == told
  # Nor does it at any threshold; it is counted, with the least sure.
  page.locator('#threshold').press('Home')
  expect(page.locator('#threshold-value')).to_have_text('never wait')
  assert badge(page) == 'Specialist'
  assert [page.locator(f'#{i}').inner_text() for i in ('images', 'early')] == ['1', '0.0%']
  grown = '(a) => a.map((e) => +e.style.flexGrow)'
  shares = page.locator('#histogram .second').evaluate_all(grown)
  assert shares[0] == sum(shares) == 1
  told = 'were: of 1 image, 0 above 0.9, 1 below 0.5.'
  assert page.locator('#histogram').get_attribute('aria-label').endswith(told)
  best, stage, _ = asked(site, made['certain'])
  assert (best[0][0], stage) == (about['labels'][7], 'specialist')


def test_the_specialist_runs_late_for_a_photo_that_ended_early(made, address, visit):
  page = visit(address)
  choose(page, made['certain'])
  assert badge(page) == 'Lightweight: ended early'
  page.locator('#threshold').press('End')
  expect(page.locator('#badge')).to_have_text('Specialist')
  about = made['about'] | {'threshold': 2.0}
  folder = made['folder'] / 'always'
  shutil.copytree(made['export'], folder)
  (folder / 'model.json').write_text(json.dumps(about))
  wanted, stage, _ = asked(folder, made['certain'])
  assert stage == 'specialist'
  assert_same(likeliest(page), wanted)


def test_coefficients_are_shown_and_told(made, address, visit):
  page = visit(address)
  choose(page, made['unsure'])
  layers, bases = made['about']['programs']['specialist']['inputs']['coefficients']
  assert page.locator('#heat span').count() == layers * bases
  told = page.locator('#heat').get_attribute('aria-label')
  assert told.startswith(f'Heat map of {layers} by {bases} coefficients.')
  page.get_by_text('The coefficients as numbers').click()
  expect(page.locator('#numbers td')).to_have_count(layers * bases)
  rows = np.float32(page.locator('#numbers td').all_inner_texts()).reshape(layers, bases)
  runner = runpy.run_path(str(made['export'] / 'run.py'))
  interpreter = Interpreter(str(made['export'] / 'model.tflite'))
  found = interpreter.get_signature_runner('preview')(images=runner['pixels'](made['unsure']))
  np.testing.assert_allclose(rows, found['coefficients'][0], atol=6e-4)


def test_the_page_tells_of_the_network(made, address, visit):
  page = visit(address)
  page.get_by_text('About this network').click()
  megabytes = (made['export'] / 'model.tflite').stat().st_size / 1e6
  told = page.locator('#about').inner_text()
  assert told.startswith('It tells 10 labels apart: 0, 1, 2, 3')
  assert f'The file has {megabytes:.1f} MB' in told


def test_a_network_of_one_stage_has_neither_threshold_nor_coefficients(
  tmp_path, served, visit, made
):
  where = pages.export(tmp_path, pages.ONE_STAGE)
  page = visit(served(pages.built(where, tmp_path / 'site')))
  expect(page.locator('#cost')).to_be_hidden()
  expect(page.locator('#samples')).to_be_hidden()
  choose(page, made['certain'])
  wanted, stage, _ = asked(where, made['certain'])
  assert stage == 'network'
  assert_same(likeliest(page), wanted)
  for part in ('#badge', '#why', '#cost', '#coefficients'):
    expect(page.locator(part)).to_be_hidden()
  assert page.locator('[role=status]').inner_text().count('.') == 2  # Of the number and the end.
