"""The web page of an export, in Chromium: what it says, against the export's own run.py."""

import base64
import functools
import http.server
import json
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import threading

from ai_edge_litert.interpreter import Interpreter
import numpy as np
from PIL import Image
from playwright.sync_api import expect, sync_playwright
import pytest

ROOT = pathlib.Path(__file__).parents[2]
WEB = ROOT / 'web'
# Both networks in seconds, and enough steps that digits are not all alike to them.
RECIPE = [
  '--config=tests/tiny.py',
  '--config.training.steps=60',
  '--config.evaluation.every_epochs=1.0',
  '--config.model.lightweight.name=resnet_10',
  '--config.model.lightweight.width=0.125',
  '--config.model.width=0.125',
  '--config.model.lightweight.output_stride=4',
  '--config.model.output_stride=4',
]
TWO_STAGES = [*RECIPE, '--config.model.specialist=resnet_10']
ONE_STAGE = [*RECIPE, '--config.model.name=resnet_10']


def program(*arguments):
  command = [sys.executable, '-m', 'basisnet_jax.main', *arguments]
  environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
  done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr


def export(folder, recipe):
  """A run of the recipe, exported to a folder."""
  program(*recipe, f'--workdir={folder}/run', f'--config.data.data_dir={folder}/data')
  output = folder / 'export'
  program('--mode=export', f'--workdir={folder}/run', '--format=tflite', f'--output={output}')
  return output


def build(export, site, samples=''):
  """`make web`, as users call it: (exit code, what it said)."""
  arguments = [f'WEB={export}', f'SITE={site}', f'SAMPLES={samples}']
  done = subprocess.run(
    ['make', '--no-print-directory', 'web', *arguments], cwd=ROOT, capture_output=True, text=True
  )
  return done.returncode, done.stdout + done.stderr


def built(*arguments):
  code, said = build(*arguments)
  assert code == 0, said
  return arguments[1]


class Handler(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *_):
    pass


@pytest.fixture(scope='module')
def served():
  """Serves folders as `python -m http.server` does: folder to address."""
  servers = []

  def serve(folder):
    handler = functools.partial(Handler, directory=folder)
    servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
    threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{servers[-1].server_port}/'

  yield serve
  for server in servers:
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='module')
def chromium():
  names = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')
  path = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, names)), None)
  assert path, 'These tests need Chromium: apt-get install chromium, or CHROMIUM=/path/to/it.'
  with sync_playwright() as playwright:
    # No sandbox: containers where tests run as root have none.
    arguments = ['--no-sandbox', '--use-fake-device-for-media-stream']
    browser = playwright.chromium.launch(executable_path=path, args=arguments)
    yield browser
    browser.close()


def photo(path, seed, size=(90, 60), **options):
  """Colours in large blotches, as no two photos have them."""
  random = np.random.default_rng(seed)
  small = Image.fromarray(np.uint8(random.integers(0, 256, (4, 5, 3))))
  small.resize(size, Image.Resampling.BICUBIC).save(path, **options)
  return path


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """The export, with a threshold between the confidences of two photos; samples beside them."""
  folder = tmp_path_factory.mktemp('two stages')
  where = export(folder, TWO_STAGES)
  runner = runpy.run_path(str(where / 'run.py'))
  about = json.loads((where / 'model.json').read_text())
  preview = Interpreter(str(where / 'model.tflite')).get_signature_runner('preview')
  sure = {}
  for seed in range(12):
    path = photo(folder / f'{seed}.png', seed)
    sure[path] = float(preview(images=runner['pixels'](path))['confidence'][0])
  unsure, *_, certain = sorted(sure, key=sure.get)
  assert sure[certain] - sure[unsure] > 0.05
  about['threshold'] = (sure[certain] + sure[unsure]) / 2
  (where / 'model.json').write_text(json.dumps(about))
  samples = folder / 'samples'
  (samples / 'blue things').mkdir(parents=True)
  shutil.copy(certain, samples / 'blue things' / '1 & 2.png')
  shutil.copy(unsure, samples / 'b.png')
  (samples / 'notes.txt').write_text('no image')
  return {
    'folder': folder,
    'export': where,
    'samples': samples,
    'about': about,
    'certain': certain,
    'unsure': unsure,
    'sure': sure,
    'site': built(where, folder / 'site', samples),
  }


@pytest.fixture(scope='module')
def address(made, served):
  return served(made['site'])


