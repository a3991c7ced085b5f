"""Pieces of a page: tables, pictures, bars. Texts are escaped here."""

import base64
from collections.abc import Iterable, Sequence
import html
import io

import numpy as np
from PIL import Image

escape = html.escape
_COLOURS = (
  '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#f0e442', '#8a8a8a',
)  # fmt: skip

STYLE = """
:root { --ink: #1c1c1c; --soft: #555; --line: #dcdcdc; --ground: #fff; --blue: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--ground); font: 16px/1.5 system-ui, -apple-system, 'Segoe UI', Roboto,
  'Helvetica Neue', Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.soft, caption, figcaption, .note { color: var(--soft); font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; }
a { color: #005a8d; }
code { font-size: .88em; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem;
  margin: 1.2rem 0; padding: 0; list-style: none; }
.tiles li { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.tiles strong { display: block; font-size: 1.55rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .9rem; display: block; line-height: 1.35; }
.columns { display: grid; gap: 1rem 2rem; grid-template-columns: 1fr; align-items: start; }
@media (min-width: 60rem) { .columns { grid-template-columns: 1fr 1fr; } }
figure { margin: .6rem 0; min-width: 0; }
figure img { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .28rem .5rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: middle; }
th { font-weight: 600; line-height: 1.25; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:last-child, th:last-child { padding-right: 0; }
.narrow { max-width: 46rem; }
tbody th { font-weight: 400; }
tr.marked > * { background: #e3f4ee; font-weight: 600; }
.bar { display: block; height: .35rem; background: #e9e9e9; border-radius: .2rem;
  min-width: 2.6rem; }
.bar i { display: block; height: 100%; background: var(--blue); border-radius: .2rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.2rem, 1fr)); gap: .8rem;
  padding: 0; margin: .5rem 0; list-style: none; }
.cards li { border: 1px solid var(--line); border-radius: .5rem; padding: .6rem; font-size: .88rem;
  line-height: 1.35; min-width: 0; overflow-wrap: anywhere; }
.cards img { width: 100%; aspect-ratio: 1; object-fit: contain; display: block; background: #f3f3f3;
  border-radius: .25rem; margin-bottom: .4rem; }
.cards img.small { image-rendering: pixelated; }
.cards .true { font-weight: 600; }
.cards dl { display: grid; grid-template-columns: auto 1fr; gap: 0 .4rem; margin: .1rem 0 .4rem; }
.cards dt { color: var(--soft); }
.cards dd { margin: 0; }
.stack { display: block; width: 100%; min-width: 5rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem .8rem; list-style: none; padding: 0;
  font-size: .85rem; color: var(--soft); }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: .15em;
  margin-right: .35em; }
@media (min-width: 45rem) { tbody th code { white-space: nowrap; } }
footer { margin-top: 3rem; }
@media (max-width: 30rem) { th, td { padding: .28rem .22rem; } table { font-size: .8rem; }
  .cards { grid-template-columns: 1fr 1fr; gap: .5rem; } }
@media print { body { max-width: none; } nav { display: none; }
  section, .cards li, figure { break-inside: avoid; } }
"""


def document(title: str, body: str) -> str:
  """A whole, self-contained page."""
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<link rel="icon" href="data:,">\n'
    f'<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n'
    '</html>\n'
  )


def section(name: str, title: str, *parts: str) -> str:
  """A section with a heading; links refer to it by `name`."""
  return (
    f'<section id="{name}" aria-labelledby="{name}-title">\n'
    f'<h2 id="{name}-title">{escape(title)}</h2>\n' + '\n'.join(parts) + '\n</section>'
  )


