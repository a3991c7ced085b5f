"""CIFAR-10: does synthesis pay? BasisNet against its backbone, its peers and a plain cascade.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/cifar10_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone. `static_wide`, `condconv` and
`dynamic_convolution` are that backbone, widened to what BasisNet costs with both stages. MAdds:
static 3.37M, static_wide 6.68M, basisnet_k4 6.28M, basisnet_k8 7.18M, condconv 7.65M,
dynamic_convolution 6.85M. All have the recipe configs/cifar10.py:short and its number of images;
the peers' bases start as alike, and those whose coefficients sum to one learn as fast. Early
termination comes with the rows of two stages, where a threshold was chosen on held-out images.

Hardware: 2 CPU cores; 7 to 11 minutes a run, three hours in all, estimated from timed steps.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'cifar10.py'

_STATIC = {'model.name': 'mobilenet_v3_small'}

SWEEP = Sweep(
  rows={
    'static': _STATIC,
    'basisnet_k8': {'model.num_bases': 8},
    'basisnet_k2': {'model.num_bases': 2},
    'basisnet_k4': {'model.num_bases': 4},
    'basisnet_k16': {'model.num_bases': 16},
    'static_wide': {**_STATIC, 'model.width': 0.55},
    'cascade': {'model.name': 'cascade'},
    'condconv': {
      'model.name': 'condconv_mobilenet_v3_small',
      'optimizer.scale_bases': False,  # Sigmoids: a basis gets more than a Kth.
      'model.based_layers': '',  # Its authors' choice.
      'model.coefficients.uniform_mix': 0.0,
      'model.num_bases': 8,
      'model.width': 0.4,
    },
    'dynamic_convolution': {
      'model.name': 'dynamic_convolution_mobilenet_v3_small',
      'model.based_layers': '',
      'model.num_bases': 4,
      'model.width': 0.5,
    },
  },
  seeds=(0, 1, 2),
  headline=('static', 'basisnet_k8', 'static_wide', 'condconv', 'cascade'),
  compare='static',
)


def get_config(row=None):
  """Returns the recipe of a row."""
  c = command_line.load_recipe(str(_RECIPE), 'short')
  c.name = 'cifar10_headline'
  return config.apply_variants(c, row, SWEEP.rows)
