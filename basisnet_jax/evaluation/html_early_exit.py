"""The page's sections on early termination: accuracy over cost, the threshold, who exits."""

import math

import numpy as np

from basisnet_jax.evaluation import html_parts as parts
from basisnet_jax.evaluation import plots
from basisnet_jax.evaluation.analysis import Findings

_MOST_POINTS = 600  # Points of the curve in the picture.
_RULES = {
  'max_softmax': 'the largest softmax',
  'margin': 'the largest softmax less the second',
  'entropy': 'one less the normalised entropy',
}


def headline(found: Findings) -> str:
  """The outcome in four numbers."""
  total, special, point = found.subject.total_madds, _specialist(found), found.point
  change = points(point['top1'] - special)
  saving = 1 - point['average_madds'] / total
  return parts.tiles(
    [
      (f'{100 * special:.2f}%', f'top-1 of the specialist, for {madds(total)} MAdds'),
      (f'{100 * point["top1"]:.2f}%', f'with early termination ({change} points)'),
      (f'\N{MINUS SIGN}{100 * saving:.0f}%', f'MAdds: {madds(point["average_madds"])} on average'),
      (f'{100 * point["exit_rate"]:.0f}%', 'of the images end after the lightweight model'),
    ]
  )


def accuracy(found: Findings) -> list[str]:
  """The curve, and the table of the stages and thresholds."""
  point, bounds = found.point, found.bounds
  caption = (
    f'At an exit rate of {100 * point["exit_rate"]:.0f}%: exits at random would give '
    f'{percent(bounds["random"])}, this rule gives {percent(point["top1"])}, and an oracle that '
    f'knows the answers {percent(bounds["oracle"])}.'
  )
  return [
    '<div class="columns">',
    parts.figure(*_curve(found), caption),
    _table(found),
    '</div>',
  ]


def _curve(found):
  """The picture as SVG, and a description of it."""
  summary, subject = found.summary, found.subject
  images = len(found.curve['top1'])
  keep = np.unique(np.linspace(0, images - 1, _MOST_POINTS).round().astype(int))
  chosen = found.chosen is not None
  svg = plots.cost_accuracy_svg(
    {name: np.asarray(values)[keep] for name, values in found.curve.items()},
    [] if chosen else summary['early_exit'],
    lightweight=(subject.lightweight_madds, summary['lightweight']['top1']),
    specialist=(subject.total_madds, _specialist(found)),
    chosen=found.point if chosen else None,
    oracle=found.oracle,
  )
  return svg, (
    f'Top-1 accuracy over average MAdds: from {percent(summary["lightweight"]["top1"])} for '
    f'{madds(subject.lightweight_madds)} to {percent(_specialist(found))} for '
    f'{madds(subject.total_madds)}; the curve of all thresholds lies between exits at random and '
    'the oracle.'
  )


def _table(found):
  total = found.subject.total_madds

  def row(name, top1, exit_rate, cost):
    return [name, percent(top1), exit_rate, madds(cost), f'{100 * (1 - cost / total):.1f}%']

  light = found.summary['lightweight']['top1']
  rows = [
    row('Lightweight model alone', light, '', found.subject.lightweight_madds),
    row('Specialist alone', _specialist(found), '', total),
  ]
  entries = [(f'Threshold {p["threshold"]:g}', p) for p in found.summary['early_exit']]
  if found.chosen is not None:
    entries.append((f'Chosen: {_name(found.threshold)}', found.point))
  rows += [
    row(name, p['top1'], f'{100 * p["exit_rate"]:.1f}%', p['average_madds']) for name, p in entries
  ]
  return parts.table(
    'Each stage alone, and early termination',
    ['', 'Top-1', 'Exit rate', 'Average MAdds', 'Saving'],
    rows,
    marked=[] if found.chosen is None else [len(rows) - 1],
  )


def threshold(found: Findings) -> list[str]:
  """How the threshold was chosen, its expected and its actual effect; or how to choose one."""
  chosen, here = found.chosen, found.point
  if chosen is None:
    return [
      f'<p>No threshold was chosen. This page shows early termination at {found.threshold:g} '
      '(<code>evaluation.threshold</code>). To have one chosen, hold out images that neither '
      "training nor this page sees: <code>--config.data.train_split='train[:95%]' "
      "--config.data.heldout_split='train[95%:]'</code>.</p>"
    ]
  heldout, special = chosen.heldout, _specialist(found)
  rows = [
    ['Exit rate', *(f'{100 * p["exit_rate"]:.1f}%' for p in (heldout, here))],
    ['Average MAdds', *(madds(p['average_madds']) for p in (heldout, here))],
    ['Top-1', *(percent(p['top1']) for p in (heldout, here))],
    ['Specialist, always', percent(heldout['specialist_top1']), percent(special)],
    [
      'Difference, points',
      points(heldout['top1'] - heldout['specialist_top1']),
      points(here['top1'] - special),
    ],
  ]
  return [
    f'<p><strong>Threshold {_name(chosen.threshold)}</strong> on {_RULES[chosen.rule]} of the '
    f'lightweight model, at temperature {chosen.temperatures["lightweight"]:.3f}: '
    f'{parts.escape(chosen.reason)}. It was chosen on {heldout["images"]:,} held-out images '
    f'(<code>{parts.escape(heldout["split"])}</code>) that neither training nor this evaluation '
    'sees, and is kept in <code>early_exit.json</code>.</p>',
    parts.table(
      'Expected and found', ['', 'Held-out images', 'This split'], rows, narrow=True
    ),
  ]  # fmt: skip


def groups(found: Findings) -> list[str]:
  """The accuracy of both stages on images that exit and on the others."""
  rows = [
    [
      title,
      f'{group["images"]:,}',
      *(percent(group[f'{stage}_top1']) for stage in ('lightweight', 'specialist')),
    ]
    for title, group in zip(('Exit early', 'Go on'), found.groups.values(), strict=True)
  ]
  return [
    '<p>What both stages would answer to the images that exit and to those that go on. Exits are '
    'well chosen where the stages differ little on the first and much on the second.</p>',
    parts.table(
      'Accuracy on exited and on kept images',
      ['', 'Images', 'Lightweight top-1', 'Specialist top-1'],
      rows,
      narrow=True,
    ),
  ]


def _specialist(found):
  return found.summary['specialist']['top1']


def _name(threshold):
  return 'none, nobody exits' if threshold > 1 else f'{threshold:g}'


def points(difference: float) -> str:
  """A difference of two fractions in points: '+0.30', or '0.00' without a sign."""
  text = f'{100 * difference:+.2f}'
  return text[1:] if float(text) == 0 else text.replace('-', '\N{MINUS SIGN}')


def percent(fraction: float) -> str:
  """'76.30%', or a dash for NaN."""
  return '\N{EN DASH}' if math.isnan(fraction) else f'{100 * fraction:.2f}%'


def madds(madds: float) -> str:
  """Millions with three digits: '9.14 M'."""
  millions = madds / 1e6
  digits = max(0, 2 - math.floor(math.log10(millions))) if millions > 0 else 0
  return f'{millions:,.{digits}f}\N{NO-BREAK SPACE}M'
