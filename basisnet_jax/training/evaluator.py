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
from basisnet_jax.evaluation import (
  analysis,
  confidence,
  early_exit,
  evaluate,
  page,
  plots,
  plots_calibration,
  plots_coefficients,
  report,
  thresholds,
)
from basisnet_jax.evaluation import chosen as chosen_lib
from basisnet_jax.evaluation import coefficients as coefficients_lib
from basisnet_jax.evaluation import examples as examples_lib
from basisnet_jax.models import cost as cost_lib
from basisnet_jax.training import checkpoints, diagnosis, experiment
from basisnet_jax.training.progress import Progress
from basisnet_jax.training.state import TrainState
from basisnet_jax.training.telemetry import Telemetry


class Evaluator:
  """Runs the model over the recipe's evaluation split, and over its held-out one to choose.

  Attributes:
    cost: of the model.
    final_stage: 'specialist', or 'network' for a single network.
  """

  def __init__(self, config, model: nn.Module, dataset, mesh, state: TrainState):
    """`state` is one to evaluate, or its shapes with their shardings.

    Raises:
      UserError: the recipe's keys of early termination, or of held-out images, make no sense.
    """
    self._config, self._model, self._dataset, self._mesh = config, model, dataset, mesh
    self._goal = thresholds.Goal(**config.early_exit.choose)
    confidence.check_rule(config.early_exit.rule)
    thresholds.check(self._goal)
    experiment.check_heldout(config, dataset)
    held = jax.tree.map(lambda leaf: leaf.sharding, state.eval_variables())
    self._step = evaluate.make_eval_step(model, mesh, held, rule=config.early_exit.rule)
    self.cost = cost_lib.count(model, config.model.resolution)
    self.final_stage = 'network' if self.cost.lightweight_madds is None else 'specialist'

  def choose(
    self,
    state: TrainState,
    workdir: str,
    checkpoint: str,
    on_batch: Callable[[], None] = lambda: None,
  ) -> chosen_lib.Chosen | None:
    """Fits temperatures and, for two stages, a threshold to the held-out images.

    Without such images it is what was chosen for this state before, or None.

    Args:
      state: to evaluate.
      workdir: may hold an earlier choice.
      checkpoint: the folder in it where this state is saved.
      on_batch: called after each batch.
    """
    split, rule = self._config.data.heldout_split, self._config.early_exit.rule
    if not split:
      return self._chosen_before(workdir, int(state.step))
    results = self._run(state, split, 'held-out images', on_batch, keep_logits=True)
    fit = thresholds.fit(results, rule=rule, goal=self._goal, **evaluate.madds(self.cost))
    return chosen_lib.Chosen(
      rule=rule,
      temperatures=fit.temperatures,
      threshold=fit.threshold,
      goal=self._goal.as_dict(),
      reason=fit.reason,
      heldout={'split': split, 'images': len(results['label']), **(fit.expected or {})},
      checkpoint=checkpoint,
      step=int(state.step),
    )

  def _chosen_before(self, workdir, step):
    try:
      chosen = chosen_lib.load(workdir, step)
      if chosen is None or chosen.rule == self._config.early_exit.rule:
        return chosen
      reason = f'The threshold in {workdir} is for early_exit.rule={chosen.rule!r}'
    except UserError as error:
      reason = str(error)
    if jax.process_index() == 0:
      print(f'No threshold is used. {reason}')
    return None

  def __call__(
    self,
    state: TrainState,
    on_batch: Callable[[], None] = lambda: None,
    *,
    chosen: chosen_lib.Chosen | None = None,
    watch: Callable[..., None] | None = None,
  ) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (`evaluate.summarize`'s summary, `evaluate.run`'s results).

    `on_batch` is called after each batch, `watch` with what is in it (`evaluate.run`).
    """
    results = self._run(
      state,
      self._config.data.eval_split,
      'evaluation',
      on_batch,
      temperatures=chosen and chosen.temperatures,
      watch=watch,
    )
    summary = evaluate.summarize(
      results,
      cost=self.cost,
      thresholds=self._config.evaluation.thresholds,
      step=int(state.step),
      chosen=chosen and chosen.threshold,
    )
    return summary, results

  def _run(self, state, split, name, on_batch, **options):
    config = self._config
    images = experiment.num_images(self._dataset, split)
    batches = experiment.eval_batches(config, self._dataset, self._mesh, split)
    with (
      diagnosis.out_of_memory('config.evaluation.batch_size', config.evaluation.batch_size),
      Progress(images, enabled=jax.process_index() == 0, name=name) as progress,
    ):

      def show(done):
        progress.update(min(images, done * config.evaluation.batch_size))
        on_batch()

      results = evaluate.run(
        self._step,
        state.eval_variables(),
        sharding.to_device(batches, self._mesh),
        on_batch=show,
        **options,
      )
    read = len(results['label'])
    if read < images and jax.process_index() == 0:
      print(f'{images - read:,} of {images:,} images could not be read: left out.')
    return results

  def scalars(self, summary, results) -> dict[str, float]:
    """For the dashboards: each stage, and early termination where it was chosen, or is to be."""
    values = {
      f'eval/{stage}/{name}': value
      for stage, numbers in summary.items()
      if isinstance(numbers, dict) and stage != 'chosen'
      for name, value in numbers.items()
    }
    if 'confidence' in results:
      point = self._shown_point(summary, results)
      for name in ('exit_rate', 'average_madds', 'top1'):
        values[f'eval/early_exit/{name}'] = point[name]
    return values

  def _shown_point(self, summary, results):
    return summary.get('chosen') or early_exit.operating_point(
      self._config.evaluation.threshold, *evaluate.answers(results), **evaluate.madds(self.cost)
    )

  def write_coefficients(self, telemetry: Telemetry, step: int, results) -> None:
    """Writes what the coefficients do to the dashboards: a table by layer, and heat maps.

    To be called on one host.
    """
    if statistics := results.get('coefficient_statistics'):
      telemetry.text(
        step, {'eval/coefficients/layers': coefficients_lib.table(statistics, self._model.layers)}
      )
      picture = plots_coefficients.pixels(self._coefficient_maps(results))
      telemetry.images(step, {'eval/coefficients/maps': picture})

  def _coefficient_maps(self, results):
    return plots_coefficients.coefficient_maps(
      results['coefficient_statistics'],
      self._model.layers,
      self._dataset.label_names,
      title=self._title(len(results['label'])),
    )

  def _title(self, images):
    return f'{self._config.name}: {images:,} images of {self._config.data.name}'

  def write(self, workdir: str, summary, results, chosen: chosen_lib.Chosen | None) -> list[str]:
    """Prints the table and writes it, the choice and the pictures; returns the files' names.

    To be called on one host.
    """
    print(report.table(summary), flush=True)  # Before a full disk could be in the way.
    report.write(workdir, summary)
    names = ['evaluation.json']
    if 'confidence' not in results:
      return names
    if chosen is not None:
      print(f'Chosen threshold: {chosen.reason}.')
      chosen_lib.save(workdir, chosen)
      names.append(chosen_lib.NAME)
    else:
      print(_HOW_TO_CHOOSE)
    plots.cost_accuracy(
      os.path.join(workdir, 'cost_accuracy.png'),
      early_exit.cost_accuracy_curve(*evaluate.answers(results), **evaluate.madds(self.cost)),
      summary['early_exit'],
      lightweight=(self.cost.lightweight_madds, summary['lightweight']['top1']),
      specialist=(self.cost.total_madds, summary['specialist']['top1']),
      chosen=summary.get('chosen'),
      title=self._title(summary['images']),
    )
    names.append('cost_accuracy.png')
    if 'coefficient_statistics' in results:
      path = os.path.join(workdir, 'coefficients.png')
      plots_calibration.save(self._coefficient_maps(results), path)
      names.append('coefficients.png')
    return names

  def examples(self, chosen: chosen_lib.Chosen | None) -> examples_lib.Examples:
    """What to watch an evaluation with, for images to show."""
    if self.cost.lightweight_madds is None:
      return examples_lib.Examples(examples_lib.of_one_network())
    return examples_lib.Examples(examples_lib.of_two_stages(self._threshold(chosen)))

  def _threshold(self, chosen):
    return self._config.evaluation.threshold if chosen is None else chosen.threshold

  def write_page(
    self, workdir: str, summary, results, chosen, examples: examples_lib.Examples
  ) -> list[str]:
    """Writes report.html and the tables that it shows; returns the files' names.

    To be called on one host.
    """
    config = self._config
    subject = analysis.Subject(
      name=config.name,
      data=config.data.name,
      split=config.data.eval_split,
      label_names=self._dataset.label_names,
      layers=getattr(self._model, 'layers', ()),
      **evaluate.madds(self.cost),
    )
    threshold = self._threshold(chosen)
    return page.write(
      workdir,
      analysis.Findings(subject, summary, results, threshold, chosen, examples.best()),
    )


_HOW_TO_CHOOSE = (
  'To have a threshold chosen, on images that neither training nor this table sees, train with '
  "--config.data.train_split='train[:95%]' --config.data.heldout_split='train[95%:]'."
)


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
  first_host = jax.process_index() == 0
  chosen = evaluator.choose(state, workdir, folders[which])
  examples = evaluator.examples(chosen)
  summary, results = evaluator(state, chosen=chosen, watch=examples.watch if first_host else None)
  if first_host:
    names = evaluator.write(workdir, summary, results, chosen)
    names += evaluator.write_page(workdir, summary, results, chosen, examples)
    print(f'\nWritten: {", ".join(os.path.join(workdir, name) for name in names)}')
  return summary
