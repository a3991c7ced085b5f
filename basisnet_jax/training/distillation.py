"""Distillation (Hinton et al. 2015) inside the training step: from a teacher to both stages,
and from the specialist to the lightweight stage of the same network.
"""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax

from basisnet_jax.evaluation import metrics
from basisnet_jax.models import preprocessing
from basisnet_jax.training import losses

# (teacher's variables, images in [-1, 1] `[b, h, w, 3]`) -> float32 logits `[b, classes]`
TeacherFn = Callable[[Any, jax.Array], jax.Array]


def make_teacher(model: nn.Module, resolution: int) -> TeacherFn:
  """Makes a teacher of any of our networks, in evaluation mode; of two stages, the specialist.

  Images of another size are resized to `resolution` pixels. The network itself converts the pixels
  to the units that it expects (`layers.Style.images`).
  """

  def teacher(variables, images):
    images = preprocessing.resize(images, resolution)
    *_, logits = metrics.stage_logits(model.apply(variables, images, train=False)).values()
    return logits

  return teacher


def make_distill(
  teacher: TeacherFn | None,
  *,
  weight: float,
  temperature: float,
  lightweight: bool,
  from_specialist: float,
):
  """Returns `distill(hard, logits, images, labels, variables) -> (losses, values)`.

  `hard` and `logits` are {stage: loss `[b]`} and {stage: logits `[b, classes]`}; the images are in
  [-1, 1], and `variables` are the teacher's. A stage's loss becomes
  (1 - weight) * hard + weight * `losses.distillation`. The values, `[b]` each, are the stages'
  distillation losses and the teacher's own loss, top-1 and top-5.

  Args:
    teacher: from `make_teacher`, or None for no teacher.
    weight: the teacher's share of the loss, from 0 to 1.
    temperature: softens all predictions.
    lightweight: whether the teacher also teaches the lightweight stage.
    from_specialist: the specialist's share of the lightweight stage's loss; the rest is as above.
  """

  def distill(hard, logits, images, labels, variables):
    found, values = dict(hard), {}

    def blend(stage, name, teacher_logits, weight):
      soft = losses.distillation(logits[stage], teacher_logits, temperature)
      found[stage] = (1 - weight) * found[stage] + weight * soft
      values[f'{stage}_{name}'] = soft

    if teacher is not None:
      teacher_logits = teacher(variables, images)
      for name, value in metrics.per_image(teacher_logits, labels).items():
        values[f'teacher_{name}'] = value
      for stage in logits:
        if stage != 'lightweight' or lightweight:
          blend(stage, 'distillation', teacher_logits, weight)
    if from_specialist:
      blend('lightweight', 'from_specialist', logits['specialist'], from_specialist)
    return found, values

  return distill
