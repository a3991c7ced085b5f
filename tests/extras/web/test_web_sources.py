"""Where photos come from: samples, drops, the clipboard, the camera; and what fails."""

import base64
import re
import shutil

from pages import badge, choose, likeliest
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