@pytest.fixture
def visit(chromium):
  """Opens a page: address to page; nothing of it may fail, or come from elsewhere."""
  contexts, troubles = [], []

  def open_page(address, ready=True, **options):
    contexts.append(chromium.new_context(**options))
    page = contexts[-1].new_page()
    page.on('pageerror', lambda error: troubles.append(f'{error}'))
    page.on('request', lambda request: request.url.startswith((address, 'blob:'))
            or troubles.append(request.url))  # fmt: skip
    page.goto(address)
    if ready:
      expect(page.locator('#file')).to_be_enabled(timeout=30_000)
    return page

  yield open_page
  for context in contexts:
    context.close()
  assert not troubles


def choose(page, path):
  """A photo by the file chooser; waits until its answer is there."""
  shown = page.locator('#shown')
  before = shown.get_attribute('src') or ''
  with page.expect_file_chooser() as chooser:
    page.locator('#drop').click()
  chooser.value.set_files(path)
  expect(shown).to_have_attribute('src', re.compile(f'^(?!{re.escape(before)}$)blob:'))


def pairs(page, names, values):
  """[(name, value)], as they are written."""
  texts = (page.locator(selector).all_inner_texts() for selector in (names, values))
  return list(zip(*texts, strict=True))


def likeliest(page):
  """[(label, per cent)]."""
  return pairs(page, '#likeliest .name', '#likeliest .value')


def asked(folder, path):
  """What the export's run.py says: ([(label, per cent)], stage, confidence)."""
  done = subprocess.run(
    [sys.executable, folder / 'run.py', path], capture_output=True, text=True, check=True
  )
  *lines, last = done.stdout.splitlines()
  stage, confidence = re.fullmatch(r'\((\w+); .* ([0-9.]+)\)', last).groups()
  return [tuple(line.rsplit('  ', 1)) for line in lines], stage, float(confidence)


def number(text):
  return float(re.search('[0-9.]+', text)[0])


def assert_same(found, wanted):
  assert [label for label, _ in found] == [label for label, _ in wanted]
  for (_, value), (_, right) in zip(found, wanted, strict=True):
    assert number(value) == pytest.approx(number(right), abs=0.11)


def badge(page):
  return page.locator('#badge').inner_text()


@pytest.mark.parametrize('which', ['certain', 'unsure'])
def test_answers_are_those_of_the_exports_run_py(made, address, visit, which):
  page = visit(address)
  choose(page, made[which])
  wanted, stage, confidence = asked(made['export'], made[which])
  assert stage == {'certain': 'preview', 'unsure': 'specialist'}[which]
  assert badge(page) == {'preview': 'Preview: ended early', 'specialist': 'Specialist'}[stage]
  assert_same(likeliest(page), wanted)
  assert page.locator('#label').inner_text() == wanted[0][0]
  assert f'confidence of {confidence:.3f}' in page.locator('#why').inner_text()
  madds = made['about']['madds']
  cost = madds['first'] if stage == 'preview' else madds['all']
  times = dict(pairs(page, '#times dt', '#times dd'))
  assert times['MAdds'] == f'{cost / 1e6:.2f} M'
  assert re.fullmatch(r'(under )?[0-9.]+ ms', times['Preview'])
  assert (times['Specialist'] == 'not run') == (stage == 'preview')
  assert f'The {stage} answered.' in page.locator('[role=status]').inner_text()


@pytest.mark.parametrize(
  'name,options',
  [
    ('turned.jpg', {'size': (640, 427), 'quality': 92, 'exif': 6}),
    ('tall.webp', {'size': (300, 511), 'lossless': True}),
    ('small.png', {'size': (9, 7)}),
  ],
)
def test_photos_of_all_kinds_are_prepared_as_by_run_py(made, address, visit, name, options):
  if orientation := options.pop('exif', None):
    options['exif'] = Image.Exif()
    options['exif'][0x0112] = orientation
  path = photo(made['folder'] / name, 77, **options)
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
  expect(page.locator('#badge')).to_have_text('Preview: ended early')
  assert page.locator('#threshold-value').inner_text() == 'never wait'
  assert facts() == ['2', '100.0%', f'{first:.2f} M']
  assert likeliest(page) != specialist
  slider.press('End')
  expect(page.locator('#badge')).to_have_text('Specialist')
  assert slider.get_attribute('aria-valuetext') == 'always wait'
  assert facts() == ['2', '0.0%', f'{both:.2f} M']
  assert likeliest(page) == specialist
  slider.press('ArrowLeft')
  page.get_by_role('button', name='as exported').click()
  assert page.locator('#threshold-value').inner_text() == f'{made["about"]["threshold"]:.3f}'
  assert facts()[1] == '50.0%'
  page.get_by_role('button', name='Count anew').click()
  expect(page.locator('#images')).to_have_text('0')
  assert facts() == ['0', '–', '–']


