"""Imagenette: what does early termination save, and does synthesis pay where it does?

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/imagenette_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone, `cascade` has both stages without synthesis.
`condconv` is the backbone, with enough bases in the same layers to cost as much as both stages of
BasisNet, and `static_larger` spends that cost on larger images. `late_uniform_mix` keeps the
coefficients uniform for longer, in `from_specialist` the specialist also teaches the preview, and
`static_slow` shows whether the learning rate is fair to the backbone. MAdds: static 4.92M,
basisnet_k8 7.72M, basisnet_k16 8.32M, cascade 7.11M, condconv 7.63M, static_larger 7.91M. All use
the recipe configs/imagenette.py. Rows with two stages include early termination: its threshold may
lose 0.3 points on the held-out images, the paper's loss.

Hardware: 2 CPU cores; 4 to 9 minutes per run on one, an hour in all with a sweep on each.
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
  """Returns a row's recipe."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'imagenette_headline'
  return config.apply_variants(c, row, SWEEP.rows)
