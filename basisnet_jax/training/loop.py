"""The training loop."""

import contextlib
import json
import math
import os
import re
import time
from typing import Any

import jax
import ml_collections

from basisnet_jax import config as config_lib
from basisnet_jax import distributed, sharding
from basisnet_jax.errors import Preempted, UserError
from basisnet_jax.evaluation import report
from basisnet_jax.models import cost as cost_lib
from basisnet_jax.training import checkpoints, experiment, workdir_lock
from basisnet_jax.training import evaluator as evaluator_lib
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib
from basisnet_jax.training.progress import Progress
from basisnet_jax.training.telemetry import Telemetry


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: str) -> dict[str, Any]:
  """Trains by the recipe, from the workdir's newest checkpoint if it has one.

  Each step: batch, train, log, evaluate, save; the last two where they are due, in this
  order, so that a run that is killed in between evaluates again and misses nothing. A run
  killed at any moment and started again ends with the same parameters.

  Args:
    config: a resolved recipe.
    workdir: made if missing; holds all that the run leaves.

  Returns:
    The last evaluation (`evaluation.evaluate.summarize`).

  Raises:
    UserError: the recipe and the machine, data or workdir do not fit.
    Preempted: the process was asked to end; the state is saved.
  """
  first_host = jax.process_index() == 0
  mesh = sharding.create_mesh(config.sharding.mesh)
  dataset = experiment.open_dataset(config)
  experiment.check_classes(config, dataset)
  model = experiment.build_model(config)
  schedule = experiment.Schedule(config, experiment.num_images(dataset, config.data.train_split))
  rate = experiment.learning_rate(config, schedule)
  optimizer = experiment.optimizer(config, model, rate)
  wanted = experiment.abstract_state(config, model, optimizer, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, wanted)
  evaluator = evaluator_lib.Evaluator(config, model, dataset, mesh, wanted)
  with contextlib.ExitStack() as stack:
    if first_host:
      stack.enter_context(workdir_lock.exclusive(workdir))
    latest, best = (
      stack.enter_context(checkpoints.Checkpoints(os.path.join(workdir, name), keep=keep))
      for name, keep in (('checkpoints', config.checkpoint.keep), ('best', 1))
    )
    if latest.latest_step is not None or best.latest_step is not None:
      _check_same_run(config, workdir)
    if first_host:
      config_lib.save(
        config,
        workdir,
        label_names=dataset.label_names,
        device_kind=jax.devices()[0].device_kind,
      )
      report.write_json(os.path.join(workdir, 'cost.json'), evaluator.cost.as_dict())
      print(cost_lib.table(evaluator.cost))
      print(_layout(mesh, wanted))
    telemetry = stack.enter_context(Telemetry(workdir, enabled=first_host))
    state = latest.restore(wanted)
    if state is None:
      state = train_state.initialize(experiment.state_factory(config, model, optimizer), shardings)
      state = experiment.with_trained_weights(config, model, state)
      telemetry.text(0, {'config': json.dumps(config.to_dict(), indent=2)})
      telemetry.hparams(config)
    train_step = step_lib.jit_train_step(
      step_lib.make_train_step(
        model,
        optimizer,
        rate,
        seed=config.seed,
        label_smoothing=config.loss.label_smoothing,
        lightweight_weight=config.loss.lightweight_weight,
        uniform_mix=experiment.uniform_mix(config, schedule),
        ema_decay=config.ema_decay,
        gather=sharding.gather(mesh),
      ),
      mesh,
      shardings,
    )

    start, total = int(state.step), schedule.total_steps
    evaluate_every = max(1, schedule.steps(config.evaluation.every_epochs))
    batches = sharding.to_device(experiment.train_batches(config, dataset, mesh, start), mesh)
    progress = stack.enter_context(
      Progress(total, start, config.training.batch_size, enabled=first_host)
    )
    preemption = stack.enter_context(distributed.Preemption())
    window = _Window()
    for step in range(start + 1, total + 1):
      with window.waiting_for_data():
        batch = next(batches)
      state, metrics = train_step(state, batch)
      window.add(metrics)
      progress.update(step)

      if step % config.logging.every_steps == 0 or step == total:
        values = window.close(config.training.batch_size)
        _check_finite(values['train/loss'], step, latest.latest_step)
        telemetry.scalars(step, values)
        progress.update(step, _shown(values, 'train'))
      if step % evaluate_every == 0 and step < total:
        with progress.paused(), window.paused():
          _evaluate(evaluator, state, telemetry, best, progress)
      preempted = preemption.reached(step) and step < total
      if step % config.checkpoint.every_steps == 0 or step == total or preempted:
        with progress.paused(), window.paused():
          loss = float(jax.device_get(metrics.compute())['loss'])
          _check_finite(loss, step, latest.latest_step)
          best.wait()  # Or a kill between the two could lose the best.
          latest.save(state)
      if preempted:
        latest.wait()
        raise Preempted(
          f'Asked to end (SIGTERM): step {step:,} is saved, and the same command continues from it.'
        )
    summary, results = _evaluate(evaluator, state, telemetry, best, progress)
    latest.wait()
  if first_host:
    print(evaluator.write_report(workdir, summary, results))
  return summary


