"""Imagenette: what early termination saves, and does synthesis pay where it does?

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/imagenette_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone, `cascade` has both stages without synthesis.
`condconv` is the backbone with so many bases in the same layers that it costs what BasisNet costs
with both stages, and `static_larger` sees larger images for it. `late_uniform_mix` keeps the
coefficients alike for longer, `from_specialist` teaches the preview by the specialist, too, and
`static_slow` shows whether the learning rate is fair to the backbone. MAdds: static 4.92M,
basisnet_k8 7.72M, basisnet_k16 8.32M, cascade 7.11M, condconv 7.63M, static_larger 7.91M. All have
the recipe configs/imagenette.py. Early termination comes with the rows of two stages: its threshold
may lose 0.3 points on the images held out, the paper's loss.

Hardware: 2 CPU cores; 4 to 9 minutes a run on one of them, an hour in all with a sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'imagenette.py'

_STATIC = {'model.name': 'resnet_10'}

SWEEP = Sweep(
  rows={
    'static': _STATIC,
    'basisnet_k8': {'model.num_bases': 8},
    'cascade': {'model.name': 'cascade'},
    'condconv': {
      'model.name': 'condconv_resnet_10',
      'model.coefficients.uniform_mix': 0.0,
      'model.num_bases': 36,
    },
    'static_larger': {**_STATIC, 'model.resolution': 120},
    'basisnet_k16': {'model.num_bases': 16},
    'late_uniform_mix': {
      'model.coefficients.uniform_mix_hold_epochs': 12.0,
      'model.coefficients.uniform_mix_epochs': 5.0,
    },
    'from_specialist': {'distillation.from_specialist': 0.5},
    'static_slow': {**_STATIC, 'optimizer.learning_rate': 0.1},
  },
  seeds=(0, 1, 2),
  headline=('static', 'basisnet_k8', 'cascade', 'condconv'),
  compare='static',
)


def get_config(row=None):
  """Returns the recipe of a row."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'imagenette_headline'
  return config.apply_variants(c, row, SWEEP.rows)