def table(
  caption: str,
  header: Sequence[str],
  rows: Iterable[Sequence[str]],
  marked: Iterable[int] = (),
  *,
  narrow: bool = False,
) -> str:
  """A table: cells are HTML, a row's first cell is its heading, and `marked` rows stand out."""
  marked = set(marked)
  head = ''.join(f'<th scope="col">{escape(text)}</th>' for text in header)
  lines = []
  for i, (first, *others) in enumerate(rows):
    cells = f'<th scope="row">{first}</th>' + ''.join(f'<td>{cell}</td>' for cell in others)
    lines.append(f'<tr{" class=marked" if i in marked else ""}>{cells}</tr>')
  return (
    f'<div class="scroll{" narrow" if narrow else ""}" tabindex="0" role="region" '
    f'aria-label="{escape(caption)}"><table>\n'
    f'<caption>{escape(caption)}</caption>\n'
    f'<thead><tr>{head}</tr></thead>\n<tbody>\n' + '\n'.join(lines) + '\n</tbody>\n</table></div>'
  )


def tiles(entries: Iterable[tuple[str, str]]) -> str:
  """Large numbers with their explanations."""
  items = (f'<li><strong>{escape(n)}</strong><span>{escape(t)}</span></li>' for n, t in entries)
  return f'<ul class="tiles">{"".join(items)}</ul>'


def figure(svg: bytes, alt: str, caption: str) -> str:
  """A picture embedded in the page."""
  data = base64.b64encode(svg).decode()
  return (
    f'<figure><img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'
    f'<figcaption>{escape(caption)}</figcaption></figure>'
  )


def percent_bar(fraction: float) -> str:
  """A percentage with a bar below it."""
  return (
    f'{100 * fraction:.1f}%<span class="bar" aria-hidden="true">'
    f'<i style="width:{100 * fraction:.1f}%"></i></span>'
  )


def thumbnail(image: np.ndarray, alt: str) -> str:
  """A uint8 image `[h, w, 3]`; small images keep their pixels."""
  picture, small = Image.fromarray(image), max(image.shape[:2]) <= 64
  picture.thumbnail((160, 160))
  file = io.BytesIO()
  kind = 'png' if small else 'jpeg'
  picture.save(file, kind, **({'optimize': True} if small else {'quality': 82}))
  data = base64.b64encode(file.getvalue()).decode()
  size = ' class="small"' if small else ''
  return f'<img{size} alt="{escape(alt)}" src="data:image/{kind};base64,{data}">'


def basis_colour(basis: int, num_bases: int) -> str:
  """Okabe and Ito's colours for up to eight bases; for more, the hue circle, alternately darker."""
  if num_bases <= len(_COLOURS):
    return _COLOURS[basis]
  return f'hsl({360 * basis / num_bases:.0f} 62% {44 if basis % 2 else 62}%)'


def stacked_bars(shares: np.ndarray, label: str, height: float) -> str:
  """A bar for each layer, one below the other, divided into its bases' shares.

  Args:
    shares: `[layers, K]`, at least 0; each layer is divided by its sum.
    label: description for those who cannot see the bars.
    height: total height in pixels.
  """
  shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-30)
  layers, num_bases = shares.shape
  starts = np.cumsum(shares, 1) - shares
  gap = 0.15 if layers > 1 else 0
  rects = ''.join(
    f'<rect x="{100 * starts[i, k]:.2f}" y="{i}" width="{100 * shares[i, k]:.2f}" '
    f'height="{1 - gap}" fill="{basis_colour(k, num_bases)}"/>'
    for i in range(layers)
    for k in range(num_bases)
    if shares[i, k] >= 5e-4
  )
  return (
    f'<svg class="stack" role="img" aria-label="{escape(label)}" viewBox="0 0 100 {layers}" '
    f'preserveAspectRatio="none" height="{height:.0f}">{rects}</svg>'
  )


def basis_legend(num_bases: int) -> str:
  """The colour of each basis."""
  items = (
    f'<li><i style="background:{basis_colour(k, num_bases)}"></i>basis {k + 1}</li>'
    for k in range(num_bases)
  )
  return f'<ul class="legend">{"".join(items)}</ul>'
