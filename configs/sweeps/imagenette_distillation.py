"""Imagenette: what a teacher is worth to the backbone and to BasisNet.

First train the teacher, the backbone at twice the width:

  python -m basisnet_jax.main --config=configs/imagenette.py:static,wide \
      --workdir=runs/teacher --config.data.data_dir=DATA_DIR
  python -m basisnet_jax.main --mode=sweep --config=configs/sweeps/imagenette_distillation.py \
      --config.data.data_dir=DATA_DIR --config.distillation.teacher.workdir=runs/teacher

The recipe is configs/imagenette.py. `distilled` and `static_distilled` learn half from the labels
and half from the teacher, `soft` only from the softened teacher; in `second_stage_distilled` the
teacher teaches only the specialist.

Hardware: 2 CPU cores; 6 to 10 minutes on one per run and for the teacher, an hour and a
quarter in all with a sweep on each.
"""

import pathlib

from basisnet_jax import command_line, config
from basisnet_jax.sweep import Sweep

_RECIPE = pathlib.Path(__file__).parents[1] / 'imagenette.py'

_STATIC = {'model.name': 'resnet_10'}
_NOT = {'distillation.weight': 0.0}

SWEEP = Sweep(
  rows={
    'recipe': _NOT,
    'distilled': {'distillation.weight': 0.5},
    'soft': {'distillation.weight': 1.0, 'distillation.temperature': 2.0},
    'second_stage_distilled': {'distillation.weight': 0.5, 'distillation.lightweight': False},
    'static': {**_STATIC, **_NOT},
    'static_distilled': {**_STATIC, 'distillation.weight': 0.5},
  },
  seeds=(0, 1, 2),
  headline=('recipe', 'distilled', 'static', 'static_distilled'),
  compare='recipe',
)


def get_config(row=None):
  """Returns a row's recipe."""
  c = command_line.load_recipe(str(_RECIPE))
  c.name = 'imagenette_distillation'
  return config.apply_variants(c, row, SWEEP.rows)
