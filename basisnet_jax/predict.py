"""Predictions with a run's network: `basisnet_jax.load(workdir)`, and `--mode=predict`."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib
import functools
import io
import os
import sys
from typing import Any, NamedTuple, TextIO

from etils import epath
from flax import linen as nn
import jax

from basisnet_jax import errors, photos, sharding
from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import chosen as chosen_lib
from basisnet_jax.evaluation import thresholds
from basisnet_jax.inference import exporting, fixed, folder, on_ray, storage
from basisnet_jax.inference.prediction import Prediction
from basisnet_jax.inference.predictor import BATCH_SIZE, Predictor, Preparation
from basisnet_jax.models import cost
from basisnet_jax.training import class_names, evaluator, trained
from basisnet_jax.training.progress import Progress


class Ready(NamedTuple):
  """A trained network and everything needed to run it: see `Predictor`."""

  model: nn.Module
  variables: dict[str, Any]
  labels: tuple[str, ...]
  preparation: Preparation
  cost: cost.Cost
  chosen: chosen_lib.Chosen
  device: jax.Device

  def predictor(self, **options: Any) -> Predictor:
    """Returns a `Predictor` of it, on its own device unless `options` name others."""
    return Predictor(
      self.model,
      self.variables,
      labels=self.labels,
      preparation=self.preparation,
      cost=self.cost,
      chosen=self.chosen,
      **{'devices': [self.device], **options},
    )


@errors.of_buckets()
def ready(
  workdir: str, checkpoint: str, device: jax.Device, *, dtype: str = '', weights: str = 'float32'
) -> Ready:
  """Loads the network that a run has trained, see `load`. It computes in `dtype`; '': the run's."""
  if weights not in list(exporting.WEIGHTS):
    raise UserError(f'weights={weights!r}: there are {", ".join(exporting.WEIGHTS)}.')
  config = trained.recipe(workdir, workdir)
  folder_name = evaluator.checkpoint_folder(
    'checkpoint', checkpoint or config.evaluation.checkpoint
  )
  if config.data.eval_resize not in photos.METHODS:
    raise UserError(
      f'data.eval_resize is {config.data.eval_resize!r} in the recipe of {workdir}: use '
      f'{" or ".join(map(repr, photos.METHODS))}.'
    )
  with config.unlocked():
    config.sharding.mesh, config.sharding.preset = (('data', -1),), 'replicated'
    config.sharding.rules = ()
    config.model.dtype = dtype or config.model.dtype
  mesh = sharding.create_mesh(devices=[device])
  found = trained.load(config, workdir, folder_name, mesh, workdir)
  resolution, variables = config.model.resolution, found.variables
  if weights != 'float32':
    if not storage.has_bases(variables['params']):
      raise UserError(
        f'weights={weights!r} is for bases, and the network of {workdir} has none that become '
        'smaller (those of depthwise layers do not); leave it out.'
      )
    variables = exporting.stored(found.model, variables, resolution, weights)
  return Ready(
    found.model,
    variables,
    class_names.labels(workdir) or tuple(str(i) for i in range(config.model.num_classes)),
    Preparation(resolution, config.data.eval_crop, config.data.eval_resize),
    cost.count(found.model, resolution, found.variables),
    chosen_lib.load(workdir, found.step) or chosen_lib.NOTHING,
    device,
  )


def load(
  workdir: str,
  *,
  checkpoint: str = '',
  batch_size: int = BATCH_SIZE,
  devices: Sequence[jax.Device] | None = None,
  weights: str = 'float32',
) -> Predictor:
  """Loads the network that a run has trained, ready to predict.

  Args:
    workdir: of the run.
    checkpoint: 'latest' or 'best'; '' is the one that the recipe evaluates.
    batch_size: the most images at once, a power of two.
    devices: where it runs; None: all accelerators of this host, or its CPU.
    weights: how bases are stored, of `exporting.WEIGHTS`: 'int8' is faster for one image at a time
      on CPU, but slower for several (`inference.storage`).

  Raises:
    UserError: there is no such run or checkpoint, its early termination cannot be read, an
      argument is of the wrong kind, or there are no bases to store.
  """
  if not isinstance(workdir, str | os.PathLike):
    raise UserError(f'workdir is the folder of a run, and this is {type(workdir).__name__}.')
  devices = fixed.devices_for(devices)
  found = ready(workdir, checkpoint, devices[0], weights=weights)
  return found.predictor(batch_size=batch_size, devices=devices)


