"""Pages that the tests of the web share, and the browser that opens them."""

import functools
import http.server
import json
import os
import runpy
import shutil
import threading

from ai_edge_litert.interpreter import Interpreter
import pages
from playwright.sync_api import expect, sync_playwright
import pytest


class Handler(http.server.SimpleHTTPRequestHandler):
  def __init__(self, *arguments, kinds, **options):
    self.extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | kinds
    super().__init__(*arguments, **options)

  def log_message(self, *_):
    pass


@pytest.fixture(scope='session')
def served():
  """Serves folders as `python -m http.server` does: folder to address; with other MIME types."""
  servers = []

  def serve(folder, kinds=()):
    handler = functools.partial(Handler, directory=folder, kinds=dict(kinds))
    servers.append(http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
    threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{servers[-1].server_port}/'

  yield serve
  for server in servers:
    server.shutdown()
    server.server_close()


@pytest.fixture(scope='session')
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


@pytest.fixture(scope='session')
def made(tmp_path_factory):
  """The export, with a threshold between the confidences of two photos; samples beside them."""
  folder = tmp_path_factory.mktemp('two stages')
  where = pages.export(folder, pages.TWO_STAGES)
  runner = runpy.run_path(str(where / 'run.py'))
  about = json.loads((where / 'model.json').read_text())
  preview = Interpreter(str(where / 'model.tflite')).get_signature_runner('preview')
  sure = {}
  for seed in range(12):
    path = pages.photo(folder / f'{seed}.png', seed)
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
    'site': pages.built(where, folder / 'site', samples),
  }


@pytest.fixture(scope='session')
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
    # Of what does not arrive the browser itself tells.
    page.on('console', lambda said: said.type not in ('error', 'warning')
            or said.text.startswith('Failed to load') or troubles.append(said.text))  # fmt: skip
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
