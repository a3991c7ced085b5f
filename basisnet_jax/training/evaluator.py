"""Evaluates a training state: during training, and afterwards from its workdir."""

from collections.abc import Callable
import os
import shlex
from typing import Any

from etils import epath
from flax import linen as nn
import jax
import ml_collections
import optax

from basisnet_jax import sharding
from basisnet_jax.counting import counted
from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import (
  analysis,
  confidence,
  early_exit,
  evaluate,
  files,
  plots_coefficients,
  thresholds,
)
from basisnet_jax.evaluation import chosen as chosen_lib
from basisnet_jax.evaluation import coefficients as coefficients_lib
from basisnet_jax.evaluation import examples as examples_lib
from basisnet_jax.models import cost as cost_lib
from basisnet_jax.training import checkpoints, class_names, diagnosis, experiment
from basisnet_jax.training.progress import Progress
from basisnet_jax.training.state import TrainState
from basisnet_jax.training.telemetry import Telemetry


class Evaluator:
  """Runs the model over the evaluation split, and over the held-out one to choose a threshold.

  Attributes:
    cost: the model's cost.
    final_stage: 'specialist', or 'network' for a single network.
  """

  def __init__(
    self, config, model: nn.Module, dataset, mesh, state: TrainState, *, exchange: bool = False
  ):
    """Takes a `state` to evaluate, or its shapes with their shardings.

    `exchange` also runs the specialist with other images' coefficients (`make_eval_step`).

    Raises:
      UserError: the recipe's keys for early termination, the images or their batches make no sense.
    """
    self._config, self._model, self._dataset, self._mesh = config, model, dataset, mesh
    self._goal = thresholds.Goal(**config.early_exit.choose)
    confidence.check_rule(config.early_exit.rule)
    experiment.check_heldout(config, dataset, config.data.heldout_split)
    for split in filter(None, (config.data.eval_split, config.data.heldout_split)):
      experiment.eval_batches(config, dataset, mesh, split)  # Raises now, not after hours.
    held = jax.tree.map(lambda leaf: leaf.sharding, state.eval_variables())
    self._step = evaluate.make_eval_step(
      model, mesh, held, rule=config.early_exit.rule, exchange=exchange
    )
    self.cost = cost_lib.count(model, config.model.resolution, state.eval_variables())
    self.final_stage = 'network' if self.cost.lightweight_madds is None else 'specialist'
    thresholds.check(self._goal, self.cost.lightweight_madds or 0)

  def choose(
    self,
    state: TrainState,
    workdir: str,
    checkpoint: str,
    on_batch: Callable[[], None] = lambda: None,
  ) -> chosen_lib.Chosen | None:
    """Fits temperatures and, for two stages, chooses a threshold on the held-out images.

    Without held-out images it returns what was chosen for this state before, or None.

    Args:
      state: the state to evaluate.
      workdir: may hold an earlier choice.
      checkpoint: the folder in the workdir where this state is saved.
      on_batch: called after each batch.

    Raises:
      UserError: no image can be read.
    """
    split, rule = self._config.data.heldout_split, self._config.early_exit.rule
    if not split:
      return self._chosen_before(workdir, int(state.step))
    results = self._run(state, split, 'held-out images', on_batch, keep_logits=True)
    fit = thresholds.fit(results, rule=rule, goal=self._goal, **evaluate.madds(self.cost))
    return chosen_lib.Chosen(
      rule=rule,
      temperatures=fit.temperatures,
      threshold=thresholds.NOBODY if fit.threshold is None else fit.threshold,
      goal=self._goal.as_dict(),
      reason=fit.reason,
      heldout={'data': self._config.data.name, 'split': split, **(fit.expected or {})},
      checkpoint=checkpoint,
      step=int(state.step),
    )

  def _chosen_before(self, workdir, step):
    try:
      chosen = chosen_lib.load(workdir, step)
      if chosen is None:
        return None
      if chosen.rule != self._config.early_exit.rule:
        raise UserError(f'The one in {workdir} is for early_exit.rule={chosen.rule!r}.')
      if chosen.heldout['data'] == self._config.data.name:
        experiment.check_heldout(self._config, self._dataset, chosen.heldout['split'])
      return chosen
    except UserError as error:
      if jax.process_index() == 0:
        print(f'No threshold is used. {error}')
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

    `on_batch` is called after each batch, `watch` with each batch and its values (`evaluate.run`).

    Raises:
      UserError: no image can be read.
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
    if not read:
      raise UserError(
        f'None of the {counted(images, "image")} of {split!r} of dataset {self._dataset.name!r} '
        'can be read; prepare it again, or name another split.'
      )
    if read < images and jax.process_index() == 0:
      print(f'{images - read:,} of {images:,} images could not be read: left out.')
    return results

  def scalars(self, summary, results) -> dict[str, float]:
    """Scalars for the dashboards: each stage, and early termination at the chosen threshold.

    If none was chosen, at the recipe's `evaluation.threshold`.
    """
    values = {
      f'eval/{stage}/{name}': value
      for stage, numbers in summary.items()
      if isinstance(numbers, dict) and stage != 'chosen'
      for name, value in numbers.items()
    }
    if 'confidence' in results:
      point = summary.get('chosen') or early_exit.operating_point(
        self._config.evaluation.threshold, *evaluate.answers(results), **evaluate.madds(self.cost)
      )
      for name in ('exit_rate', 'average_madds', 'top1'):
        values[f'eval/early_exit/{name}'] = point[name]
    return values

  def write_coefficients(self, telemetry: Telemetry, step: int, results) -> None:
    """Writes a table by layer and heat maps of the coefficients to the dashboards.

    Call it on one host only.
    """
    if statistics := results.get('coefficient_statistics'):
      layers, names = self._model.layers, self._dataset.label_names
      telemetry.text(step, {'eval/coefficients/layers': coefficients_lib.table(statistics, layers)})
      maps = plots_coefficients.coefficient_maps(
        statistics, layers, names, title=f'{self._config.name} at step {step:,}'
      )
      telemetry.images(step, {'eval/coefficients/maps': plots_coefficients.pixels(maps)})

  def examples(self, chosen: chosen_lib.Chosen | None) -> examples_lib.Examples:
    """Returns the collector of example images, whose `watch` an evaluation calls."""
    if self.cost.lightweight_madds is None:
      return examples_lib.Examples(examples_lib.of_one_network())
    return examples_lib.Examples(examples_lib.of_two_stages(self._threshold(chosen)))

  def _threshold(self, chosen):
    return self._config.evaluation.threshold if chosen is None else chosen.threshold

  def findings(
    self, summary, results, chosen: chosen_lib.Chosen | None, examples=None
  ) -> analysis.Findings:
    """Returns an evaluation for `evaluation.files`, with example images if there are any."""
    subject = analysis.Subject(
      name=self._config.name,
      data=self._config.data.name,
      split=self._config.data.eval_split,
      label_names=self._dataset.label_names,
      layers=() if self.cost.lightweight_madds is None else self._model.layers,
      **evaluate.madds(self.cost),
    )
    return analysis.Findings(
      subject, summary, results, self._threshold(chosen), chosen, examples or {}
    )


