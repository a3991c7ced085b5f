"""Explains, also in the workdir, that numbers were not finite or the memory was too small."""

from collections.abc import Callable, Iterator
import contextlib
import os
from typing import Any

import jax
import jax.numpy as jnp

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import report

POLICIES = ('stop', 'skip')  # For a loss that is not finite.


@jax.jit
def is_finite(tree: Any) -> jax.Array:
  """Whether all floating-point entries of a tree of arrays are finite, as a bool scalar."""
  floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
  return jnp.stack([jnp.isfinite(x).all() for x in floats]).all()


def nonfinite(
  workdir: str, images_of: Callable[[int], list[str]], step: int, saved_step: int | None
) -> UserError:
  """Records which images this step and the one before had; returns the error to raise.

  Args:
    workdir: where to write.
    images_of: returns where the images of a step are stored.
    step: the first step whose loss or update was not finite.
    saved_step: the last checkpoint's step; None if there is none.
  """
  steps = [number for number in (step - 1, step) if number >= 1]
  images = {number: images_of(number) for number in steps}
  path = os.path.join(workdir, f'not_finite_step_{step}_process_{jax.process_index()}.json')
  report.write_json(path, {'step': step, 'images_of_steps': images})
  kept = 'no checkpoint was saved yet' if saved_step is None else f'step {saved_step} is kept'
  return UserError(
    f'The loss was not finite in step {step} ({kept}; {path} names the images); lower '
    'config.optimizer.learning_rate or raise config.optimizer.warmup_epochs'
    f'{"" if saved_step is None else ", in another --workdir"}, or set '
    "config.training.nonfinite='skip' to go on without such steps."
  )


@contextlib.contextmanager
def out_of_memory(key: str, batch_size: int, advice: str = '') -> Iterator[None]:
  """Turns an out-of-memory error of an accelerator into a sentence.

  Args:
    key: the config key of the batch size, for the sentence.
    batch_size: its value.
    advice: what else to try, besides lowering it.

  Raises:
    UserError: there was not enough memory.
  """
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    reason = str(error).strip().split('\n')[0][:200]
    per_device = batch_size // jax.device_count()
    raise UserError(
      f'The memory does not suffice for {key}={batch_size}, {per_device} images on each device '
      f'({reason}); lower it{advice}.'
    ) from None