def test_the_specialist_runs_late_for_a_photo_that_ended_early(made, address, visit):
  page = visit(address)
  choose(page, made['certain'])
  assert badge(page) == 'Preview: ended early'
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


def test_photos_come_from_samples_drops_and_the_clipboard(made, address, visit):
  page = visit(address)
  samples = page.locator('.sample')
  assert [image.get_attribute('alt') for image in page.locator('.sample img').all()] == [
    'Sample 1: b.png', 'Sample 2: blue things 1 & 2.png',
  ]  # fmt: skip
  samples.nth(1).click()
  expect(page.locator('#images')).to_have_text('1')
  assert badge(page) == 'Preview: ended early'
  send = """([kind, where, data]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], 'mine.png', {type: 'image/png'}));
    const options = {bubbles: true, cancelable: true};
    document.querySelector(where).dispatchEvent(kind === 'drop'
      ? new DragEvent('drop', {...options, dataTransfer: transfer})
      : new ClipboardEvent('paste', {...options, clipboardData: transfer}));
  }"""
  data = base64.b64encode(made['unsure'].read_bytes()).decode()
  page.evaluate(send, ['drop', 'footer', data])
  expect(page.locator('#images')).to_have_text('2')
  expect(page.locator('#shown')).to_have_attribute('alt', 'Your photo: mine.png')
  assert badge(page) == 'Specialist'
  page.evaluate(send, ['paste', 'body', data])
  expect(page.locator('#images')).to_have_text('3')


def test_the_camera_starts_stops_and_yields_to_a_photo(made, address, visit):
  page = visit(address, permissions=['camera'])
  camera = page.locator('#camera')
  camera.click()
  expect(camera).to_have_text('Stop the camera')
  expect(page.locator('#images')).to_have_text(re.compile('^([6-9]|[0-9]{2,})$'))
  expect(page.locator('#video')).to_be_visible()
  assert len(likeliest(page)) == 5
  camera.click()
  expect(camera).to_have_text('Start the camera')
  expect(page.locator('#video')).to_be_hidden()
  page.wait_for_timeout(300)
  seen = page.locator('#images').inner_text()
  page.wait_for_timeout(300)
  assert page.locator('#images').inner_text() == seen
  camera.click()
  expect(page.locator('#video')).to_be_visible()
  page.locator('.sample').nth(0).click()
  expect(page.locator('#shown')).to_be_visible()
  expect(camera).to_have_text('Start the camera')
  assert page.evaluate('document.querySelector("#video").srcObject') is None


def test_a_camera_that_is_not_allowed_is_a_sentence(address, visit):
  page = visit(address, permissions=[])
  page.locator('#camera').click()
  expect(page.get_by_role('alert')).to_contain_text('The camera was not allowed')
  expect(page.locator('#camera')).to_have_text('Start the camera')


def test_what_is_no_image_is_a_sentence_and_the_answer_before_stays(made, address, visit):
  page = visit(address)
  choose(page, made['certain'])
  before = likeliest(page)
  page.locator('#file').set_input_files(made['samples'] / 'notes.txt')
  alert = page.get_by_role('alert')
  expect(alert).to_have_text('notes.txt is not an image that this browser can read.')
  assert likeliest(page) == before
  broken = made['folder'] / 'broken.png'
  broken.write_bytes(made['unsure'].read_bytes()[:60])
  page.locator('#file').set_input_files(broken)
  expect(alert).to_have_text('broken.png is not an image that this browser can read.')
  assert page.locator('#images').inner_text() == '1'
  choose(page, made['unsure'])
  expect(alert).to_be_hidden()
  assert badge(page) == 'Specialist'


@pytest.mark.parametrize(
  'file,content,sentence',
  [
    ('model.tflite', None, 'model.tflite is missing beside this page: build it again by make web.'),
    ('model.json', None, 'model.json is missing beside this page: build it again by make web.'),
    ('model.json', b'{"labels": []', 'model.json is broken: it is not what --mode=export writes.'),
    ('model.json', b'<html>', 'model.json is broken: it is not what --mode=export writes.'),
    ('model.tflite', b'no network', 'model.tflite is broken, or not the one of model.json'),
    ('model.tflite', 5000, 'model.tflite is broken, or not the one of model.json'),
    ('wasm/litert_wasm_internal.wasm', b'', 'LiteRT did not load: the folder wasm'),
    ('wasm/litert_wasm_internal.js', None, 'LiteRT did not load: the folder wasm'),
  ],
)
def test_what_is_missing_or_broken_is_one_sentence(
  made, served, visit, tmp_path, file, content, sentence
):
  site = shutil.copytree(made['site'], tmp_path / 'site')
  whole = (site / file).read_bytes()
  (site / file).unlink()
  if content is not None:
    (site / file).write_bytes(whole[:content] if isinstance(content, int) else content)
  page = visit(served(site), ready=False)
  expect(page.get_by_role('alert')).to_contain_text(sentence, timeout=20_000)
  expect(page.locator('#loading')).to_be_hidden()
  expect(page.locator('#file')).to_be_disabled()


