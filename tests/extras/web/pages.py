"""Pages of exports: made, and driven as visitors do."""

import base64
import fcntl
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image
from playwright.sync_api import expect
import pytest

ROOT = pathlib.Path(__file__).parents[3]
WEB = ROOT / 'web'
_LOCK = pathlib.Path(tempfile.gettempdir()) / 'basisnet_web_tests.lock'
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
  command = ['make', '--no-print-directory', 'web', f'WEB={export}', f'SITE={site}']
  with _LOCK.open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # Other workers' would install packages at the same time.
    done = subprocess.run(
      [*command, f'SAMPLES={samples}'], cwd=ROOT, capture_output=True, text=True
    )
  return done.returncode, done.stdout + done.stderr


def built(*arguments):
  code, said = build(*arguments)
  assert code == 0, said
  return arguments[1]


def photo(path, seed, size=(90, 60), **options):
  """Colours in large blotches, as no two photos have them."""
  random = np.random.default_rng(seed)
  small = Image.fromarray(np.uint8(random.integers(0, 256, (4, 5, 3))))
  small.resize(size, Image.Resampling.BICUBIC).save(path, **options)
  return path


def until(page, condition):
  """Waits for it. (Playwright's `wait_for_function` needs `eval`, which our pages forbid.)"""
  end = time.monotonic() + 20
  while not page.evaluate(condition):
    assert time.monotonic() < end, condition
    page.wait_for_timeout(20)


def choose(page, path):
  """A photo by the file chooser; waits until its answer is there."""
  shown = page.locator('#shown')
  before = shown.get_attribute('src') or ''
  with page.expect_file_chooser() as chooser:
    page.locator('#drop').click()
  chooser.value.set_files(path)
  expect(shown).to_have_attribute('src', re.compile(f'^(?!{re.escape(before)}$)blob:'))


def drop(page, *files, text=''):
  """Drops files (name, content) and text somewhere on the page."""
  data = [(name, base64.b64encode(content).decode()) for name, content in files]
  page.evaluate(
    """([files, text]) => {
      const dataTransfer = new DataTransfer();
      for (const [name, data] of files) {
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        dataTransfer.items.add(new File([bytes], name));
      }
      if (text) dataTransfer.setData('text/plain', text);
      const drop = new DragEvent('drop', {bubbles: true, cancelable: true, dataTransfer});
      document.querySelector('footer').dispatchEvent(drop);
    }""",
    [data, text],
  )


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
  stage, confidence = re.fullmatch(r'\((\w+); .* ([0-9.]+|nan)\)', last).groups()
  return [tuple(line.rsplit('  ', 1)) for line in lines], stage, float(confidence)


def number(text):
  return float(re.search('[0-9.]+', text)[0])


def assert_same(found, wanted):
  assert [label for label, _ in found] == [label for label, _ in wanted]
  for (_, value), (_, right) in zip(found, wanted, strict=True):
    assert number(value) == pytest.approx(number(right), abs=0.11)


def badge(page):
  return page.locator('#badge').inner_text()
