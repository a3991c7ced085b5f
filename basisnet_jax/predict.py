"""A run's network at work: `basisnet_jax.load(workdir)`, and `--mode=predict`."""

import contextlib
import os
import sys
from typing import Any

from etils import epath
import jax

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import chosen as chosen_lib
from basisnet_jax.inference import folder
from basisnet_jax.inference.predictor import Predictor, Preparation
from basisnet_jax.models import cost
from basisnet_jax.training import evaluator, trained
from basisnet_jax.training.progress import Progress


def load(
  workdir: str, *, checkpoint: str = '', batch_size: int = 32, device: jax.Device | None = None
) -> Predictor:
  """The network that a run has trained, ready to predict.

  Args:
    workdir: of the run.
    checkpoint: 'latest' or 'best'; '' is the one that the recipe evaluates.
    batch_size: the most images at once, a power of two.
    device: where it runs; None: JAX's first.

  Raises:
    UserError: there is no such run or checkpoint, or its early termination cannot be read.
  """
  config = trained.recipe(workdir, workdir)
  which = checkpoint or config.evaluation.checkpoint
  saved = evaluator.checkpoint_folder('checkpoint', which)
  device = device or jax.local_devices()[0]
  mesh = sharding.create_mesh(devices=[device])
  with config.unlocked():
    config.sharding.mesh, config.sharding.preset = (('data', -1),), 'replicated'
    config.sharding.rules = ()
  found = trained.load(config, workdir, saved, mesh, workdir)
  labels = trained.labels(workdir)
  counted = cost.count(found.model, config.model.resolution, found.variables)
  return Predictor(
    found.model,
    found.variables,
    labels=labels or [str(i) for i in range(config.model.num_classes)],
    preparation=Preparation(
      config.model.resolution, config.data.eval_crop, config.data.eval_resize
    ),
    cost=counted,
    chosen=chosen_lib.load(workdir, found.step),
    batch_size=batch_size,
    device=device,
  )


def predict_files(
  workdir: str, images: str, output: str | None, *, checkpoint: str, top_k: int, **budget: Any
) -> None:
  """Predicts for files and writes a table, to stdout where `output` is None.

  Raises:
    UserError: there are no images, or no such run.
  """
  if output is not None:
    folder.check_output(output)
  paths = folder.files(images)
  predictor = load(workdir, checkpoint=checkpoint)
  top_k = min(top_k, len(predictor.labels))
  threshold = predictor.threshold_for(**budget)
  answers = predictor.stream(paths, top_k=top_k, threshold=threshold)
  with Progress(len(paths), name='predicting') as progress, _opened(output) as file:
    suffix = os.path.splitext(output)[1] if output else '.csv'
    total = folder.write(answers, file, suffix, top_k, progress.update)
  _tell(predictor, total, threshold, output)


def _opened(output):
  if output is None:
    return contextlib.nullcontext(sys.stdout)
  try:
    path = epath.Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open('w')  # Written as it goes: an interruption loses nothing.
  except OSError as error:
    raise UserError(f'--output={output} cannot be written ({error.strerror}).') from error


def _tell(predictor, total, threshold, output):
  def say(text):
    print(text, file=sys.stderr)

  if total.unreadable:
    say(f'{len(total.unreadable)} files could not be read and are left out:')
    say('\n'.join(total.unreadable[:10]))
    if len(total.unreadable) > 10:
      say('...')
  if not total.predicted:
    raise UserError('None of the files could be read.')
  average, most = total.madds / total.predicted / 1e6, predictor.cost.total_madds / 1e6
  text = f'{total.predicted:,} images, {average:.4g} million multiply-adds each'
  if predictor.cost.lightweight_madds is not None:
    share = 100 * total.exited / total.predicted
    text += (
      f' ({most:.4g} without early termination); {share:.1f}% exited, threshold {threshold:.4g}'
    )
  say(text + (f'\nWritten: {output}' if output else ''))