def test_browsers_without_webassembly_get_a_sentence(address, chromium):
  page = chromium.new_page()
  page.add_init_script('delete window.WebAssembly')
  page.goto(address)
  expect(page.get_by_role('alert')).to_contain_text('This browser is too old')
  page.close()


def test_the_page_opened_as_a_file_says_how_to_serve_it(made, chromium):
  page = chromium.new_page()
  page.goto(f'file://{made["site"]}/index.html')
  expect(page.get_by_role('alert')).to_contain_text('Open this page from a server')
  page.close()


def test_all_can_be_done_by_keyboard(made, address, visit):
  page = visit(address)
  focused = '() => document.activeElement.id || document.activeElement.className'
  # The outline may be that of the label around an input that is not seen.
  outlined = """() => [document.activeElement, document.activeElement.closest('label')]
    .some((e) => e && getComputedStyle(e).outlineStyle !== 'none')"""
  page.keyboard.press('Tab')
  assert page.evaluate(focused) == 'file' and page.evaluate(outlined)
  with page.expect_file_chooser() as chooser:
    page.keyboard.press('Enter')
  chooser.value.set_files(made['certain'])
  expect(page.locator('#badge')).to_have_text('Preview: ended early')
  stops = []
  for _ in range(20):
    page.keyboard.press('Tab')
    stops.append(page.evaluate(focused))
    if stops[-1] in ('', 'file'):
      break
    assert page.evaluate(outlined), stops
    if stops[-1] == 'sample' and stops.count('sample') == 1:
      page.keyboard.press('Enter')
      expect(page.locator('#badge')).to_have_text('Specialist')
    if stops[-1] == 'threshold':
      page.keyboard.press('Home')
      expect(page.locator('#badge')).to_have_text('Preview: ended early')
  assert {'camera', 'sample', 'threshold', 'reset', 'clear'} <= set(stops)


@pytest.mark.parametrize('width', [360, 1200])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_axe_finds_nothing(made, address, visit, scheme, width):
  # Its script is not of the page, whose policy would refuse it.
  page = visit(
    address,
    color_scheme=scheme,
    viewport={'width': width, 'height': 800},
    bypass_csp=True,
    reduced_motion='reduce',
  )
  page.add_script_tag(path=WEB / 'node_modules' / 'axe-core' / 'axe.min.js')
  run = 'async () => (await axe.run()).violations.map((v) => [v.id, v.nodes.map((n) => n.html)])'
  assert page.evaluate(run) == []
  choose(page, made['certain'])
  page.get_by_text('The coefficients as numbers').click()
  assert page.evaluate(run) == []
  page.locator('#threshold').press('End')
  page.locator('#file').set_input_files(made['samples'] / 'notes.txt')
  expect(page.get_by_role('alert')).to_be_visible()
  assert page.evaluate(run) == []


def test_a_screen_of_360_pixels_needs_no_scrolling_sideways(made, address, visit):
  page = visit(address, viewport={'width': 360, 'height': 740}, is_mobile=True, has_touch=True)
  across = 'document.documentElement.scrollWidth'
  assert page.evaluate(across) == 360
  choose(page, made['unsure'])
  page.get_by_text('The coefficients as numbers').click()
  page.get_by_text('About this network').click()
  assert page.evaluate(across) == 360


def test_who_wants_less_motion_gets_none(made, address, visit):
  moving = '() => getComputedStyle(document.querySelector(".fill")).transitionDuration'
  for motion, duration in [('reduce', '0s'), ('no-preference', '0.2s')]:
    page = visit(address, reduced_motion=motion)
    choose(page, made['certain'])
    assert page.evaluate(moving) == duration


