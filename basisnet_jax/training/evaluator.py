"""Evaluating a training state: while it trains, and afterwards from its workdir."""

from collections.abc import Callable
import os
from typing import Any

from etils import epath
from flax import linen as nn
import jax
import ml_collections
import optax

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import early_exit, evaluate, plots, report
from basisnet_jax.models import cost as cost_lib
from basisnet_jax.training import checkpoints, diagnosis, experiment
from basisnet_jax.training.progress import Progress
from basisnet_jax.training.state import TrainState


class Evaluator:
  """Runs the model over the recipe's evaluation split.

  Attributes:
    cost: of the model.
    final_stage: 'specialist', or 'network' for a single network.
  """

  def __init__(self, config, model: nn.Module, dataset, mesh, state: TrainState):
    """`state` is one to evaluate, or its shapes with their shardings."""
    self._config, self._dataset, self._mesh = config, dataset, mesh
    held = jax.tree.map(lambda leaf: leaf.sharding, state.eval_variables())
    self._step = evaluate.make_eval_step(model, mesh, held)
    self.cost = cost_lib.count(model, config.model.resolution)
    self.final_stage = 'network' if self.cost.lightweight_madds is None else 'specialist'

  def __call__(
    self, state: TrainState, on_batch: Callable[[], None] = lambda: None
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (`evaluate.summarize`'s summary, `evaluate.run`'s results).

    `on_batch` is called after each batch.
    """
    config = self._config
    images = experiment.num_images(self._dataset, config.data.eval_split)
    batches = experiment.eval_batches(config, self._dataset, self._mesh)
    with (
      diagnosis.out_of_memory('config.evaluation.batch_size', config.evaluation.batch_size),
      Progress(images, enabled=jax.process_index() == 0, name='evaluation') as progress,
    ):

      def show(done):
        progress.update(min(images, done * config.evaluation.batch_size))
        on_batch()

      results = evaluate.run(
        self._step,
        state.eval_variables(),
        sharding.to_device(batches, self._mesh),
        on_batch=show,
      )
    summary = evaluate.summarize(
      results, cost=self.cost, thresholds=config.evaluation.thresholds, step=int(state.step)
    )
    if summary['images'] < images and jax.process_index() == 0:
      print(f'{images - summary["images"]:,} of {images:,} images could not be read: left out.')
    return summary, results

  def scalars(self, summary, results) -> dict[str, float]:
    """For the dashboards: each stage, and early termination at the recipe's threshold."""
    values = {
      f'eval/{stage}/{name}': value
      for stage, numbers in summary.items()
      if isinstance(numbers, dict)
      for name, value in numbers.items()
    }
    if 'confidence' in results:
      point = early_exit.operating_point(
        self._config.evaluation.threshold, *evaluate.answers(results), **evaluate.madds(self.cost)
      )
      for name in ('exit_rate', 'average_madds', 'top1'):
        values[f'eval/early_exit/{name}'] = point[name]
    return values

  def write_report(self, workdir: str, summary, results) -> str:
    """Prints the table, writes evaluation.json and cost_accuracy.png; returns their names.

    To be called on one host.
    """
    print(report.table(summary), flush=True)  # Before a full disk could be in the way.
    report.write(workdir, summary)
    files = ['evaluation.json']
    if 'confidence' in results:
      plots.cost_accuracy(
        os.path.join(workdir, 'cost_accuracy.png'),
        early_exit.cost_accuracy_curve(*evaluate.answers(results), **evaluate.madds(self.cost)),
        summary['early_exit'],
        lightweight=(self.cost.lightweight_madds, summary['lightweight']['top1']),
        specialist=(self.cost.total_madds, summary['specialist']['top1']),
        title=f'{self._config.name}: {summary["images"]:,} images of {self._config.data.name}',
      )
      files.append('cost_accuracy.png')
    written = ', '.join(os.path.join(workdir, name) for name in files)
    return f'\nWritten: {written}'


def restore(
  config: ml_collections.ConfigDict, model: nn.Module, mesh, folder: str
) -> TrainState | None:
  """The newest readable state in `folder`, on the mesh; None if there is none."""
  if not epath.Path(folder).exists():
    return None
  update = experiment.optimizer(config, model, optax.constant_schedule(0.0))
  like = experiment.abstract_state(config, model, update, mesh)
  with checkpoints.Checkpoints(folder, keep=config.checkpoint.keep) as saved:
    return saved.restore(like)


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Evaluates a workdir's checkpoint, prints the table and writes the report.

  Raises:
    UserError: there is no checkpoint.
  """
  which = config.evaluation.checkpoint
  folders = {'latest': 'checkpoints', 'best': 'best'}
  if which not in folders:
    raise UserError(f"config.evaluation.checkpoint is {which!r}; it can be 'latest' or 'best'.")
  folder = os.path.join(workdir, folders[which])
  mesh = sharding.create_mesh(config.sharding.mesh)
  model = experiment.build_model(config)
  state = restore(config, model, mesh, folder)
  if state is None:
    raise UserError(
      f'There is no checkpoint in {folder}; train first: python -m basisnet_jax.main '
      f'--config=... --workdir={workdir}'
    )
  evaluator = Evaluator(config, model, experiment.open_dataset(config), mesh, state)
  summary, results = evaluator(state)
  if jax.process_index() == 0:
    print(evaluator.write_report(workdir, summary, results))
  return summary
