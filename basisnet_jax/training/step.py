"""One training step, as a pure function to be jitted."""

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

_MIXING = 2**31  # Folded into a step's key; the parts of a batch have the small numbers.


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
  images that do not count. The metrics are a CLU collection: the loss, the learning rate, how
  many images did not count, and what the objective reports, as it was before the update.
  `teacher` goes to the objective: variables that stay as they are.

  Args:
    objective: of `objective.make_objective`.
    accumulation: the batch goes through the model in so many parts, one after another, which
      takes less memory. What is of a batch as a whole, such as batch normalisation, sees one
      part at a time; all else stays the same.
    skip_nonfinite: a step whose loss or gradients are not finite changes nothing but the step's
      number. Its metrics are 0, and there is one more: 'finite', 1 or 0.
    mix: of `mixing.make_mixer`; it sees the whole batch, before it is parted.
    gather: makes parameters whole that the mesh's devices share.
  """

  def loss_and_updates(params, batch_stats, batch, key, step, num_images, teacher):
    """The batch's share of the loss, and (what is to be added up, batch statistics)."""
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
    """As `gradients`, by parts. A part's rows are spread over the batch, and so its devices'."""
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
      # As in TensorFlow: a shorter memory at first, or short runs would remember the init.
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
  """Compiles for the mesh: batch split, state donated and as `shardings` (None: replicated).

  `teacher` are the shardings of the teacher's variables; None: the step takes none.
  """
  whole, split = sharding.replicated(mesh), sharding.over_data(mesh)
  state = whole if shardings is None else shardings
  held = (state, split) if teacher is None else (state, split, teacher)
  step = sharding.inside(mesh, step)
  return jax.jit(step, in_shardings=held, out_shardings=(state, whole), donate_argnums=0)