def _evaluate(evaluator, state, telemetry, best, progress):
  """Evaluates, writes the dashboards, keeps the state if it is the best so far."""
  summary, results = evaluator(state)
  scalars, step = evaluator.scalars(summary, results), int(state.step)
  telemetry.scalars(step, scalars)
  telemetry.histograms(
    step,
    {f'eval/{name}': results[name] for name in ('confidence', 'coefficients') if name in results},
  )
  if jax.process_index() == 0:
    shown = '  '.join(
      f'{k} {100 * v:.2f}%' for k, v in _shown(scalars, 'eval').items() if 'top1' in k
    )
    progress.write(f'step {step:,}  {shown}')
  top1 = summary[evaluator.final_stage]['top1']
  if top1 > best.metrics().get('top1', -1.0):
    best.save(state, metrics={'top1': top1})
  return summary, results


def _shown(values, prefix):
  """What the progress line has room for."""
  keys = ['loss', *(f'{stage}/top1' for stage in ('network', 'lightweight', 'specialist'))]
  keys = {f'{prefix}/{key}': key.replace('/', ' ') for key in keys}
  return {short: values[key] for key, short in keys.items() if key in values}


class _Window:
  """The steps since the last log: their metrics, time, and time spent waiting for data."""

  def __init__(self):
    self._merge = jax.jit(lambda a, b: a.merge(b))
    self._reset()

  def _reset(self):
    self._metrics, self._last, self._steps = None, None, 0
    self._began, self._waited = time.monotonic(), 0.0

  @contextlib.contextmanager
  def waiting_for_data(self):
    began = time.monotonic()
    yield
    self._waited += time.monotonic() - began

  @contextlib.contextmanager
  def paused(self):
    """Time inside counts neither as work nor as waiting."""
    jax.block_until_ready(self._last)
    began = time.monotonic()
    yield
    self._began += time.monotonic() - began

  def add(self, metrics):
    """Adds a step's metrics, and lets the host run at most one step ahead of the devices."""
    jax.block_until_ready(self._last)
    self._last = metrics
    self._metrics = metrics if self._metrics is None else self._merge(self._metrics, metrics)
    self._steps += 1

  def close(self, batch_size: int) -> dict[str, float]:
    """The window's scalars; a new window begins."""
    computed = jax.device_get(self._metrics.compute())
    seconds = time.monotonic() - self._began
    values = {
      'train/' + re.sub('^(network|lightweight|specialist)_', r'\1/', key): float(value)
      for key, value in computed.items()
    }
    values['perf/images_per_second'] = self._steps * batch_size / seconds
    values['perf/data_wait'] = self._waited / seconds
    self._reset()
    return values


def _check_finite(loss, step, saved_step):
  if not math.isfinite(loss):
    kept, where = 'no checkpoint was saved yet', ''
    if saved_step is not None:
      kept, where = f'step {saved_step} is kept', ', in another --workdir'
    raise UserError(
      f'The loss became {loss} by step {step} ({kept}); lower config.optimizer.learning_rate or '
      f'raise config.optimizer.warmup_epochs{where}.'
    )


def _layout(mesh, state):
  axes = ' x '.join(f'{name} {size}' for name, size in mesh.shape.items())
  held = sharding.bytes_per_device(state) / 1e6
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / 1e6
  return (
    f'Devices: {mesh.size} ({axes}), processes: {jax.process_count()}. Each device holds '
    f'{held:.1f} of the {whole:.1f} MB of parameters, averages and optimizer.'
  )


# What may change when a run is continued: not what it computes.
_FREE = ('name', 'data.data_dir', 'evaluation.', 'checkpoint.', 'logging.', 'sharding.')


def _check_same_run(config, workdir):
  """Refuses to continue a run with another recipe."""
  if not config_lib.is_saved(workdir):
    return
  changed = {
    key: values
    for key, values in config_lib.changed_keys(config_lib.load(workdir), config).items()
    if not key.startswith(_FREE)
  }
  if changed:
    keys = ', '.join(f'{key} was {old!r} and is {new!r}' for key, (old, new) in changed.items())
    raise UserError(
      f'{workdir} holds a run of another recipe ({keys}); give this one another --workdir, or '
      'the old values.'
    )
