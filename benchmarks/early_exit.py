"""Early termination: images/s at several exit rates, against the ideal.

  python -m benchmarks.early_exit [--seconds=10] [--output=DIR]

The ideal is the first stage for all images, and the second for those that are kept, at its speed
for a whole batch. Masking runs both stages for all images, as evaluation does.
"""

from collections.abc import Iterator

import jax
import numpy as np

from basisnet_jax.inference import early_exit, fixed
from benchmarks import measure, ours, table

_RATES = {0.0: 'at least 0.9', 0.4: 'at least 0.95', 0.6: 'at least 0.95', 0.9: 'at least 0.9'}
_CASES = {1: {0.0: '', 1.0: ''}, 32: _RATES, 128: _RATES}  # {batch: {exit rate: bar}}.


def cases(seconds: float) -> Iterator[table.Row]:
  """The main recipe, by batch and exit rate."""
  model, held = ours.basisnet(ours.recipe())
  stages, predict = ours.Stages(model, held), fixed.fix(early_exit.make_predict(model), held)
  for batch, asked_at in _CASES.items():
    x = ours.images(batch)
    _, coefficients = jax.block_until_ready(stages.preview(x))
    confidence = np.sort(predict(x, 0.0).confidence)[::-1]
    # The threshold that this share of images reaches, halfway between two confidences.
    thresholds = {}
    for rate in asked_at:
      exits = round(rate * batch)
      above = confidence[exits - 1] if exits else 2.0
      below = confidence[exits] if exits < batch else 0.0
      thresholds[rate] = float((above + below) / 2)
    calls = {
      'preview': lambda x=x: jax.block_until_ready(stages.preview(x)),
      'specialist': lambda x=x, c=coefficients: jax.block_until_ready(stages.specialize(x, c)),
      'both': lambda x=x: jax.block_until_ready(stages.both(x)),
    }
    for rate, threshold in thresholds.items():
      calls[str(rate)] = lambda x=x, t=threshold: jax.block_until_ready(predict(x, t))
    samples = measure.interleaved(calls, seconds=seconds * len(calls))
    for rate, bar in asked_at.items():
      kept = batch - round(rate * batch)
      ideal = samples['preview'] + kept / batch * samples['specialist']
      own = samples[str(rate)]
      case = f'batch {batch}, {batch - kept} exit'
      yield table.Row(case, 'ideal', measure.spread(batch / ideal), 'images/s')
      rates = {'early termination': (own, bar), 'masking': (samples['both'], '')}
      for name, (times, asked) in rates.items():
        ratio = measure.spread(ideal / times)
        yield table.Row(
          case, name, measure.spread(batch / times), 'images/s', 'ideal', ratio, asked
        )


if __name__ == '__main__':
  table.main('early_exit', 'Early termination: images/s, over the ideal', cases)