def test_a_network_of_one_stage_has_neither_threshold_nor_coefficients(
  tmp_path, served, visit, made
):
  where = export(tmp_path, ONE_STAGE)
  page = visit(served(built(where, tmp_path / 'site')))
  expect(page.locator('#cost')).to_be_hidden()
  expect(page.locator('#samples')).to_be_hidden()
  choose(page, made['certain'])
  wanted, stage, _ = asked(where, made['certain'])
  assert stage == 'network'
  assert_same(likeliest(page), wanted)
  for part in ('#badge', '#why', '#cost', '#coefficients'):
    expect(page.locator(part)).to_be_hidden()
  assert page.locator('[role=status]').inner_text().count('.') == 2  # Of the number and the end.


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
@pytest.mark.parametrize(
  'size,crop,resolution',
  [
    ((1, 1), 1.0, 8),
    ((5, 7), 1.0, 16),
    ((92, 100), 0.875, 32),  # A side of 80.5 pixels, which Python rounds to 80.
    ((333, 217), 1.0, 96),
    ((96, 96), 1.0, 96),
    ((1300, 911), 0.875, 224),
  ],
)
def test_pixels_are_those_of_pillow(made, visit_pixels, size, crop, resolution, method):
  random = np.random.default_rng(size[0])
  noise = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
  path = made['folder'] / 'noise.png'
  Image.fromarray(noise).save(path)
  found, wanted = visit_pixels(path, {'crop': crop, 'resolution': resolution, 'resize': method})
  np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_photos_are_turned_as_their_exif_tag_says(made, visit_pixels, orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  path = photo(made['folder'] / 'turned.jpg', 3, size=(200, 120), exif=exif, quality=90)
  found, wanted = visit_pixels(path, {'crop': 0.9, 'resolution': 48, 'resize': 'bilinear'})
  # Decoders differ in how they enlarge the colours, of which a JPEG has fewer than pixels.
  assert np.abs(found - wanted).max() <= 2


@pytest.mark.parametrize('mode', ['L', 'P', '1'])
def test_gray_and_palette_images_are_rgb(made, visit_pixels, mode):
  path = made['folder'] / f'{mode}.png'
  Image.open(made['unsure']).convert(mode).save(path)
  found, wanted = visit_pixels(path, {'crop': 1.0, 'resolution': 24, 'resize': 'bicubic'})
  np.testing.assert_array_equal(found, wanted)


def test_transparent_images_lie_on_white(made, visit_pixels):
  path = made['folder'] / 'clear.png'
  Image.new('RGBA', (20, 20), (255, 0, 0, 0)).save(path)
  found, _ = visit_pixels(path, {'crop': 1.0, 'resolution': 8, 'resize': 'bicubic'})
  assert (found == 255).all()


def test_images_that_are_too_large_are_refused(made, visit_pixels):
  path = made['folder'] / 'large.png'
  Image.new('1', (8001, 8000)).save(path)
  with pytest.raises(Exception, match='8001 x 8000 pixels, more than 64 million: shrink it'):
    visit_pixels(path, {'crop': 1.0, 'resolution': 8, 'resize': 'bicubic'})


@pytest.fixture(scope='module')
def visit_pixels(made, chromium):
  """A photo and an `about` to what web/src/pixels.ts makes of it, and run.py: RGB bytes."""
  bundle = made['folder'] / 'pixels.js'
  subprocess.run(
    [
      WEB / 'node_modules' / '.bin' / 'esbuild', WEB / 'src' / 'pixels.ts', '--bundle',
      '--format=iife', '--global-name=pixels', f'--outfile={bundle}', '--log-level=warning',
    ],
    check=True,
  )  # fmt: skip
  runner = runpy.run_path(str(made['export'] / 'run.py'))
  page = chromium.new_page()
  page.add_script_tag(path=bundle)
  call = """async ([data, about]) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const seen = await pixels.seenOf(new Blob([bytes]), about);
    return [Array.from(seen), Array.from(pixels.normalized(seen))];
  }"""

  def compare(path, about):
    seen, numbers = page.evaluate(call, [base64.b64encode(path.read_bytes()).decode(), about])
    runner['pixels'].__globals__['about'] = lambda: about
    wanted = runner['pixels'](path)
    exact = np.float32(seen) / np.float32(127.5) - np.float32(1)
    np.testing.assert_array_equal(np.float32(numbers), exact)
    return np.int32(seen), np.int32(np.rint((wanted + 1) * 127.5)).ravel()

  yield compare
  page.close()


def test_what_make_web_lacks_is_a_sentence(made, tmp_path):
  code, said = build(tmp_path / 'nothing', tmp_path / 'site')
  assert code != 0
  assert f'{tmp_path}/nothing/model.json does not exist; export a run first' in said
  code, said = build(made['export'], tmp_path / 'site', tmp_path / 'nowhere')
  assert code != 0 and f'SAMPLES={tmp_path}/nowhere does not exist.' in said
  code, said = build(made['export'], made['folder'])
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