def predict_files(
  workdir: str,
  images: str,
  output: str | None,
  *,
  checkpoint: str,
  top_k: int,
  weights: str = 'float32',
  ray: str | None = None,
  **budget: Any,
) -> None:
  """Predicts for files and writes a table, to stdout if `output` is None.

  If `ray` is the address of a Ray cluster, it runs there (`inference.on_ray`).

  Raises:
    UserError: there are no images, or no such run.
  """
  folder.check_output(output)
  paths = folder.files(images)
  asked = load(workdir, checkpoint=checkpoint, weights=weights)
  top_k = min(top_k, len(asked.labels))
  threshold = asked.threshold_for(**budget)
  if ray:
    shared = workdir if '://' in workdir else os.path.abspath(workdir)
    again = functools.partial(load, shared, checkpoint=checkpoint, weights=weights)
    answers = on_ray.stream(again, paths, threshold, top_k=top_k, address=ray)
  else:
    answers = asked.stream(paths, threshold, top_k=top_k)
  total = write(answers, output, top_k, Progress(len(paths), name='predicting'))
  tell(asked, total, threshold, output)


def write(
  answers: Iterable[tuple[str, Prediction | UserError]],
  output: str | None,
  top_k: int,
  progress: Progress,
) -> folder.Total:
  """Writes a table of answers as they come; if `output` is None, to stdout, as CSV.

  Raises:
    UserError: it cannot be written.
  """
  # By the ending: a file named just '.jsonl' has no suffix.
  suffix = '.jsonl' if (output or '').endswith('.jsonl') else '.csv'
  with progress, opened(output) as file:
    return folder.write(answers, file, suffix, top_k, progress.update)


@contextlib.contextmanager
def opened(output: str | None) -> Iterator[TextIO]:
  """Opens a file that is flushed at each line, so that an interruption loses none; None: stdout.

  Raises:
    UserError: it cannot be written, at first or later.
  """
  try:
    if output is None:
      yield _by_lines(sys.stdout)
      return
    path = epath.Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
      yield _by_lines(file)
  except OSError as error:
    if error.errno is None:  # A library's own error.
      raise
    if output is None:  # Else Python would complain again at exit.
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    name = 'The table' if output is None else f'--output={output}'
    raise UserError(f'{name} cannot be written ({error.strerror}).') from error


def _by_lines(file):
  if isinstance(file, io.TextIOWrapper):  # Except for buckets.
    # A console may not have all the letters of the labels.
    file.reconfigure(line_buffering=True, errors='backslashreplace')
  return file


def tell(asked: Predictor, total: folder.Total, threshold: float, output: str | None) -> None:
  """Prints to stderr what could not be read, what an image cost, and where the table is.

  Raises:
    UserError: none could be read.
  """

  def say(text):
    print(text, file=sys.stderr)

  if total.unreadable:
    say(f'Left out {counted(len(total.unreadable), "file")} that could not be read:')
    say('\n'.join(total.unreadable))
  if not total.predicted:
    raise UserError('None of the files could be read.')
  average, most = total.madds / total.predicted / 1e6, asked.cost.total_madds / 1e6
  text = f'{counted(total.predicted, "image")}, {average:.4g} million multiply-adds each'
  if asked.cost.lightweight_madds is not None:
    share = 100 * total.exited / total.predicted
    text += (
      f' ({most:.4g} without early termination); {share:.1f}% exited, threshold {threshold:.4g}'
    )
    if threshold > 1:
      text += ': every image goes through both stages'
  say(text)
  if mending := how_to_exit(asked, threshold):
    say(mending)
  if output:
    say(f'Written: {output}')


def how_to_exit(asked: Predictor, threshold: float) -> str:
  """What to do if no threshold was chosen for two stages; else ''."""
  if asked.cost.lightweight_madds is None or not threshold == asked.threshold == thresholds.NOBODY:
    return ''
  if asked.about(threshold)['chosen']:  # No exits were chosen, to meet the goal.
    return ''
  return 'Nobody exits: give --threshold, or have one chosen on held-out images (README).'
