"""One training step, as a pure function to jit."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from basisnet_jax import sharding
from basisnet_jax.evaluation import metrics
from basisnet_jax.training.objective import Batch, Objective
from basisnet_jax.training.state import TrainState

_MIXING = 2**31  # Folded into a step's key; small numbers are for the parts of a batch.


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  seed: int,
  ema_decay: float,
  accumulation: int = 1,
  skip_nonfinite: bool = False,
  mix: Callable[[Batch, jax.Array], Batch] | None = None,
  gather: Callable[[Any], Any] = lambda params: params,
) -> Callable[..., tuple[TrainState, Any]]:
  """Returns `step(state, batch, teacher=None) -> (state, metrics)`.

  `batch` has 'image', uint8 `[b, h, w, 3]`, 'label', int32 `[b]`, and 'mask', float32 `[b]`, 0 on
  images that do not count. The metrics are a CLU collection of the loss, the learning rate, the
  number of images that did not count, and what the objective reports, all from before the update.
  `teacher`, frozen variables, is passed to the objective.

  Args:
    objective: from `objective.make_objective`.
    optimizer: updates the parameters.
    schedule: learning rate by step, for the metrics.
    seed: determines all randomness, together with the step number.
    ema_decay: decay of the moving averages, if the state has any.
    accumulation: number of parts in which the batch goes through the model, one after another, to
      save memory. Whole-batch operations such as batch normalisation see one part at a time;
      everything else is unaffected.
    skip_nonfinite: a step whose loss or gradients are not finite changes only the step number. Its
      metrics are 0, and there is one more metric: 'finite', 1 or 0.
    mix: from `mixing.make_mixer`; it sees the whole batch, before the split into parts.
    gather: gathers parameters that are split over the mesh's devices.
  """

  def loss_and_updates(params, batch_stats, batch, key, step, num_images, teacher):
    """The batch's share of the loss, and (values to sum over parts, batch statistics)."""
    terms = objective(params, batch_stats, batch, key, step, teacher)

    def share(value):
      return (value * batch['mask']).sum() / num_images

    penalties = {name: value / accumulation for name, value in terms.penalties.items()}
    weighted = [terms.weights[stage] * share(own) for stage, own in terms.losses.items()]
    loss = sum([*weighted, *penalties.values()])
    values = {name: share(value) for name, value in terms.values.items()}
    return loss, ({'loss': loss, **values, **penalties}, terms.batch_stats)

  gradients = jax.grad(loss_and_updates, has_aux=True)

  def accumulated(params, batch_stats, batch, key, step, num_images, teacher):
    """`gradients` in parts, whose rows are strided over the batch and so over all devices."""
    parts = jax.tree.map(lambda x: x.reshape(-1, accumulation, *x.shape[1:]).swapaxes(0, 1), batch)

    def of_part(index):
      part = jax.tree.map(lambda x: x[index], parts)
      part_key = jax.random.fold_in(key, index)
      return gradients(params, batch_stats, part, part_key, step, num_images, teacher)

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_part, 0))
    total = jax.lax.fori_loop(
      0, accumulation, lambda index, sums: jax.tree.map(jnp.add, sums, of_part(index)), zeros
    )
    grads, (values, new_stats) = total
    return grads, (values, jax.tree.map(lambda x: x / accumulation, new_stats))

  def step(state: TrainState, batch: Batch, teacher=None):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    if mix is not None:
      batch = mix(batch, jax.random.fold_in(key, _MIXING))
    if teacher is not None:
      teacher = gather(teacher)
    num_images = jnp.maximum(batch['mask'].sum(), 1)
    compute = gradients if accumulation == 1 else accumulated
    grads, (values, batch_stats) = compute(
      gather(state.params), state.batch_stats, batch, key, state.step, num_images, teacher
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      # As in TensorFlow, a shorter memory at first, or short runs would remember the init.
      decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
      ema = optax.incremental_update({'params': params, 'batch_stats': batch_stats}, ema, 1 - decay)
    new = TrainState(state.step + 1, params, batch_stats, opt_state, ema)

    if skip_nonfinite:
      finite = jnp.isfinite(values['loss'])
      for grad in jax.tree.leaves(grads):
        finite &= jnp.isfinite(grad).all()
      choose = functools.partial(jnp.where, finite)
      new = jax.tree.map(choose, new, state).replace(step=state.step + 1)
      values = {name: choose(value, 0.0) for name, value in values.items()}
      values['finite'] = finite.astype(jnp.float32)
    values['learning_rate'] = schedule(state.step)
    values['broken_images'] = (batch['mask'] == 0).sum().astype(jnp.float32)
    return new, metrics.collection(tuple(values)).single_from_model_output(**values)

  return step


def jit_train_step(step, mesh, shardings=None, teacher=None):
  """Jits a step for the mesh: the batch split, the state donated and sharded.

  `shardings` are the state's (None: replicated), `teacher` those of the teacher's variables (None:
  the step takes no teacher).
  """
  whole, split = sharding.replicated(mesh), sharding.over_data(mesh)
  state = whole if shardings is None else shardings
  held = (state, split) if teacher is None else (state, split, teacher)
  step = sharding.inside(mesh, step)
  return jax.jit(step, in_shardings=held, out_shardings=(state, whole), donate_argnums=0)