def restore(
  config: ml_collections.ConfigDict, model: nn.Module, mesh, folder: str
) -> TrainState | None:
  """Restores the newest readable state in `folder` onto the mesh; None if there is none."""
  if not epath.Path(folder).exists():
    return None
  update = experiment.optimizer(config, model, optax.constant_schedule(0.0))
  create = experiment.state_factory(config, model, update)
  like = experiment.abstract_state(config, create, mesh)
  with checkpoints.Checkpoints(folder, keep=config.checkpoint.keep) as saved:
    return saved.restore(like)


def checkpoint_folder(key: str, which: str) -> str:
  """Returns the workdir's folder for `which`, 'latest' or 'best', the value of the recipe's `key`.

  Raises:
    UserError: `which` is neither.
  """
  folders = {'latest': 'checkpoints', 'best': 'best'}
  if not isinstance(which, str) or which not in folders:
    raise UserError(f"{key} is {which!r}; it can be 'latest' or 'best'.")
  return folders[which]


def evaluate_workdir(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Evaluates a workdir's checkpoint, prints the table and writes the report.

  Raises:
    UserError: there is no checkpoint, or it has learned other classes than the data's.
  """
  name = checkpoint_folder('config.evaluation.checkpoint', config.evaluation.checkpoint)
  folder = os.path.join(workdir, name)
  mesh = sharding.create_mesh(config.sharding.mesh)
  model = experiment.build_model(config)
  state = restore(config, model, mesh, folder)
  if state is None:
    raise UserError(
      f'There is no checkpoint in {folder}; train first: python -m basisnet_jax.main '
      f'--config=... --workdir={shlex.quote(str(workdir))}'
    )
  dataset = experiment.open_dataset(config)
  class_names.check(dataset.label_names, workdir)
  evaluator = Evaluator(config, model, dataset, mesh, state, exchange=True)
  first_host = jax.process_index() == 0
  chosen = evaluator.choose(state, workdir, name)
  examples = evaluator.examples(chosen)
  summary, results = evaluator(state, chosen=chosen, watch=examples.watch if first_host else None)
  if first_host:
    found = evaluator.findings(summary, results, chosen, examples.best())
    files.tell(workdir, files.write(workdir, found) + files.write_page(workdir, found))
  return summary
