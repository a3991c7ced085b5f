"""200 classes: does synthesis pay? BasisNet against its backbone, its peers and a plain cascade.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/tiny_imagenet_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone. `static_wide`, `condconv` and
`dynamic_convolution` are that backbone, widened to at least what BasisNet costs with both stages.
MAdds: static 2.58M, static_wide 8.58M, basisnet_k2 5.63M, basisnet_k4 6.47M, basisnet_k8 8.14M,
basisnet_k16 11.50M, condconv 8.61M, dynamic_convolution 8.23M, cascade 4.79M. All have the recipe
configs/tiny_imagenet.py and its number of images; the peers' bases start as alike, and those whose
coefficients sum to one learn as fast. Early termination comes with the rows of two stages, where a
threshold was chosen on held-out images.

Hardware: 2 CPU cores; 12 to 20 minutes a run on one of them, two hours and a half in all with a
sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'tiny_imagenet.py'

_STATIC = {'model.name': 'mobilenet_v3_small', 'optimizer.learning_rate_factors': ()}

SWEEP = Sweep(
  rows={
    'static': _STATIC,
    'basisnet_k8': {'model.num_bases': 8},
    'condconv': {
      'model.name': 'condconv_mobilenet_v3_small',
      'optimizer.learning_rate_factors': (),
      'optimizer.scale_bases': False,  # Sigmoids: a basis gets more than a Kth.
      'model.based_layers': '',  # Its authors' choice.
      'model.coefficients.uniform_mix': 0.0,
      'model.num_bases': 8,
      'model.width': 0.45,
    },
    'static_wide': {**_STATIC, 'model.width': 0.75},
    'cascade': {'model.name': 'cascade', 'optimizer.learning_rate_factors': ()},
    'basisnet_k2': {'model.num_bases': 2},
    'basisnet_k4': {'model.num_bases': 4},
    'basisnet_k16': {'model.num_bases': 16},
    'dynamic_convolution': {
      'model.name': 'dynamic_convolution_mobilenet_v3_small',
      'optimizer.learning_rate_factors': (),
      'model.based_layers': '',
      'model.num_bases': 4,
      'model.width': 0.7,
      'model.coefficients.uniform_mix': 0.0,
      'model.coefficients.temperature_epochs': 0.6,  # From 30, as its authors do.
    },
  },
  seeds=(0, 1, 2),
  headline=('static', 'basisnet_k8', 'condconv', 'static_wide', 'cascade'),
  compare='static',
)


def get_config(row=None):
  """Returns the recipe of a row."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'tiny_imagenet_headline'
  return config.apply_variants(c, row, SWEEP.rows)
