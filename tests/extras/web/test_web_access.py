"""The page by keyboard, for screen readers, on small screens."""

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
