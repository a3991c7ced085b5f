"""200 classes: does synthesis pay? BasisNet against its backbone, its peers and a plain cascade.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/tiny_imagenet_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone. `condconv` and `dynamic_convolution` are the same
backbone, with enough bases in the same layers to cost as much as both stages of BasisNet.
`static_larger` spends that cost on larger images, `static_wide` on the next possible width of these
networks. MAdds: static 3.16M, static_larger 4.07M, static_wide 4.27M, basisnet_k2 3.99M,
basisnet_k4 4.03M, basisnet_k8 4.11M, basisnet_k16 4.27M, condconv and dynamic_convolution 4.08M,
condconv_k8 3.31M, cascade 3.96M. All use the recipe configs/tiny_imagenet.py and its number of
images; the peers' bases start equally correlated and learn equally fast. `static_slow` and
`static_fast` show whether the learning rate is fair to the backbone. Rows with two stages include
early termination, with a threshold chosen on held-out images.

Hardware: 2 CPU cores; 8 to 16 minutes per run on one, two hours in all with a sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'tiny_imagenet.py'

_STATIC = {'model.name': 'resnet_10'}
_CONDCONV = {'model.name': 'condconv_resnet_10', 'model.coefficients.uniform_mix': 0.0}

SWEEP = Sweep(
  rows={
    'static': _STATIC,
    'basisnet_k8': {'model.num_bases': 8},
    'condconv': {**_CONDCONV, 'model.num_bases': 48},
    'cascade': {'model.name': 'cascade'},
    'static_wide': {**_STATIC, 'model.width': 0.07},
    'basisnet_k2': {'model.num_bases': 2},
    'basisnet_k4': {'model.num_bases': 4},
    'basisnet_k16': {'model.num_bases': 16},
    'condconv_k8': _CONDCONV,
    'dynamic_convolution': {
      'model.name': 'dynamic_convolution_resnet_10',
      'model.num_bases': 48,
      'model.coefficients.uniform_mix': 0.0,
      'model.coefficients.temperature_epochs': 1.0,  # From 30, as its authors do.
    },
    'static_larger': {**_STATIC, 'model.resolution': 36},
    'static_slow': {**_STATIC, 'optimizer.learning_rate': 0.15},
    'static_fast': {**_STATIC, 'optimizer.learning_rate': 0.6},
  },
  seeds=(0, 1, 2),
  headline=('static', 'static_slow', 'basisnet_k8', 'condconv', 'cascade', 'static_wide'),
  compare='static',
)


def get_config(row=None):
  """Returns a row's recipe."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'tiny_imagenet_headline'
  return config.apply_variants(c, row, SWEEP.rows)
