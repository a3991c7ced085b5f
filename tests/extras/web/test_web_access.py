"""The page by keyboard, for screen readers, on small screens."""

import json
import re
import shutil

from pages import WEB, choose
from playwright.sync_api import expect
import pytest


def test_all_can_be_done_by_keyboard(made, address, visit):
  page = visit(address)
  focused = '() => document.activeElement.id || document.activeElement.className'
  # The outline may be that of the label around an input that is not seen.
  outlined = """() => [document.activeElement, document.activeElement.closest('label')]
    .some((e) => e && getComputedStyle(e).outlineStyle !== 'none')"""
  page.keyboard.press('Tab')
  assert page.evaluate(focused) == 'file' and page.evaluate(outlined)
  with page.expect_file_chooser() as chooser:
    page.keyboard.press('Space')  # Of Enter headless Chromium loses some, of any such input.
  chooser.value.set_files(made['certain'])
  expect(page.locator('#badge')).to_have_text('Lightweight: ended early')
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
      expect(page.locator('#badge')).to_have_text('Lightweight: ended early')
  assert {'camera', 'sample', 'threshold', 'reset', 'clear'} <= set(stops)


def test_buttons_that_become_disabled_leave_the_focus_to_the_slider(made, address, visit):
  page = visit(address)
  choose(page, made['unsure'])
  page.locator('#threshold').press('Home')
  for button in ('#reset', '#clear'):
    page.locator(button).press('Enter')
    expect(page.locator(button)).to_be_disabled()
    expect(page.locator('#threshold')).to_be_focused()


def test_all_that_can_be_used_has_a_name(made, address, visit):
  page = visit(address)
  expect(page.locator('#said')).to_have_text('Ready for photos.')
  choose(page, made['unsure'])
  told = page.locator('body').aria_snapshot()
  controls = re.findall(
    r"- '?(button|slider)(?: (.*?))?'?(?: \[.*\])?:?(?: \"[0-9.]+\")?$", told, re.M
  )
  assert [name.strip('"') for _, name in controls] == [
    'Choose photos', 'Start the camera', 'Sample 1: b.png', 'Sample 2: blue things 1 & 2.png',
    'Confidence that ends it early', f'Back to {made["about"]["threshold"]:.3f}, as exported',
    'Count anew',
  ]  # fmt: skip


@pytest.mark.parametrize('width', [320, 1200])
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


@pytest.mark.parametrize(
  'width,font',
  [
    (320, '100%'),
    (320, '200%'),
    (360, '100%'),
    (768, '100%'),
    (1440, '100%'),
    (640, '200%'),
    (1280, '200%'),
  ],
)
def test_screens_need_no_scrolling_sideways_and_cards_hold_what_is_theirs(
  made, address, visit, width, font
):
  screen = {'width': width, 'height': 740}
  page = visit(
    address, viewport=screen, is_mobile=width < 700, has_touch=width < 700, bypass_csp=True
  )
  page.add_style_tag(content=f':root {{ font-size: {font} }}')  # As browsers' settings do.
  # What scrolls by itself, and what is there for screen readers alone, may be wider.
  outside = """() => Array.from(document.querySelectorAll('.card')).flatMap((card) => {
    const { left, right } = card.getBoundingClientRect();
    return Array.from(card.querySelectorAll('*'))
      .filter((e) => !e.closest('.unseen, #samples, .scroll'))
      .map((e) => [e.outerHTML.slice(0, 60), e.getBoundingClientRect()])
      .filter(([, box]) => box.width && (box.left < left || box.right > right))
      .map(([name]) => name);
  })"""
  across = 'document.documentElement.scrollWidth'
  assert page.evaluate(across) == width and page.evaluate(outside) == []
  choose(page, made['unsure'])
  page.get_by_text('The coefficients as numbers').click()
  page.get_by_text('About this network').click()
  assert page.evaluate(across) == width and page.evaluate(outside) == []
  # A part of what the browser's settings say.
  own = """() => Array.from(document.styleSheets[0].cssRules)
    .find((rule) => rule.selectorText === ':root').style.fontSize"""
  assert page.evaluate(own) == '100%'
  larger = page.locator('#why').evaluate('(e) => parseFloat(getComputedStyle(e).fontSize)')
  assert larger == pytest.approx({'100%': 14.72, '200%': 29.44}[font])


def test_labels_of_one_long_word_need_no_scrolling_sideways(made, served, visit, tmp_path):
  site = shutil.copytree(made['site'], tmp_path / 'site')
  labels = [f'{name}_of_a_photo_in_a_folder_of_a_long_name' for name in made['about']['labels']]
  (site / 'model.json').write_text(json.dumps(made['about'] | {'labels': labels}))
  page = visit(served(site), viewport={'width': 320, 'height': 740}, is_mobile=True)
  choose(page, made['unsure'])
  page.get_by_text('About this network').click()
  assert page.evaluate('document.documentElement.scrollWidth') == 320


def test_the_largest_letters_do_not_lie_on_one_another(address, visit):
  page = visit(address, viewport={'width': 320, 'height': 740}, bypass_csp=True)
  page.add_style_tag(content=':root { font-size: 200% }')
  own = """(e) => {
    const range = document.createRange();
    range.selectNodeContents(e);
    return range.getBoundingClientRect().toJSON();
  }"""
  label, value = (page.locator(f'.dial {name}').evaluate(own) for name in ('label', 'output'))
  assert value['left'] >= label['right'] or value['top'] >= label['bottom']


def test_bars_and_maps_are_seen_in_forced_colours(made, address, visit):
  page = visit(address, forced_colors='active')
  choose(page, made['unsure'])
  colour = '(e) => getComputedStyle(e).backgroundColor'
  ground = page.locator('#answer').evaluate(colour)
  for bar in ('#likeliest .fill', '#heat span', '#histogram .second'):
    assert page.locator(bar).first.evaluate(colour) != ground


def test_who_wants_less_motion_gets_none(made, address, visit):
  moving = '() => getComputedStyle(document.querySelector(".fill")).transitionDuration'
  for motion, duration in [('reduce', '0s'), ('no-preference', '0.2s')]:
    page = visit(address, reduced_motion=motion)
    choose(page, made['certain'])
    assert page.evaluate(moving) == duration
