"""States and metrics of a few steps on one device and on eight."""

import functools

import jax
import pytest
import steps
import tiny

from basisnet_jax import sharding
from basisnet_jax.training import state as train_state
from basisnet_jax.training import step as step_lib


@pytest.fixture(scope='session')
def model():
  return tiny.basisnet()


@pytest.fixture(scope='session')
def trajectories(model):
  """By number of devices: states after 0, 1, 2, 3 steps and metrics of the steps, on the host."""
  found = {}
  for count in (1, 8):
    mesh = sharding.create_mesh(devices=jax.devices()[:count])
    update = steps.optimizer()
    create = functools.partial(train_state.create, model, update, 0, tiny.RESOLUTION, use_ema=True)
    state = train_state.initialize(create, sharding.replicated(mesh))
    step = step_lib.jit_train_step(steps.new_step(model, update), mesh)
    born = jax.tree.map(lambda leaf: leaf.sharding, state)
    states, measurements = [jax.device_get(state)], []
    batches = (tiny.batch(steps.BATCH, seed) for seed in range(4))
    for batch in sharding.to_device(batches, mesh):
      before, (state, measured) = state, step(state, batch)
      measurements.append(steps.values(measured))
      if len(states) < 4:
        states.append(jax.device_get(state))
    # The state before the last step was fetched: only one that was not is given away.
    before, (state, _) = state, step(state, batch)
    found[count] = {
      'born': born, 'states': states, 'metrics': measurements, 'before': before, 'after': state,
    }  # fmt: skip
  return found
