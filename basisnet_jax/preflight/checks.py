"""What each check looks at on a host, and how the answers of all hosts are judged."""

from collections import Counter
from collections.abc import Callable
import dataclasses
import hashlib
import json
import math
import pathlib
import socket
import statistics
import time
from typing import Any
import uuid

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import ml_collections
import numpy as np

import basisnet_jax
from basisnet_jax import config as config_lib
from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.training import experiment
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib

LARGEST_CLOCK_DIFFERENCE = 5.0  # Seconds.
_INPUT_SECONDS = 3.0  # So long the input is measured.
_STEPS = 5  # So many steps are measured.
_REDUCED_MEGABYTES = 64  # On each device.
_REDUCTIONS = 10


@dataclasses.dataclass
class Job:
  """What is to be run, and what the checks find out for each other.

  Attributes:
    config: the resolved recipe.
    workdir: of the run.
    process: which process this is.
    hosts: the processes' hosts, when known.
    token: the same in all processes, and in no other preflight.
    mesh: of all devices.
    dataset: of the recipe.
  """

  config: ml_collections.ConfigDict
  workdir: str
  process: int
  hosts: dict[int, str] = dataclasses.field(default_factory=dict)
  token: str = ''
  mesh: jax.sharding.Mesh | None = None
  dataset: Any = None

  def name(self, process: int) -> str:
    """How a sentence calls a process."""
    return f'process {process} ({self.hosts[process]})' if self.hosts else f'process {process}'

  def differences(self, found: dict[int, dict[str, Any]]) -> str:
    """Says which processes have another value than most have, and for what; '' if none."""
    sentences = []
    for key in dict.fromkeys(key for values in found.values() for key in values):
      values = {process: values.get(key) for process, values in found.items()}
      # Of equally many the first, so process 0's.
      usual, _ = Counter(map(repr, values.values())).most_common(1)[0]
      others = 'the others have' if len(found) > 2 else f'{self.name(0)} has'
      sentences += [
        f'{self.name(process)} has {key} = {value}, {others} {usual}'.replace("'", '')
        for process, value in values.items()
        if repr(value) != usual
      ]
    more = f'; and {len(sentences) - 3} more' if len(sentences) > 3 else ''
    return '; '.join(sentences[:3]) + more


# (what is found in words, what is wrong or ''), from {process: what `look` returned}.
Judgement = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Check:
  """One row of the table.

  Attributes:
    name: of the row.
    look: what each process does; it may raise a UserError.
    judge: sees what all have found.
    together: the processes wait for each other while they look.
    quick: it needs seconds.
  """

  name: str
  look: Callable[[Job], Any]
  judge: Callable[[Job, dict[int, Any]], Judgement]
  together: bool = False
  quick: bool = True


def _look_for_processes(job):
  return {'host': socket.gethostname(), 'token': uuid.uuid4().hex[:8]}


def _judge_processes(job, found):
  job.hosts = {process: about['host'] for process, about in found.items()}
  job.token = found[0]['token']
  hosts = list(dict.fromkeys(job.hosts.values()))
  shown = ', '.join(hosts[:4]) + (', ...' if len(hosts) > 4 else '')
  return f'{len(found)} on {shown}', ''


def _look_for_versions(job):
  package, source = pathlib.Path(basisnet_jax.__file__).parent, hashlib.sha256()
  for path in sorted(package.rglob('*.py')):
    source.update(f'{path.relative_to(package)}\n'.encode() + path.read_bytes())
  return config_lib.versions() | {'source of basisnet_jax': source.hexdigest()[:8]}


def _judge_versions(job, found):
  shown = ('python', 'jax', 'flax', 'optax', 'source of basisnet_jax')
  return ', '.join(f'{name} {found[0][name]}' for name in shown), job.differences(found)


def _look_for_recipe(job):
  keys = {f'config.{key}': repr(value) for key, value in config_lib.flatten(job.config).items()}
  return keys | {'workdir': repr(job.workdir)}


def _judge_recipe(job, found):
  digest = hashlib.sha256(json.dumps(found[0], sort_keys=True).encode()).hexdigest()
  return f'{job.config.name}, hash {digest[:12]}', job.differences(found)


def _look_at_clock(job):
  return time.time()  # All have just heard the same answers, so it is the same moment.


