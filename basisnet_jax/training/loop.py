"""The training loop."""

from concurrent import futures
import contextlib
import itertools
import json
import math
import os
from typing import Any

import jax
import ml_collections

from basisnet_jax import config as config_lib
from basisnet_jax import distributed, sharding
from basisnet_jax.counting import counted
from basisnet_jax.errors import Preempted, UserError
from basisnet_jax.evaluation import files, report
from basisnet_jax.models import cost as cost_lib
from basisnet_jax.training import (
  checkpoints,
  class_names,
  diagnosis,
  experiment,
  learning,
  workdir_lock,
)
from basisnet_jax.training import evaluator as evaluator_lib
from basisnet_jax.training.progress import Progress
from basisnet_jax.training.telemetry import Telemetry
from basisnet_jax.training.watchdog import Watchdog
from basisnet_jax.training.window import Window


def train_and_evaluate(
  config: ml_collections.ConfigDict, workdir: str, *, keep_step: bool = False
) -> dict[str, Any]:
  """Trains a recipe, from the workdir's newest checkpoint if it has one.

  Each step: batch, train and, when due, log, evaluate, save. The last two come in this order so
  that a run killed between them evaluates again and misses nothing. A run killed at any moment and
  started again ends with the same parameters.

  Args:
    config: a resolved recipe.
    workdir: created if missing; holds everything that the run writes.
    keep_step: `keep` of `learning.Training.step`.

  Returns:
    The last evaluation (`evaluation.evaluate.summarize`).

  Raises:
    UserError: the recipe does not fit the machine, data or workdir.
    Preempted: the process was asked to end; the state is saved.
  """
  if config.training.nonfinite not in diagnosis.POLICIES:
    raise UserError(
      f'config.training.nonfinite is {config.training.nonfinite!r}: use '
      f'{" or ".join(map(repr, diagnosis.POLICIES))}.'
    )
  first_host = jax.process_index() == 0
  mesh = sharding.create_mesh(config.sharding.mesh)
  dataset = experiment.open_dataset(config)
  experiment.check_classes(config, dataset)
  num_train = experiment.num_images(dataset, config.data.train_split)
  training = learning.Training(config, mesh, num_train)
  evaluator = evaluator_lib.Evaluator(config, training.model, dataset, mesh, training.state)
  more_parts = f', or set config.training.accumulation={2 * config.training.accumulation}'
  with (
    diagnosis.out_of_memory('config.training.batch_size', config.training.batch_size, more_parts),
    contextlib.ExitStack() as stack,
  ):
    if first_host:
      stack.enter_context(workdir_lock.exclusive(workdir))
    latest, best = (
      stack.enter_context(checkpoints.Checkpoints(os.path.join(workdir, name), keep=keep))
      for name, keep in (('checkpoints', config.checkpoint.keep), ('best', 1))
    )
    if latest.latest_step is not None or best.latest_step is not None:
      config_lib.check_same_run(config, workdir)
      class_names.check(dataset.label_names, workdir)
    # Read now, so that errors in them show before minutes of set-up.
    weights = training.read_weights() if latest.latest_step is None else None
    if first_host:
      config_lib.save(
        config,
        workdir,
        label_names=dataset.label_names,
        device_kind=jax.devices()[0].device_kind,
      )
      report.write_json(os.path.join(workdir, 'cost.json'), evaluator.cost.as_dict())
      if seen := experiment.num_seen(config, dataset):
        print(
          f'{counted(seen, "image")} of config.data.eval_split={config.data.eval_split!r} are in '
          f'config.data.train_split={config.data.train_split!r}, too: the accuracy will be better '
          'than on new images.'
        )
      print(cost_lib.table(evaluator.cost))
      print(_layout(mesh, training.state))
    telemetry = stack.enter_context(Telemetry(workdir, enabled=first_host))
    state = latest.restore(training.state)
    fresh, start = state is None, 0 if state is None else int(state.step)
    train_step = training.step(skip_nonfinite=config.training.nonfinite == 'skip', keep=keep_step)
    batches = sharding.to_device(experiment.train_batches(config, dataset, mesh, start), mesh)
    total = training.schedule.total_steps
    evaluate_every = max(1, training.schedule.steps(config.evaluation.every_epochs))
    progress = stack.enter_context(
      Progress(total, start, config.training.batch_size, enabled=first_host)
    )
    preemption = stack.enter_context(distributed.Preemption())
    watchdog = stack.enter_context(Watchdog(config.training.stall_timeout))
    watchdog.beat(f'the images of step {start + 1}, or its program')

    # Python runs one thread at a time, but compiler, disk and devices work concurrently.
    with futures.ThreadPoolExecutor(2) as beside:
      first = beside.submit(lambda: list(itertools.islice(batches, int(start < total))))
      like = training.abstract_batch(start)
      compiled = beside.submit(lambda: start < total and train_step.compile(training.state, like))
      state = training.fresh_state(weights) if fresh else state
    del weights  # Frees their memory for the run.
    batches = itertools.chain(first.result(), batches)
    compiled.result()
    if fresh:
      telemetry.text(0, {'config': json.dumps(config.to_dict(), indent=2)})
      telemetry.hparams(config)
    window = Window()

    def not_finite(step):
      images_of = lambda step: experiment.train_records(config, dataset, step - 1)  # noqa: E731
      return diagnosis.nonfinite(workdir, images_of, step, latest.latest_step)

    def stop_if_not_finite():
      bad = window.nonfinite_step()
      if bad is not None and config.training.nonfinite == 'stop':
        raise not_finite(bad)

    for step in range(start + 1, total + 1):
      watchdog.beat(f'the images of step {step}')
      with window.waiting_for_data():
        batch = next(batches)
      watchdog.beat(f'step {step}, on the devices or in other processes')
      state, metrics = train_step(state, batch)
      window.add(step, metrics)
      progress.update(step)

      if step % config.logging.every_steps == 0 or step == total:
        stop_if_not_finite()
        values = window.close(config.training.batch_size)
        if skipped := values.get('train/skipped_steps'):
          progress.write(f'step {step:,}  not finite and left out: {skipped:.0f} of the last steps')
          if math.isnan(values['train/loss']):  # All of them.
            raise not_finite(step)
        telemetry.scalars(step, values)
        progress.update(step, _shown(values, 'train'))
      if step % evaluate_every == 0 and step < total:
        with progress.paused(), window.paused():
          _evaluate(evaluator, state, telemetry, best, progress, watchdog)
      preempted = preemption.reached(step) and step < total
      if step % config.checkpoint.every_steps == 0 or step == total or preempted:
        with progress.paused(), window.paused():
          watchdog.beat(f'the checkpoint of step {step}')
          stop_if_not_finite()
          if not diagnosis.is_finite((state.params, state.batch_stats)):
            raise not_finite(step)
          best.wait()  # Or a kill between the two saves could lose the best one.
          latest.save(state)
      if preempted:
        latest.wait()
        raise Preempted(
          f'Asked to end (SIGTERM): step {step:,} is saved, and the same command continues from it.'
        )
    chosen = evaluator.choose(
      state, workdir, 'checkpoints', lambda: watchdog.beat('the held-out images')
    )
    summary, results = _evaluate(evaluator, state, telemetry, best, progress, watchdog, chosen)
    latest.wait()
  if first_host:
    files.tell(workdir, files.write(workdir, evaluator.findings(summary, results, chosen)))
  return summary


