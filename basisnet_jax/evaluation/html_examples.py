"""Images on the page, with each stage's answers."""

from collections.abc import Mapping, Sequence
import itertools

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
  """A heading and cards for each group of examples."""
  texts = []
  for name, group in examples.items():
    title, about = _TITLES[name]
    items = ''.join(_card(example, subject.label_names) for example in group)
    texts += [
      f'<h3>{title}</h3>\n<p class="note">{about}</p>',
      f'<ul class="cards">{items}</ul>' if items else '<p>There are none.</p>',
    ]
  return [*_explanation(list(itertools.chain(*examples.values())), len(subject.layers)), *texts]


def _explanation(examples, layers):
  """How to read the cards of two stages."""
  if not any('confidence' in example.values for example in examples):
    return []
  about = (
    'First is the answer of the lightweight model, final that of the specialist, each with its '
    'confidence.'
  )
  if any(map(_by_another_rule, examples)):
    about += ' Sure is what early termination goes by.'
  if not layers:
    return [f'<p>{about}</p>']
  num_bases = examples[0].coefficients.shape[-1]
  about += (
    f' Bars: the coefficients of the {layers} layers with bases, first layer on top, each cut into '
    f'the shares of its {num_bases} bases.'
  )
  return [f'<p>{about}</p>', parts.basis_legend(num_bases)]


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
  if _by_another_rule(example):
    entries.append(('sure', f'{values["confidence"]:.3f}'))
  text += f'<dl>{"".join(f"<dt>{term}</dt><dd>{what}</dd>" for term, what in entries)}</dl>'
  if example.coefficients is not None and example.coefficients.shape[0]:
    shares = example.coefficients
    height = float(np.clip(4 * len(shares), 16, 140))
    top = np.bincount(shares.argmax(1), minlength=shares.shape[1])
    label = f'coefficients: basis {top.argmax() + 1} is the largest in {top.max()} of {len(shares)}'
    text += parts.stacked_bars(shares, f'{label} layers', height)
  return f'<li>{text}</li>'


def _by_another_rule(example):
  """Whether the confidence of early termination differs from the softmax shown beside it."""
  values = example.values
  return abs(values.get('confidence', 0) - values.get('lightweight_calibrated', 0)) > 1e-5
