"""Images on the page, with what each stage says of them."""

from collections.abc import Mapping, Sequence

import numpy as np

from basisnet_jax.evaluation import html_parts as parts
from basisnet_jax.evaluation.examples import Example

_TITLES = {
  'early': ('Exit early', 'The surest first answers.'),
  'late': ('Go on to the specialist', 'The least sure first answers.'),
  'rescued': ('Rescued', 'They go on, and only the specialist is right.'),
  'lost': ('Lost', 'They exit with a wrong answer, where the specialist would be right.'),
  'surest': ('Surest answers', 'Those with the highest confidence.'),
  'unsure': ('Least sure answers', 'Those with the lowest confidence.'),
  'mistakes': ('Surest mistakes', 'Wrong, with the highest confidence.'),
}


def cards(examples: Mapping[str, Sequence[Example]], subject) -> list[str]:
  """A heading and cards for each group of examples, at most one image of a class in each."""
  layers, num_bases = len(subject.layers), 0
  texts = []
  for name, group in examples.items():
    title, about = _TITLES[name]
    texts.append(f'<h3>{title}</h3>\n<p class="note">{about}</p>')
    if not group:
      texts.append('<p>There are none.</p>')
      continue
    if layers:
      num_bases = group[0].coefficients.shape[-1]
    items = ''.join(_card(example, subject.label_names) for example in group)
    texts.append(f'<ul class="cards">{items}</ul>')
  if num_bases:
    about = (
      'First is the answer of the lightweight model, final that of the specialist, each with its '
      f'confidence. Bars: the coefficients of the {layers} layers with bases, first layer on top, '
      f'each cut into the shares of its {num_bases} bases.'
    )
    texts = [f'<p>{about}</p>', parts.basis_legend(num_bases), *texts]
  return texts


def _card(example, names):
  values = example.values
  truth = names[values['label']]
  text = parts.thumbnail(example.image, f'An image of class {truth}')
  text += f'<span class="true">{parts.escape(truth)}</span>'
  entries = []
  for stage, title in (('lightweight', 'first'), ('specialist', 'final'), ('network', 'answer')):
    if f'{stage}_prediction' in values:
      right = values[f'{stage}_top1']
      mark = '\N{CHECK MARK}' if right else '\N{BALLOT X}'
      entries.append((
        title,
        f'<span role="img" aria-label="{"right" if right else "wrong"}">{mark}</span> '
        f'{parts.escape(names[values[f"{stage}_prediction"]])} '
        f'{100 * values[f"{stage}_calibrated"]:.0f}%',
      ))  # fmt: skip
  by_another_rule = (
    abs(values.get('confidence', 0) - values.get('lightweight_calibrated', 0)) > 1e-5
  )
  if by_another_rule:
    entries.append(('confidence', f'{values["confidence"]:.3f}'))
  text += f'<dl>{"".join(f"<dt>{term}</dt><dd>{what}</dd>" for term, what in entries)}</dl>'
  if example.coefficients is not None and example.coefficients.shape[0]:
    shares = example.coefficients
    height = float(np.clip(4 * len(shares), 16, 140))
    top = np.bincount(shares.argmax(1), minlength=shares.shape[1])
    label = f'coefficients: basis {top.argmax() + 1} is the largest in {top.max()} of {len(shares)}'
    text += parts.stacked_bars(shares, f'{label} layers', height)
  return f'<li>{text}</li>'