def _evaluate(evaluator, state, telemetry, best, progress, watchdog, chosen=None):
  """Evaluates, writes to the dashboards, and keeps the state if it is the best so far."""
  summary, results = evaluator(
    state, on_batch=lambda: watchdog.beat('the evaluation'), chosen=chosen
  )
  scalars, step = evaluator.scalars(summary, results), int(state.step)
  telemetry.scalars(step, scalars)
  telemetry.histograms(
    step,
    {f'eval/{name}': results[name] for name in ('confidence', 'coefficients') if name in results},
  )
  if jax.process_index() == 0:
    evaluator.write_coefficients(telemetry, step, results)
    shown = '  '.join(
      f'{k} {100 * v:.2f}%' for k, v in _shown(scalars, 'eval').items() if 'top1' in k
    )
    progress.write(f'step {step:,}  {shown}')
  top1 = summary[evaluator.final_stage]['top1']
  if top1 > best.metrics().get('top1', -1.0):
    best.save(state, metrics={'top1': top1})
  return summary, results


def _shown(values, prefix):
  """The values that the progress line has room for."""
  keys = ['loss', *(f'{stage}/top1' for stage in ('network', 'lightweight', 'specialist'))]
  keys = {f'{prefix}/{key}': key.replace('/', ' ') for key in keys}
  return {short: values[key] for key, short in keys.items() if key in values}


def _layout(mesh, state):
  axes = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
  held = sharding.bytes_per_device(state) / 1e6
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1e6
  return (
    f'Devices: {mesh.size} ({axes}), processes: {jax.process_count()}. Each device holds '
    f'{held:.1f} of the {whole:.1f} MB of parameters, averages and optimizer.'
  )
