"""Memory of a training step by batch size, against the static network's.

  python -m benchmarks.memory [--output=DIR]

This is what the compiled program asks for: state, batch, and the peak of everything in between.
Nothing is run.
"""

from collections.abc import Iterator

from benchmarks import measure, ours, table

_BATCHES = (8, 32, 128)


def cases(seconds: float) -> Iterator[table.Row]:
  """BasisNet and its peers; `seconds` is unused."""
  del seconds
  recipes = {
    'static': ours.recipe('large'),
    **ours.basisnets('BasisNet'),
    'CondConv': ours.recipe('condconv'),
  }
  for batch in _BATCHES:
    used = {name: ours.TrainStep(recipe, batch).megabytes for name, recipe in recipes.items()}
    for name, size in used.items():
      compared = {}
      if name != 'static':
        bar = 'at most 1.3' if (name, batch) == ('BasisNet', 32) else ''
        ratio = measure.spread([size / used['static']])
        compared = {'against': 'static', 'ratio': ratio, 'bar': bar}
      yield table.Row(
        f'training step, batch {batch}, 224 pixels', name, measure.spread([size]), 'MB', **compared
      )


if __name__ == '__main__':
  table.main('memory', 'Memory of a training step, over the static network', cases)
