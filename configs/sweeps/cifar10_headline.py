"""CIFAR-10: does synthesis pay? BasisNet against its backbone, its peers and a plain cascade.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/cifar10_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone. `condconv` and `dynamic_convolution` are the same
backbone, with enough bases in the same layers to cost as much as both stages of BasisNet;
`static_larger` spends that cost on larger images. MAdds: static 1.35M, static_larger 2.11M,
basisnet_k2 1.86M, basisnet_k4 1.90M, basisnet_k8 1.97M, basisnet_k16 2.13M, condconv and
dynamic_convolution 1.96M, cascade 1.82M. All use the recipe configs/cifar10.py:narrow and its
number of images; the peers' bases start equally correlated. `static_slow` shows whether the
recipe's learning rate is fair to the backbone.

Hardware: 2 CPU cores; 9 to 17 minutes per run on one, two hours in all with a sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'cifar10.py'

_STATIC = {'model.name': 'resnet_10'}

SWEEP = Sweep(
  rows={
    'static': _STATIC,
    'basisnet_k8': {'model.num_bases': 8},
    'condconv': {
      'model.name': 'condconv_resnet_10',
      'model.num_bases': 32,
      'model.coefficients.uniform_mix': 0.0,
    },
    'cascade': {'model.name': 'cascade'},
    'basisnet_k2': {'model.num_bases': 2},
    'basisnet_k4': {'model.num_bases': 4},
    'basisnet_k16': {'model.num_bases': 16},
    'dynamic_convolution': {
      'model.name': 'dynamic_convolution_resnet_10',
      'model.num_bases': 32,
      'model.coefficients.uniform_mix': 0.0,
      'model.coefficients.temperature_epochs': 2.0,  # From 30, as its authors do.
    },
    'static_larger': {**_STATIC, 'model.resolution': 20},
    'static_slow': {**_STATIC, 'optimizer.learning_rate': 0.15},
  },
  seeds=(0, 1, 2),
  headline=('static', 'basisnet_k8', 'condconv', 'cascade'),
  compare='static',
)


def get_config(row=None):
  """Returns a row's recipe."""
  c = command_line.load_recipe(str(_RECIPE), 'narrow')
  c.name = 'cifar10_headline'
  return config.apply_variants(c, row, SWEEP.rows)
