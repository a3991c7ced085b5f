"""One training step, as a pure function to be jitted."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from basisnet_jax import sharding
from basisnet_jax.evaluation import metrics
from basisnet_jax.models import basisnet, preprocessing
from basisnet_jax.training import losses
from basisnet_jax.training.state import TrainState

Batch = dict[str, jax.Array]


def make_train_step(
  model: nn.Module,
  optimizer: optax.GradientTransformation,
  schedule: optax.Schedule,
  *,
  seed: int,
  label_smoothing: float,
  lightweight_weight: float,
  uniform_mix: optax.Schedule,
  ema_decay: float,
  gather: Callable[[Any], Any] = lambda params: params,
) -> Callable[[TrainState, Batch], tuple[TrainState, Any]]:
  """Returns `step(state, batch) -> (state, metrics)`.

  `batch` has 'image', uint8 `[b, h, w, 3]`, and 'label', int32 `[b]`. The metrics are a CLU
  collection: the loss, the learning rate, and loss, top-1, top-5 of each stage as they were
  before the update. `gather` makes parameters whole that the mesh's devices share.
  """
  two_stage = isinstance(model, basisnet.BasisNet)

  def step(state: TrainState, batch: Batch):
    images = preprocessing.normalize(batch['image'])
    dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)
    options = {'uniform_mix': uniform_mix(state.step)} if two_stage else {}

    def loss_fn(params):
      outputs, updates = model.apply(
        {'params': params, 'batch_stats': state.batch_stats},
        images,
        train=True,
        rngs={'dropout': dropout_key},
        mutable=['batch_stats'],
        **options,
      )
      logits = metrics.stage_logits(outputs)
      loss = 0.0
      for stage, stage_logits in logits.items():
        weight = lightweight_weight if stage == 'lightweight' else 1.0
        loss += weight * losses.cross_entropy(stage_logits, batch['label'], label_smoothing).mean()
      return loss, (logits, updates.get('batch_stats', {}))

    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (logits, batch_stats)), grads = grad_fn(gather(state.params))
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
      # As in TensorFlow: a shorter memory at first, or short runs would remember the init.
      decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
      ema = optax.incremental_update({'params': params, 'batch_stats': batch_stats}, ema, 1 - decay)

    values = {'loss': loss, 'learning_rate': schedule(state.step)}
    for stage, stage_logits in logits.items():
      for name, value in metrics.per_image(stage_logits, batch['label']).items():
        values[f'{stage}_{name}'] = value.mean()
    collected = metrics.collection(tuple(values)).single_from_model_output(**values)
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema), collected

  return step


def jit_train_step(step, mesh, shardings=None):
  """Compiles for the mesh: batch split, state donated and as `shardings` (None: replicated)."""
  whole, split = sharding.replicated(mesh), sharding.over_data(mesh)
  state = whole if shardings is None else shardings
  return jax.jit(step, in_shardings=(state, split), out_shardings=(state, whole), donate_argnums=0)
