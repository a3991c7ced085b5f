"""The page that a colleague is shown: what an evaluation found, in sections."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import numpy as np

import basisnet_jax
from basisnet_jax.evaluation import early_exit, html_examples, plots, plots_calibration
from basisnet_jax.evaluation import html_parts as parts

_STAGES = {
  'lightweight': 'Lightweight model',
  'specialist': 'Specialist',
  'network': 'Network',
}
_MOST_CLASSES = 40  # In the page; more are in the file.
_MOST_POINTS = 600  # Of the curve in the picture.


def render(
  subject,
  summary: Mapping[str, Any],
  results: Mapping[str, Any],
  numbers: Mapping[str, Any],
  calibrations,
  curve: Mapping[str, Sequence[float]] | None,
  chosen,
  examples,
) -> str:
  """The page as HTML, which needs no other file.

  Args:
    subject: `page.Subject`.
    summary: of `evaluate.summarize`.
    results: of `evaluate.run`.
    numbers: of `analysis.as_dict`.
    calibrations: of `analysis.calibrations`.
    curve: of `analysis.curve`; None for a single network.
    chosen: `chosen.Chosen`, or None.
    examples: {name: [Example]}.
  """
  if curve is None:
    sections = [('accuracy', 'Accuracy', _accuracy_of_one(subject, summary))]
  else:
    point = early_exit.operating_point(
      numbers['threshold'],
      results['confidence'],
      results['lightweight_top1'],
      results['specialist_top1'],
      lightweight_madds=subject.lightweight_madds,
      total_madds=subject.total_madds,
    )
    sections = [
      (
        'accuracy',
        'Accuracy and cost',
        _accuracy(subject, summary, numbers, curve, point, results, chosen),
      ),
      ('threshold', 'The threshold', _threshold(summary, numbers, point, chosen)),
      ('groups', 'Who exits', _groups(numbers['groups'])),
    ]
  sections.append(('calibration', 'Calibration', _calibration(numbers, calibrations, chosen)))
  sections.append(('classes', 'Classes', _classes(numbers['classes'])))
  sections.append(('examples', 'Examples', html_examples.cards(examples, subject)))
  if numbers.get('bases'):
    sections.append(('bases', 'Use of the bases', _bases(numbers['bases'], results)))
  links = ''.join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
  top = (
    f'<header>\n<h1>{parts.escape(subject.name)}</h1>\n<p class="soft">{summary["images"]:,} '
    f'images of {parts.escape(subject.data)}, split <code>{parts.escape(subject.split)}</code>, at step '
    f'{summary["step"]:,} of training</p>\n'
  )
  top += _headline(subject, summary, point) if curve is not None else ''
  top += f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>\n<main>\n'
  body = '\n'.join(parts.section(name, title, *texts) for name, title, texts in sections)
  end = (
    '\n</main>\n<footer class="soft"><p>MAdds are multiply-adds of one image, both stages and the '
    'synthesis included. Top-1 is the share of images whose first answer is right. Written by '
    f'basisnet_jax {basisnet_jax.__version__}; the same numbers are in evaluation.json, '
    'report.json and the CSV files beside.</p></footer>'
  )
  return parts.document(f'{subject.name}: evaluation', top + body + end)


def _headline(subject, summary, point):
  total, special = subject.total_madds, summary['specialist']['top1']
  change = 100 * (point['top1'] - special)
  saving = 1 - point['average_madds'] / total
  tiles = [
    (f'{100 * special:.2f}%', f'top-1 of the specialist, for {_madds(total)} MAdds'),
    (
      f'{100 * point["top1"]:.2f}%',
      f'with early termination ({change:+.2f} points)',
    ),
    (f'\N{MINUS SIGN}{100 * saving:.0f}%', f'MAdds: {_madds(point["average_madds"])} on average'),
    (f'{100 * point["exit_rate"]:.0f}%', 'of the images end after the lightweight model'),
  ]
  return parts.tiles(tiles)


def _accuracy_of_one(subject, summary):
  result = summary['network']
  row = ['Network', _percent(result['top1']), _percent(result['top5']), f'{result["loss"]:.3f}']
  return [
    parts.table(
      'Accuracy and cost',
      ['', 'Top-1', 'Top-5', 'Loss', 'MAdds'],
      [[*row, _madds(subject.total_madds)]],
    )
  ]


def _accuracy(subject, summary, numbers, curve, point, results, chosen):
  total = subject.total_madds
  rows = [
    [
      f'{_STAGES[stage]} alone', _percent(summary[stage]['top1']), '', _madds(madds),
      f'{100 * (1 - madds / total):.1f}%',
    ]
    for stage, madds in (('lightweight', subject.lightweight_madds), ('specialist', total))
  ]  # fmt: skip
  points = [(f'Threshold {p["threshold"]:g}', p) for p in summary['early_exit']]
  if chosen is not None:
    name = 'Chosen: nobody exits' if point['threshold'] > 1 else f'Chosen: {point["threshold"]:.4f}'
    points.append((name, point))
  rows += [
    [
      name, _percent(p['top1']), f'{100 * p["exit_rate"]:.1f}%', _madds(p['average_madds']),
      f'{100 * (1 - p["average_madds"] / total):.1f}%',
    ]
    for name, p in points
  ]  # fmt: skip
  keep = np.unique(np.linspace(0, len(curve['top1']) - 1, _MOST_POINTS).round().astype(int))
  svg = plots.cost_accuracy_svg(
    {name: np.asarray(values)[keep] for name, values in curve.items()},
    summary['early_exit'] if chosen is None else [],
    lightweight=(subject.lightweight_madds, summary['lightweight']['top1']),
    specialist=(total, summary['specialist']['top1']),
    chosen=None if chosen is None else point,
    oracle=early_exit.oracle_curve(
      results['lightweight_top1'],
      results['specialist_top1'],
      lightweight_madds=subject.lightweight_madds,
      total_madds=total,
    ),
  )
  bounds = numbers['bounds']
  alt = (
    f'Top-1 accuracy over average MAdds: from {_percent(summary["lightweight"]["top1"])} for '
    f'{_madds(subject.lightweight_madds)} to {_percent(summary["specialist"]["top1"])} for '
    f'{_madds(total)}; the curve of all thresholds lies between exits at random and the oracle.'
  )
  caption = (
    f'At an exit rate of {100 * point["exit_rate"]:.0f}%: exits at random would give '
    f'{_percent(bounds["random"])}, this rule gives {_percent(point["top1"])}, and an oracle that '
    f'knows the answers {_percent(bounds["oracle"])}.'
  )
  header = ['', 'Top-1', 'Exit rate', 'Average MAdds', 'Saving']
  marked = [len(rows) - 1] if chosen is not None else []
  return [
    '<div class="columns">',
    parts.figure(svg, alt, caption),
    parts.table('Each stage alone, and early termination', header, rows, marked),
    '</div>',
  ]


def _threshold(summary, numbers, point, chosen):
  if chosen is None:
    return [
      '<p>No threshold was chosen. This page shows early termination at '
      f'{numbers["threshold"]:g} (<code>evaluation.threshold</code>). To have one chosen, hold out '
      'images that neither training nor this page sees: '
      "<code>--config.data.train_split='train[:95%]' --config.data.heldout_split='train[95%:]'"
      '</code>.</p>'
    ]
  heldout = chosen.heldout
  rule = {
    'max_softmax': 'the largest softmax',
    'margin': 'the largest softmax less the second',
    'entropy': 'one less the normalised entropy',
  }[chosen.rule]
  here, special = point, summary['specialist']['top1']
  rows = [
    ['Exit rate', *(f'{100 * p["exit_rate"]:.1f}%' for p in (heldout, here))],
    ['Average MAdds', *(_madds(p['average_madds']) for p in (heldout, here))],
    ['Top-1', *(_percent(p['top1']) for p in (heldout, here))],
    ['Specialist, always', _percent(heldout['specialist_top1']), _percent(special)],
    [
      'Difference, points',
      f'{100 * (heldout["top1"] - heldout["specialist_top1"]):+.2f}',
      f'{100 * (here["top1"] - special):+.2f}',
    ],
  ]
  name = 'Nobody exits' if chosen.threshold > 1 else f'Threshold {chosen.threshold:.4f}'
  return [
    f'<p><strong>{name}</strong> on {rule} of the lightweight model, at temperature '
    f'{chosen.temperatures["lightweight"]:.3f}: {parts.escape(chosen.reason)}. It was chosen on '
    f'{heldout["images"]:,} held-out images (<code>{parts.escape(heldout["split"])}</code>) that '
    'neither training nor this evaluation sees, and is kept in <code>early_exit.json</code>.</p>',
    parts.table('Expected and found', ['', 'Held-out images', 'This split'], rows),
  ]


def _groups(groups):
  rows = [
    [
      title,
      f'{group["images"]:,}',
      *(_percent(group[f'{stage}_top1']) for stage in ('lightweight', 'specialist')),
    ]
    for title, group in (('Exit early', groups['exited']), ('Go on', groups['kept']))
  ]
  return [
    '<p>What both stages would answer to the images that exit and to those that go on. Exits are '
    'well chosen where the stages differ little on the first and much on the second.</p>',
    parts.table(
      'Accuracy on exited and on kept images',
      ['', 'Images', 'Lightweight top-1', 'Specialist top-1'],
      rows,
    ),
  ]


def _calibration(numbers, calibrations, chosen):
  named = {_STAGES[stage]: pair for stage, pair in calibrations.items()}
  svg = [
    (name, plots.svg(plots_calibration.reliability({name: pair}))) for name, pair in named.items()
  ]
  rows, found = [], numbers['calibration']
  for stage, about in found.items():
    row = [_STAGES[stage], f'{100 * about["ece_before"]:.2f}%']
    if chosen is not None:
      row += [f'{100 * about["ece_after"]:.2f}%', f'{about["temperature"]:.3f}']
    rows.append(row)
  header = ['', 'ECE as trained']
  text = (
    'Answers are calibrated if, of those given with a confidence of 80%, four of five are right. '
    'The expected calibration error (ECE) is the mean distance from that, over 15 bins of equal '
    'width.'
  )
  if chosen is not None:
    header = ['', 'ECE before', 'ECE after', 'Temperature']
    text += ' Temperatures were fitted on held-out images; this is how they do on others.'
  figures = [
    parts.figure(
      picture,
      f'{name}: share of right answers by confidence in 15 bins, beside the diagonal of perfect '
      f'calibration, and the number of images in each bin.',
      name,
    )
    for name, picture in svg
  ]
  return [
    f'<p>{text}</p>',
    parts.table('Expected calibration error', header, rows),
    '<div class="columns">',
    *figures,
    '</div>',
  ]


def _classes(classes):
  key = 'exit_rate' if 'exit_rate' in classes[0] else 'network_top1'
  ranked = sorted(classes, key=lambda row: -row[key])
  text = 'Every class, ' if len(ranked) <= _MOST_CLASSES else (
    f'The {_MOST_CLASSES // 2} first and the {_MOST_CLASSES // 2} last of {len(ranked)} classes, '
  )  # fmt: skip
  if len(ranked) > _MOST_CLASSES:
    ranked = ranked[: _MOST_CLASSES // 2] + ranked[-(_MOST_CLASSES // 2) :]
  columns = {
    'exit_rate': 'Exit rate',
    'top1': 'With early termination',
    'lightweight_top1': 'Lightweight',
    'specialist_top1': 'Specialist',
    'network_top1': 'Top-1',
  }
  shown = [name for name in columns if name in classes[0]]
  rows = [
    [parts.escape(row['name']), f'{row["images"]:,}', *(parts.percent_bar(row[n]) for n in shown)]
    for row in ranked
  ]
  order = 'exit rate' if key == 'exit_rate' else 'accuracy'
  return [
    f'<p>{text}by {order}; <code>classes.csv</code> has all.</p>',
    parts.table('Classes', ['Class', 'Images', *(columns[n] for n in shown)], rows),
  ]


def _bases(bases, results):
  num_bases = len(bases[0]['mean'])
  statistics = results['coefficient_statistics'].summary()
  rows = [
    [
      f'<code>{parts.escape(row["layer"])}</code>',
      parts.stacked_bars(
        np.asarray(row['mean'])[None],
        'mean shares: ' + ', '.join(f'{100 * share:.0f}%' for share in row['mean']),
        14,
      ),
      f'{row["effective_bases"]:.2f}',
      f'{100 * row["input_dependence"]:.0f}%',
    ]
    for row in bases
  ]
  return [
    f'<p>The mean coefficients of each layer, over all images. Of {num_bases} bases a layer uses '
    f'{statistics["effective_bases"]:.2f} on average (the exponential of the entropy of its mean '
    'coefficients: 1 if one basis has taken over). The last column says how much the coefficients '
    'depend on the image: 0% if all images have the same, 100% if each has one basis and all '
    'bases are used alike.</p>',
    parts.basis_legend(num_bases),
    parts.table(
      'Use of the bases by layer',
      ['Layer', 'Mean shares', 'Bases in use', 'By image'],
      rows,
    ),
  ]


def _percent(fraction):
  return '\N{EN DASH}' if math.isnan(fraction) else f'{100 * fraction:.2f}%'


def _madds(madds):
  millions = madds / 1e6
  digits = max(0, 2 - math.floor(math.log10(millions))) if millions > 0 else 0
  return f'{millions:,.{digits}f}\N{NO-BREAK SPACE}M'
