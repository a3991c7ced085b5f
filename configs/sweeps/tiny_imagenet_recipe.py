"""200 classes: what each part of the recipe is worth, changed one at a time.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/tiny_imagenet_recipe.py \
      --config.data.data_dir=DATA_DIR

`recipe` is configs/tiny_imagenet.py; every other row changes what its name says, for seed 0 alone.
Seeds of one row differ by up to three points (docs/results.md): less is not told from chance.

Hardware: 2 CPU cores; about 13 minutes a run on one of them, three and a half hours in all with a
sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'tiny_imagenet.py'

SWEEP = Sweep(
  rows={
    'recipe': {},
    # How the bases start, and what the optimizer does.
    'independent_bases': {'init.bases_correlation': 0.0},
    'slow_coefficients': {'optimizer.learning_rate_factors': (('coefficient_head', 0.1),)},
    'fast_coefficients': {'optimizer.learning_rate_factors': (('coefficient_head', 10.0),)},
    'unscaled_bases': {'optimizer.scale_bases': False},
    'adamw': {
      'optimizer.name': 'adamw',
      'optimizer.learning_rate': 2e-2,
      'optimizer.weight_decay': 0.02,
      'optimizer.scale_bases': False,
    },
    # The coefficients.
    'end_to_end': {'model.coefficients.feature_gradient': 1.0},
    'no_uniform_mix': {'model.coefficients.uniform_mix': 0.0},
    'late_uniform_mix': {
      'model.coefficients.uniform_mix_hold_epochs': 6.0,
      'model.coefficients.uniform_mix_epochs': 2.5,
    },
    'shared_coefficients': {'model.coefficients.shared': True},
    'sigmoid': {'model.coefficients.activation': 'sigmoid'},
    'temperature': {
      'model.coefficients.uniform_mix': 0.0,
      'model.coefficients.temperature_epochs': 3.0,
    },
    'basis_dropout': {'model.coefficients.basis_dropout': 0.1},
    'load_balance': {'loss.load_balance': 0.01},
    # What the stages learn from each other, and when.
    'no_refining': {'model.refine': 0.0},
    'half_refining': {'model.refine': 0.5},
    'exit_aware': {'loss.exit_aware': 0.5},
    'from_specialist': {'distillation.from_specialist': 0.5},
    'turns': {'training.alternate_steps': 50},
    # Where the bases are.
    'bases_everywhere': {'model.based_layers': 'stem|stage|classifier'},
    'bases_in_the_last_stage': {'model.based_layers': 'stage_4'},
    # Images.
    'autoaugment': {'data.augment': 'autoaugment_imagenet'},
    'random_erasing': {'data.random_erasing': 0.25},
    'mixup': {'training.mixup': 0.2},
    'cutmix': {'training.cutmix': 1.0},
    'small_first': {'training.resolutions': ((0.0, 24), (0.5, 32))},
    # Regularisation.
    'stochastic_depth': {'model.stochastic_depth': 0.1},
    'clip_norm': {'optimizer.clip_norm': 1.0},
    'dropout': {'model.dropout': 0.2, 'model.lightweight.dropout': 0.2},
    'no_weight_decay': {'optimizer.weight_decay': 0.0},
    'label_smoothing': {'loss.label_smoothing': 0.1},
    'no_average': {'ema_decay': 0.0},
  },
  seeds=(0, 1, 2),
  headline=('recipe',),
  compare='recipe',
)


def get_config(row=None):
  """Returns the recipe of a row."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'tiny_imagenet_recipe'
  return config.apply_variants(c, row, SWEEP.rows)
