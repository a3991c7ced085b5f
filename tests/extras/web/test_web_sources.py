"""Where photos come from: samples, drops, the clipboard, the camera; and what fails."""

import base64
import re
import shutil

from pages import asked, assert_same, badge, choose, drop, likeliest, photo, until
from PIL import Image
from playwright.sync_api import expect
import pytest


def test_photos_come_from_samples_drops_and_the_clipboard(made, address, visit):
  page = visit(address)
  samples = page.locator('.sample')
  assert [image.get_attribute('alt') for image in page.locator('.sample img').all()] == [
    'Sample 1: b.png', 'Sample 2: blue things 1 & 2.png',
  ]  # fmt: skip
  samples.nth(1).click()
  expect(page.locator('#images')).to_have_text('1')
  assert badge(page) == 'Lightweight: ended early'
  drop(page, ('mine.png', made['unsure'].read_bytes()))
  expect(page.locator('#images')).to_have_text('2')
  expect(page.locator('#shown')).to_have_attribute('alt', 'Your photo: mine.png')
  assert badge(page) == 'Specialist'
  paste = """(data) => {
    const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([bytes], 'image.png', {type: 'image/png'}));
    document.body.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, clipboardData}));
  }"""
  page.evaluate(paste, base64.b64encode(made['unsure'].read_bytes()).decode())
  expect(page.locator('#images')).to_have_text('3')
  expect(page.locator('#shown')).to_have_attribute('alt', 'Your photo: from the clipboard')


def test_several_photos_are_looked_at_one_after_another(made, address, visit):
  page = visit(address)
  photos = [(path.name, path.read_bytes()) for path in (made['unsure'], made['certain'])]
  drop(page, photos[0], ('notes.txt', b'no image'), *photos, ('empty.png', b''))
  expect(page.get_by_role('alert')).to_have_text(
    '2 of 5 files were not seen. notes.txt is not an image that this browser can read.'
  )
  assert page.locator('#images').inner_text() == '3'
  assert badge(page) == 'Lightweight: ended early'  # The last one.
  page.locator('#file').set_input_files([made['unsure'], made['certain']])
  expect(page.locator('#images')).to_have_text('5')
  expect(page.get_by_role('alert')).to_be_hidden()


def test_what_is_dropped_and_no_file_is_a_sentence(address, visit):
  page = visit(address)
  drop(page, text='https://example.org/photo.png')
  expect(page.get_by_role('alert')).to_contain_text('That was no file: drop photos')


def test_phones_show_what_came_of_a_photo_wherever_one_is_on_the_page(made, address, visit):
  page = visit(address, viewport={'width': 375, 'height': 667}, is_mobile=True, has_touch=True)
  expect(page.locator('#said')).to_have_text('Ready for photos.')
  file = page.locator('#file')
  file.set_input_files(made['unsure'])
  expect(page.locator('#label')).to_be_in_viewport(ratio=1)
  expect(page.locator('#badge')).to_be_in_viewport(ratio=1)
  expect(page.locator('#shown')).to_be_in_viewport()
  page.locator('#drop').evaluate('(e) => e.scrollIntoView()')
  file.set_input_files(made['samples'] / 'notes.txt')
  expect(page.get_by_role('alert')).to_be_in_viewport(ratio=1)


def test_the_photo_of_a_large_camera_is_upright(made, address, visit):
  exif = Image.Exif()
  exif[0x0112] = 6
  path = photo(made['folder'] / 'large.jpg', 5, size=(8000, 6000), quality=60, exif=exif)
  page = visit(address)
  choose(page, path)
  shown = (
    '() => { const e = document.querySelector("#shown"); return [e.naturalWidth, e.naturalHeight] }'  # noqa: E501
  )
  assert page.evaluate(shown) == [6000, 8000]
  wanted, _, _ = asked(made['export'], path)
  assert_same(likeliest(page), wanted)


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


def test_a_camera_that_is_unplugged_is_a_sentence(address, visit):
  page = visit(address, permissions=['camera'])
  page.locator('#camera').click()
  expect(page.locator('#images')).to_have_text(re.compile('^[1-9]'))
  # As browsers do, which stop the track themselves.
  page.evaluate("""() => {
    const [track] = document.querySelector('#video').srcObject.getTracks();
    track.stop();
    track.dispatchEvent(new Event('ended'));
  }""")
  expect(page.get_by_role('alert')).to_have_text('The camera is gone.')
  expect(page.locator('#camera')).to_have_text('Start the camera')
  expect(page.locator('#invitation')).to_be_visible()


