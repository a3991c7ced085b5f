"""200 classes: does synthesis pay? BasisNet against its backbone, its peers and a plain cascade.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/tiny_imagenet_headline.py \
      --config.data.data_dir=DATA_DIR

Rows: `static` is the specialist's backbone alone. `static_wide`, `condconv` and
`dynamic_convolution` are that backbone, widened to what BasisNet costs with both stages. MAdds:
static 2.58M, static_wide 6.45M, basisnet_k4 5.98M, basisnet_k8 7.17M, basisnet_k16 9.54M,
condconv 7.79M, dynamic_convolution 7.50M. All have the recipe configs/tiny_imagenet.py and its
number of images. Early termination comes with the rows of two stages, where a threshold was chosen
on held-out images.

Hardware: 2 CPU cores; 5 to 9 minutes a run, three hours in all, estimated from timed steps.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'tiny_imagenet.py'

SWEEP = Sweep(
  rows={
    'static': {'model.name': 'mobilenet_v3_small'},
    'static_wide': {'model.name': 'mobilenet_v3_small', 'model.width': 0.65},
    'basisnet_k2': {'model.num_bases': 2},
    'basisnet_k4': {'model.num_bases': 4},
    'basisnet_k8': {'model.num_bases': 8},
    'basisnet_k16': {'model.num_bases': 16},
    'condconv': {
      'model.name': 'condconv_mobilenet_v3_small',
      'model.based_layers': '',  # Its authors' choice.
      'model.coefficients.uniform_mix': 0.0,
      'model.num_bases': 8,
      'model.width': 0.4,
    },
    'dynamic_convolution': {
      'model.name': 'dynamic_convolution_mobilenet_v3_small',
      'model.based_layers': '',
      'model.num_bases': 4,
      'model.width': 0.65,
    },
    'cascade': {'model.name': 'cascade'},
  },
  seeds=(0, 1, 2),
  compare='static',
)


def get_config(row=None):
  """Returns the recipe of a row."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'tiny_imagenet_headline'
  return config.apply_variants(c, row, SWEEP.rows)
