"""CIFAR-10: what early termination saves, with a threshold chosen on held-out images.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/cifar10_early_exit.py \
      --config.data.data_dir=DATA_DIR

The recipe is configs/cifar10.py:short, whose first prediction is four points behind its specialist
for a third of the cost. The threshold may lose 0.05 points on the 5,000 held-out images, because
what was chosen on some images is a little worse on others. `cascade` has the same stages without
synthesis, `static` the second of them alone. MAdds: static 3.37M, cascade 5.39M, basisnet_k8 7.18M,
of which the first stage takes 2.04M.

Seen (docs/results.md), three seeds: 42% less for -0.2 points, before bases decayed as kernels do;
BasisNet had 71.9%. The backbone alone had 72.7% (two seeds), so this recipe has no lead over it.

Hardware: 2 CPU cores; 7 to 19 minutes a run on one of them, an hour in all with a sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'cifar10.py'

SWEEP = Sweep(
  rows={
    'basisnet_k8': {},
    'static': {'model.name': 'mobilenet_v3_small'},
    'cascade': {'model.name': 'cascade'},
  },
  seeds=(0, 1, 2),
  compare='static',
)


def get_config(row=None):
  """Returns the recipe of a row."""
  c = command_line.load_recipe(str(_RECIPE), 'short')
  c.name = 'cifar10_early_exit'
  c.early_exit.choose.accuracy_loss = 0.05
  return config.apply_variants(c, row, SWEEP.rows)