def test_a_photo_that_comes_while_the_camera_is_asked_for_stays(made, address, visit):
  page = visit(address, permissions=['camera'])
  page.evaluate("""() => {
    const devices = navigator.mediaDevices;
    const ask = devices.getUserMedia.bind(devices);
    const answered = new Promise((answer) => { window.answer = answer; });
    devices.getUserMedia = async (wanted) => {
      const stream = await ask(wanted);
      await answered;
      window.stream = stream;
      return stream;
    };
  }""")
  page.locator('#camera').click()
  choose(page, made['certain'])
  page.evaluate('window.answer()')
  until(page, 'window.stream?.getTracks().every((t) => t.readyState === "ended")')
  expect(page.locator('#camera')).to_be_enabled()
  assert page.locator('#camera').inner_text() == 'Start the camera'
  assert page.locator('#images').inner_text() == '1'
  expect(page.locator('#shown')).to_be_visible()


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


def flipped(content):
  """One bit in the middle, where the weights are."""
  middle = len(content) // 2
  return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
  'file,content,sentence',
  [
    ('model.tflite', None, 'model.tflite is missing beside this page: build it again by make web.'),
    ('model.json', None, 'model.json is missing beside this page: build it again by make web.'),
    ('model.json', b'{"labels": []', 'model.json is broken: it is not what --mode=export writes.'),
    ('model.json', b'<html>', 'model.json is broken: it is not what --mode=export writes.'),
    ('model.tflite', b'no network', 'model.tflite is broken, or not the one of model.json'),
    ('model.tflite', 5000, 'model.tflite is broken, or not the one of model.json'),
    ('model.tflite', flipped, 'model.tflite is broken, or not the one of model.json'),
    ('model.json', b'{"labels": ["a"], "chosen": {}}', 'model.json is broken: it is not what'),
    ('worker.js', None, 'The program that runs the network failed: load this page again.'),
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
    content = content(whole) if callable(content) else content
    (site / file).write_bytes(whole[:content] if isinstance(content, int) else content)
  page = visit(served(site), ready=False)
  expect(page.get_by_role('alert')).to_contain_text(sentence, timeout=20_000)
  expect(page.locator('#loading')).to_be_hidden()
  expect(page.locator('#file')).to_be_disabled()


@pytest.mark.parametrize('content', [None, b'<html>', b'{}'])
def test_without_samples_it_answers_for_photos_of_ones_own(made, served, visit, tmp_path, content):
  site = shutil.copytree(made['site'], tmp_path / 'site')
  (site / 'samples.json').unlink()
  if content is not None:
    (site / 'samples.json').write_bytes(content)
  page = visit(served(site), ready=False)
  expect(page.get_by_role('alert')).to_contain_text('samples.json is ', timeout=20_000)
  choose(page, made['certain'])
  assert badge(page) == 'Lightweight: ended early'


def test_a_sample_that_does_not_arrive_is_a_sentence(address, visit):
  page = visit(address)
  page.route('**/samples/*', lambda route: route.abort())
  page.locator('.sample').nth(1).click()
  expect(page.get_by_role('alert')).to_have_text(
    'samples/blue things 1 & 2.png did not arrive: is the server still there?'
  )


def test_servers_may_not_know_the_kinds_of_files(made, served, visit):
  kinds = {'.wasm': 'text/plain', '.tflite': 'text/html', '.json': 'text/plain'}
  page = visit(served(made['site'], kinds))
  choose(page, made['certain'])
  assert badge(page) == 'Lightweight: ended early'


def test_a_slow_network_shows_how_far_it_is(address, chromium):
  page = chromium.new_page()
  session = page.context.new_cdp_session(page)
  slow = {'offline': False, 'latency': 100, 'uploadThroughput': 10**6}
  session.send('Network.enable')
  session.send('Network.emulateNetworkConditions', slow | {'downloadThroughput': 200_000})
  page.goto(address, wait_until='commit')
  expect(page.locator('#phase')).to_have_text('Loading the network', timeout=20_000)
  arrived = 'document.querySelector("#progress").value'
  until(page, f'{arrived} > 0.1 && {arrived} < 0.9')
  expect(page.locator('#file')).to_be_disabled()
  session.send('Network.emulateNetworkConditions', slow | {'downloadThroughput': -1})
  expect(page.locator('#file')).to_be_enabled(timeout=30_000)
  expect(page.locator('#loading')).to_be_hidden()
  page.close()


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
