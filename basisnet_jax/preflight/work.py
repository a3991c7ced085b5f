"""Checks that briefly do the job's work: devices, input, a training step, an all-reduce."""

import math
import statistics
import time

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np

from basisnet_jax import sharding
from basisnet_jax.errors import UserError
from basisnet_jax.preflight.job import Check
from basisnet_jax.training import experiment, learning

_INPUT_SECONDS = 3.0  # How long the input is measured.
_STEPS = 5  # How many steps are measured.
_REDUCED_MEGABYTES = 64  # On each device.
_REDUCTIONS = 10


def _look_for_devices(job):
  kinds = sorted({device.device_kind for device in jax.local_devices()})
  own = {'number of devices': jax.local_device_count(), 'kind of devices': ', '.join(kinds)}
  try:
    job.mesh = sharding.create_mesh(job.config.sharding.mesh)
    for key in ('training', 'evaluation'):
      sharding.checked_batch_size(job.config[key].batch_size, job.mesh, f'config.{key}.batch_size')
  except UserError as error:
    return {'own': own, 'misfit': str(error).rstrip('.')}
  return {'own': own, 'misfit': ''}


def _judge_devices(job, found):
  own = {process: about['own'] for process, about in found.items()}
  text = f'{sum(o["number of devices"] for o in own.values())} x {own[0]["kind of devices"]}'
  # If devices are missing, the rest may not fit the recipe, but that is not the cause.
  problem = job.differences(own) or found[0]['misfit']
  if not problem:
    text += f', mesh {" x ".join(f"{name} {size}" for name, size in job.mesh.shape.items())}'
  return text, problem


def _look_at_data(job):
  c = job.config
  job.dataset = experiment.open_dataset(c)
  experiment.check_classes(c, job.dataset)
  experiment.check_heldout(c, job.dataset, c.data.heldout_split)
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
  """Takes the training's own steps on random images, from its own initial state."""
  c, mesh = job.config, job.mesh
  training = learning.Training(c, mesh, experiment.num_images(job.dataset, c.data.train_split))
  state, step = training.fresh_state(), training.step()
  random = np.random.default_rng(job.process)
  size = c.training.batch_size // jax.process_count()
  # The largest images take the most memory.
  side = max((side for _, side in c.training.resolutions), default=c.model.resolution)
  images = random.integers(0, 256, (size, side, side, 3), np.uint8)
  labels = random.integers(0, experiment.num_classes(c), size, np.int32)
  batch = {'image': images, 'label': labels, 'mask': np.ones(size, np.float32)}
  (batch,) = sharding.to_device([batch], mesh)
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

  def own_numbers():  # 0 on the first device, 1 on the second, ...
    return jnp.broadcast_to(jnp.arange(1.0 * mesh.size)[:, None], (mesh.size, numbers))

  own = jax.jit(own_numbers, out_shardings=sharding.over_data(mesh))()
  add = jax.jit(
    jax.shard_map(lambda x: jax.lax.psum(x, names), mesh=mesh, in_specs=P(names), out_specs=P())
  )
  total = jax.block_until_ready(add(own))
  found, wanted = float(total.addressable_data(0)[0, -1]), mesh.size * (mesh.size - 1) / 2
  if found != wanted:
    raise UserError(f'the sum over all devices is {found}, not {wanted}')
  seconds = []
  for _ in range(_REDUCTIONS):
    began = time.monotonic()
    jax.block_until_ready(add(own))
    seconds.append(time.monotonic() - began)
  return statistics.median(seconds)


def _judge_all_reduce(job, found):
  size, seconds = job.mesh.size, max(found.values())
  if size == 1:
    return 'one device: nothing to add up', ''
  # The bus bandwidth, as is usual: what each link carries in the best order of the additions.
  gigabytes = 2 * (size - 1) / size * _REDUCED_MEGABYTES / 1e3
  text = f'{_REDUCED_MEGABYTES} MB of {size} devices in {1e3 * seconds:.3g} ms'
  return f'{text}, {gigabytes / seconds:.3g} GB/s', ''


DEVICES = Check('devices', _look_for_devices, _judge_devices, together=True, quick=False)
DATA = Check('data', _look_at_data, _judge_data, quick=False)
TRAINING_STEP = Check('training step', _take_steps, _judge_step, together=True, quick=False)
ALL_REDUCE = Check('all-reduce', _all_reduce, _judge_all_reduce, together=True, quick=False)
