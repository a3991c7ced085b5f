"""The page in Firefox, where it is installed: what differs between browsers."""

import re
import shutil

from firefox import Firefox, wait
from pages import asked, assert_same, photo
import pytest

HOME, END = '\ue011', '\ue010'
_PATH = next(filter(None, map(shutil.which, ('firefox', 'firefox-esr'))), None)
pytestmark = pytest.mark.skipif(not _PATH, reason='needs Firefox: apt-get install firefox-esr')


@pytest.fixture(scope='module')
def firefox(tmp_path_factory):
  browser = Firefox(_PATH, tmp_path_factory.mktemp('firefox'))
  yield browser
  browser.close()


@pytest.fixture
def page(firefox, address):
  """Firefox with the page open, of which nothing may fail."""
  firefox.open(address)
  wait(lambda: firefox.ask('!document.querySelector("#file").disabled'), 60)
  yield firefox
  assert firefox.troubles(address) == []


def choose(page, path):
  shown = 'document.querySelector("#shown").src'
  before = page.ask(shown)
  page.press('#file', path)
  wait(lambda: page.ask(shown) != before)


def likeliest(page):
  return page.ask("""Array.from(document.querySelectorAll('#likeliest li'),
    (e) => ['.name', '.value'].map((part) => e.querySelector(part).innerText))""")


def test_what_the_page_may_not_do_is_a_trouble_in_firefox(made, firefox, served):
  address = served(made['site'])
  firefox.open(address)
  assert firefox.troubles(address) == []
  styled = '<style>a { color: red }</style>'
  firefox.ask('document.body.insertAdjacentHTML("beforeend", arguments[0])', styled)
  assert any('style' in trouble for trouble in firefox.troubles(address))


@pytest.mark.parametrize('which', ['certain', 'unsure'])
def test_firefox_answers_as_run_py_does(made, page, which):
  choose(page, made[which])
  wanted, stage, confidence = asked(made['export'], made[which])
  assert_same(likeliest(page), wanted)
  assert page.text('#badge') == {'lightweight': 'Lightweight: ended early'}.get(stage, 'Specialist')
  assert f'confidence of {confidence:.3f}' in page.text('#why')
  # Its clock goes by whole milliseconds.
  assert re.match(r'Lightweight\s+(under 1|[0-9]+) ms\s+Specialist', page.text('#times'))


@pytest.mark.parametrize('name', ['a.jpg', 'a.webp', 'a.gif'])
def test_firefox_prepares_other_kinds_as_run_py_does(made, page, name):
  path = photo(made['folder'] / f'firefox {name}', 78, size=(300, 211))
  choose(page, path)
  wanted, _, _ = asked(made['export'], path)
  assert_same(likeliest(page), wanted)


def test_the_threshold_moves_by_keyboard_in_firefox(made, page):
  choose(page, made['unsure'])
  assert page.text('#badge') == 'Specialist'
  page.press('#threshold', HOME)
  wait(lambda: page.text('#badge') == 'Lightweight: ended early')
  assert page.text('#threshold-value') == 'never wait'
  page.press('#threshold', END)
  wait(lambda: page.text('#badge') == 'Specialist')


@pytest.mark.parametrize('name', ['cut.png', 'cut.jpg', 'cut.gif'])
def test_a_part_of_a_photo_gets_a_sentence_in_firefox(made, page, name):
  # Firefox itself makes an image of it, blank where it lacks.
  path = photo(made['folder'] / name, 79, size=(300, 211))
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  page.press('#file', path)
  sentence = f'{name} is not an image that this browser can read.'
  wait(lambda: page.text('#problem') == sentence)


def test_without_a_camera_firefox_gets_a_sentence(page):
  page.ask('document.querySelector("#camera").click()')
  wait(lambda: page.text('#problem') == 'No camera was found.')
