"""The page to show a colleague: an evaluation's findings, in sections."""

import numpy as np

import basisnet_jax
from basisnet_jax.evaluation import html_early_exit, html_examples, plots, plots_calibration
from basisnet_jax.evaluation import html_parts as parts
from basisnet_jax.evaluation.analysis import Findings

_STAGES = {
  'lightweight': 'Lightweight model',
  'specialist': 'Specialist',
  'network': 'Network',
}
_MOST_CLASSES = 40  # On the page; all are in the file.


def render(found: Findings) -> str:
  """Renders the page as HTML that needs no other file."""
  if found.two_stages:
    sections = [
      ('accuracy', 'Accuracy and cost', html_early_exit.accuracy(found)),
      ('threshold', 'The threshold', html_early_exit.threshold(found)),
      ('groups', 'Who exits', html_early_exit.groups(found)),
    ]
  else:
    sections = [('accuracy', 'Accuracy and cost', _accuracy(found))]
  sections += [
    ('calibration', 'Calibration', _calibration(found)),
    ('classes', 'Classes', _classes(found.classes)),
    ('examples', 'Examples', html_examples.cards(found.examples, found.subject)),
  ]
  if found.bases:
    sections.append(('bases', 'Use of the bases', _bases(found)))
  body = '\n'.join(parts.section(name, title, *texts) for name, title, texts in sections)
  text = f'{_header(found, sections)}\n<main>\n{body}\n</main>\n{_FOOTER}'
  return parts.document(f'{found.subject.name}: evaluation', text)


def _header(found, sections):
  name, data, split = map(
    parts.escape, (found.subject.name, found.subject.data, found.subject.split)
  )
  links = ''.join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in sections)
  return (
    f'<header>\n<h1>{name}</h1>\n<p class="soft">{found.summary["images"]:,} images of {data}, '
    f'split <code>{split}</code>, at step {found.summary["step"]:,} of training</p>\n'
    f'{html_early_exit.headline(found) if found.two_stages else ""}'
    f'<nav aria-label="Sections"><ul>{links}</ul></nav>\n</header>'
  )


_FOOTER = (
  '<footer class="soft"><p>MAdds are multiply-adds of one image; all that runs is counted, the '
  'synthesis of kernels too. Top-1 is the share of images whose first answer is right. Written by '
  f'basisnet_jax {basisnet_jax.__version__}; the same numbers are in evaluation.json, report.json '
  'and the CSV files beside.</p></footer>'
)


def _accuracy(found):
  result = found.summary['network']
  row = [
    'Network',
    html_early_exit.percent(result['top1']),
    html_early_exit.percent(result['top5']),
    f'{result["loss"]:.3f}',
    html_early_exit.madds(found.subject.total_madds),
  ]
  return [parts.table('Accuracy and cost', ['', 'Top-1', 'Top-5', 'Loss', 'MAdds'], [row])]


def _calibration(found):
  text = (
    'Answers are calibrated if, of those given with a confidence of 80%, four of five are right. '
    'The expected calibration error (ECE) is the mean distance from that, over 15 bins of equal '
    'width.'
  )
  header = ['', 'ECE as trained']
  if found.chosen is not None:
    header = ['', 'ECE before', 'ECE after', 'Temperature']
    text += ' Temperatures were fitted on held-out images; this is how they do on others.'
  rows, figures = [], []
  for stage, (before, after) in found.calibration.items():
    name, row = _STAGES[stage], [f'{100 * before.ece:.2f}%']
    if after is not None:
      row += [f'{100 * after.ece:.2f}%', f'{found.chosen.temperatures[stage]:.3f}']
    rows.append([name, *row])
    figures.append(
      parts.figure(
        plots.svg(plots_calibration.reliability({name: (before, after)})),
        f'{name}: share of right answers by confidence in 15 bins, beside the diagonal of perfect '
        'calibration, and the number of images in each bin.',
        f'{name}: bars below the dashed line are answers that are too sure of themselves.',
      )
    )
  return [
    f'<p>{text}</p>',
    parts.table('Expected calibration error', header, rows, narrow=True),
    '<div class="columns">',
    *figures,
    '</div>',
  ]


def _classes(classes):
  key = 'exit_rate' if 'exit_rate' in classes[0] else 'network_top1'
  ranked = sorted(classes, key=lambda row: -row[key])
  text = 'Every class, '
  if len(ranked) > _MOST_CLASSES:
    half = _MOST_CLASSES // 2
    text = f'The {half} first and the {half} last of {len(ranked)} classes, '
    ranked = ranked[:half] + ranked[-half:]
  columns = {
    'exit_rate': 'Exit rate',
    'top1': 'Top-1',
    'lightweight_top1': 'Lightweight',
    'specialist_top1': 'Specialist',
    'network_top1': 'Top-1',
  }
  shown = [name for name in columns if name in classes[0]]

  def cell(row, name):
    return parts.percent_bar(row[name]) if name == key else f'{100 * row[name]:.1f}%'

  rows = [
    [parts.escape(row['name']), f'{row["images"]:,}', *(cell(row, n) for n in shown)]
    for row in ranked
  ]
  order = 'exit rate' if key == 'exit_rate' else 'accuracy'
  return [
    f'<p>{text}by {order}; <code>classes.csv</code> has all.</p>',
    parts.table('Accuracy by class', ['Class', 'Images', *(columns[n] for n in shown)], rows),
  ]


def _bases(found):
  num_bases = len(found.bases[0]['mean'])
  in_use = np.mean([row['effective_bases'] for row in found.bases])
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
    for row in found.bases
  ]
  texts = []
  if found.exchanged_top1 is not None:
    own, exchanged = map(
      html_early_exit.percent, (found.summary['specialist']['top1'], found.exchanged_top1)
    )
    texts.append(
      f'<p>With its own coefficients the specialist has {own} of the images right, with those of '
      f'another image, drawn at random, {exchanged}. Coefficients that said nothing of the image '
      'would lose nothing.</p>'
    )
  return [
    *texts,
    f'<p>The mean coefficients of each layer, over all images. Of {num_bases} bases a layer uses '
    f'{in_use:.2f} on average (the exponential of the entropy of its mean '
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
