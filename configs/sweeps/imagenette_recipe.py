"""Imagenette: what each part of the recipe is worth, changed one at a time.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/imagenette_recipe.py \
      --config.data.data_dir=DATA_DIR

`recipe` is configs/imagenette.py, with three seeds; every other row, with one, changes what its
name says. On this dataset early termination pays, and seeds of one row differ least: by about a
point, so differences of that size may be chance.

Hardware: 2 CPU cores; 5 to 9 minutes per run on one, two hours in all with a sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'imagenette.py'

_ROWS = {
  'recipe': {},
  # The coefficients.
  'end_to_end': {'model.coefficients.feature_gradient': 1.0},
  'no_uniform_mix': {'model.coefficients.uniform_mix': 0.0},
  'late_uniform_mix': {
    'model.coefficients.uniform_mix_hold_epochs': 12.0,
    'model.coefficients.uniform_mix_epochs': 5.0,
  },
  'temperature': {
    'model.coefficients.uniform_mix': 0.0,
    'model.coefficients.temperature_epochs': 6.0,
  },
  'sigmoid': {'model.coefficients.activation': 'sigmoid'},
  'shared_coefficients': {'model.coefficients.shared': True},
  'basis_dropout': {'model.coefficients.basis_dropout': 0.1},
  'load_balance': {'loss.load_balance': 0.01},
  # The bases.
  'independent_bases': {'init.bases_correlation': 0.0},
  'unscaled_bases': {'optimizer.scale_bases': False},
  'bases_everywhere': {'model.based_layers': 'stem|stage|classifier'},
  'bases_in_the_last_stage': {'model.based_layers': 'stage_4'},
  # What the stages learn from each other, and when.
  'refining': {'model.refine': 1.0},
  'exit_aware': {'loss.exit_aware': 0.5},
  'from_specialist': {'distillation.from_specialist': 0.5},
  'turns': {'training.alternate_steps': 50},
  # Images.
  'autoaugment': {'data.augment': 'autoaugment_imagenet'},
  'randaugment': {'data.augment': 'randaugment'},
  'random_erasing': {'data.random_erasing': 0.25},
  'mixup': {'training.mixup': 0.2},
  'cutmix': {'training.cutmix': 1.0},
  'small_first': {'training.resolutions': ((0.0, 64), (0.5, 96))},
  # Regularisation.
  'stochastic_depth': {'model.stochastic_depth': 0.1},
  'label_smoothing': {'loss.label_smoothing': 0.1},
  'clip_norm': {'optimizer.clip_norm': 1.0},
  'no_average': {'ema_decay': 0.0},
}

SWEEP = Sweep(rows=_ROWS, seeds=(0, 1, 2), headline=('recipe',), compare='recipe')


def get_config(row=None):
  """Returns a row's recipe."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'imagenette_recipe'
  return config.apply_variants(c, row, SWEEP.rows)