def _judge_clocks(job, found):
  usual = statistics.median_low(found.values())
  wrong = [
    f'the clock of {job.name(process)} differs by {now - usual:+,.1f} s'
    for process, now in found.items()
    if abs(now - usual) > LARGEST_CLOCK_DIFFERENCE
  ]
  spread = max(found.values()) - min(found.values())
  return f'equal within {spread:.2f} s', '; '.join(wrong)


def _look_for_devices(job):
  job.mesh = sharding.create_mesh(job.config.sharding.mesh)
  for key in ('training', 'evaluation'):
    sharding.checked_batch_size(job.config[key].batch_size, job.mesh, f'config.{key}.batch_size')
  kinds = sorted({device.device_kind for device in jax.local_devices()})
  return {'number of devices': jax.local_device_count(), 'kind of devices': ', '.join(kinds)}


def _judge_devices(job, found):
  total = sum(about['number of devices'] for about in found.values())
  axes = ' x '.join(f'{name} {size}' for name, size in job.mesh.shape.items())
  return f'{total} x {found[0]["kind of devices"]}, mesh {axes}', job.differences(found)


def _probe(job):
  return epath.Path(job.workdir) / f'.preflight-{job.token}'


def _write_to_workdir(job):
  if job.process == 0:
    try:
      _probe(job).parent.mkdir(parents=True, exist_ok=True)
      _probe(job).write_text(job.token)
    except Exception as error:  # Of the system, or of a bucket's client.
      raise UserError(
        f'the workdir {job.workdir} cannot be written ({_first_line(error)}); choose another '
        '--workdir'
      ) from error


def _judge_workdir(job, found):
  return f'{job.workdir} can be written', ''


def _read_from_workdir(job):
  try:
    seen = _probe(job).read_text() == job.token
  except Exception as error:
    seen = False
    reason = _first_line(error)
  if not seen:
    raise UserError(
      f'what process 0 has written to the workdir {job.workdir} is not there ({reason}); all need '
      'one folder, on a shared disk or in a bucket'
    )


def _judge_shared_workdir(job, found):
  return f'seen by all {len(found)}', ''


def clean(job: Job) -> None:
  """Removes what the checks wrote."""
  if job.process == 0 and job.token:
    try:
      _probe(job).unlink(missing_ok=True)
    except Exception:  # It could not be written either.
      pass


def _look_at_data(job):
  c = job.config
  job.dataset = experiment.open_dataset(c)
  experiment.check_classes(c, job.dataset)
  images = {
    f'images in {split!r} of {c.data.name}': experiment.num_images(job.dataset, split)
    for split in (c.data.train_split, c.data.eval_split)
  }
  began = time.monotonic()
  batches = experiment.train_batches(c, job.dataset, job.mesh, 0)
  first = next(batches)
  waited, began, read = time.monotonic() - began, time.monotonic(), 0
  while time.monotonic() < began + _INPUT_SECONDS:
    read += len(next(batches)['label'])
  rate = read / (time.monotonic() - began)
  if not first['image'].any():
    raise UserError(f'the first batch of {c.data.name} is black')
  return {'images': images, 'waited': waited, 'rate': rate}


def _judge_data(job, found):
  rate = sum(about['rate'] for about in found.values())
  waited = max(about['waited'] for about in found.values())
  train, evaluation = found[0]['images'].values()
  text = (
    f'{train:,} and {evaluation:,} images, {rate:,.0f} images/s in all, the first batch after '
    f'{waited:.1f} s'
  )
  return text, job.differences({process: about['images'] for process, about in found.items()})


