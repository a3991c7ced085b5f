"""CIFAR-10: what each part of the recipe is worth, changed one at a time.

  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/cifar10_recipe.py \
      --config.data.data_dir=DATA_DIR

`recipe` is configs/cifar10.py:short; every other row changes what its name says.

Hardware: 2 CPU cores; about 9 minutes a run, five hours in all, estimated from timed steps.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'cifar10.py'

SWEEP = Sweep(
  rows={
    'recipe': {},
    # How the bases start, and what the optimizer does.
    'independent_bases': {'init.bases_correlation': 0.0},
    'bases_at_the_plain_rate': {'optimizer.scale_bases': False},
    'slow_coefficients': {'optimizer.learning_rate_factors': (('coefficient_head', 0.1),)},
    'adamw': {
      'optimizer.name': 'adamw',
      'optimizer.learning_rate': 1e-2,
      'optimizer.epsilon': 1e-8,
      'optimizer.weight_decay': 0.02,
      'optimizer.learning_rate_factors': (('coefficient_head', 0.1),),
      'optimizer.scale_bases': False,
    },
    # The coefficients.
    'end_to_end': {'model.coefficients.feature_gradient': 1.0},
    'no_uniform_mix': {'model.coefficients.uniform_mix': 0.0},
    'short_uniform_mix': {'model.coefficients.uniform_mix_epochs': 0.5},
    'long_uniform_mix': {'model.coefficients.uniform_mix_epochs': 3.5},
    'shared_coefficients': {'model.coefficients.shared': True},
    'sigmoid': {  # A basis gets more than a Kth of the gradient.
      'model.coefficients.activation': 'sigmoid',
      'optimizer.scale_bases': False,
    },
    'temperature': {
      'model.coefficients.uniform_mix': 0.0,
      'model.coefficients.temperature_epochs': 2.0,
    },
    'basis_dropout': {'model.coefficients.basis_dropout': 0.1},
    'load_balance': {'loss.load_balance': 0.01},
    # What the stages learn from each other, and when.
    'exit_aware': {'loss.exit_aware': 0.5},
    'from_specialist': {'distillation.from_specialist': 0.5},
    'turns': {'training.alternate_steps': 50},
    # Where the bases are.
    'bases_in_blocks': {'model.based_layers': r'(block_([4-9]|1[01])/(?!squeeze)|last|head)'},
    'bases_in_classifier_alone': {'model.based_layers': 'classifier'},
    # Images.
    'autoaugment': {'data.augment': 'autoaugment_cifar10'},
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
  c = command_line.load_recipe(str(_RECIPE), 'short')
  c.name = 'cifar10_recipe'
  return config.apply_variants(c, row, SWEEP.rows)