def _take_steps(job):
  """The training's own step on random images, from its own first state."""
  c, mesh = job.config, job.mesh
  model = experiment.build_model(c)
  schedule = experiment.Schedule(c, experiment.num_images(job.dataset, c.data.train_split))
  rate = experiment.learning_rate(c, schedule)
  optimizer = experiment.optimizer(c, model, rate)
  shapes = experiment.abstract_state(c, model, optimizer, mesh)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
  state = train_state.initialize(experiment.state_factory(c, model, optimizer), shardings)
  state = experiment.with_trained_weights(c, model, state)
  step = step_lib.jit_train_step(
    step_lib.make_train_step(
      model,
      optimizer,
      rate,
      seed=c.seed,
      label_smoothing=c.loss.label_smoothing,
      lightweight_weight=c.loss.lightweight_weight,
      uniform_mix=experiment.uniform_mix(c, schedule),
      ema_decay=c.ema_decay,
      gather=sharding.gather(mesh),
    ),
    mesh,
    shardings,
  )
  random = np.random.default_rng(job.process)
  size, side = c.training.batch_size // jax.process_count(), c.model.resolution
  images = random.integers(0, 256, (size, side, side, 3), np.uint8)
  labels = random.integers(0, experiment.num_classes(c), size, np.int32)
  (batch,) = sharding.to_device([{'image': images, 'label': labels}], mesh)
  seconds, losses = [], []
  for _ in range(1 + _STEPS):
    began = time.monotonic()
    state, metrics = step(state, batch)
    losses.append(float(jax.device_get(metrics.compute())['loss']))
    seconds.append(time.monotonic() - began)
  if not math.isfinite(losses[0]):
    raise UserError(f'the loss of the first step is {losses[0]}')
  memory = [device.memory_stats() or {} for device in jax.local_devices()]
  return {
    'loss': losses[0],
    'first': seconds[0],
    'step': statistics.median(seconds[1:]),
    'memory': max(about.get('peak_bytes_in_use', 0) for about in memory),
    'limit': min(about.get('bytes_limit', 0) for about in memory),
  }


def _judge_step(job, found):
  first, step, memory = (
    max(about[key] for about in found.values()) for key in ('first', 'step', 'memory')
  )
  rate = job.config.training.batch_size / step
  text = f'{step:.3g} s, {rate:,.0f} images/s, the first {first:.1f} s, loss {found[0]["loss"]:.3f}'
  if memory:
    text += f', {memory / 1e9:.3g} of {found[0]["limit"] / 1e9:.3g} GB'
  return text, ''


def _all_reduce(job):
  mesh, names = job.mesh, job.mesh.axis_names
  numbers = _REDUCED_MEGABYTES * 1_000_000 // 4
  one_each = jax.jit(
    lambda: jnp.broadcast_to(
      jnp.arange(mesh.size, dtype=jnp.float32)[:, None], (mesh.size, numbers)
    ),
    out_shardings=sharding.over_data(mesh),
  )()
  add = jax.jit(
    jax.shard_map(lambda x: jax.lax.psum(x, names), mesh=mesh, in_specs=P(names), out_specs=P())
  )
  total = jax.block_until_ready(add(one_each))
  found, wanted = float(total.addressable_data(0)[0, -1]), mesh.size * (mesh.size - 1) / 2
  if found != wanted:
    raise UserError(f'the sum over all devices is {found}, not {wanted}')
  seconds = []
  for _ in range(_REDUCTIONS):
    began = time.monotonic()
    jax.block_until_ready(add(one_each))
    seconds.append(time.monotonic() - began)
  return statistics.median(seconds)


def _judge_all_reduce(job, found):
  size, seconds = job.mesh.size, max(found.values())
  if size == 1:
    return 'one device: nothing to add up', ''
  # What each link carries in the best order of the additions, as is usual to state it.
  gigabytes = 2 * (size - 1) / size * _REDUCED_MEGABYTES / 1e3
  text = f'{_REDUCED_MEGABYTES} MB of {size} devices in {1e3 * seconds:.3g} ms'
  return f'{text}, {gigabytes / seconds:.3g} GB/s', ''


def _first_line(error):
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0][:200]


# Of a stage all are made; the next one is for hosts without a problem.
STAGES = (
  (Check('processes', _look_for_processes, _judge_processes),),
  (
    Check('versions', _look_for_versions, _judge_versions),
    Check('recipe', _look_for_recipe, _judge_recipe),
    Check('clocks', _look_at_clock, _judge_clocks),
    Check('workdir', _write_to_workdir, _judge_workdir),
  ),
  (
    Check('workdir shared', _read_from_workdir, _judge_shared_workdir),
    Check('devices', _look_for_devices, _judge_devices, together=True, quick=False),
  ),
  (Check('data', _look_at_data, _judge_data, quick=False),),
  (Check('training step', _take_steps, _judge_step, together=True, quick=False),),
  (Check('all-reduce', _all_reduce, _judge_all_reduce, together=True, quick=False),),
)
