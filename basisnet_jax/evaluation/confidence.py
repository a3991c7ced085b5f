"""How confident a network is of its first answer: the rules of early termination."""

from collections.abc import Mapping
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp

from basisnet_jax.errors import UserError


def max_softmax(probabilities: jax.Array) -> jax.Array:
  """The largest probability: MSDNet's rule (Huang et al. 2018)."""
  return probabilities.max(axis=-1)


def margin(probabilities: jax.Array) -> jax.Array:
  """The largest probability minus the second largest: how far the runner-up is behind."""
  # Not `lax.top_k`, which would gather the logits of all devices on each.
  best = jnp.arange(probabilities.shape[-1]) == probabilities.argmax(axis=-1, keepdims=True)
  return probabilities.max(axis=-1) - jnp.where(best, 0.0, probabilities).max(axis=-1)


def entropy(probabilities: jax.Array) -> jax.Array:
  """1 - H / log(classes): 1 for one certain class, 0 for equal probabilities.

  BranchyNet's rule (Teerapittayanon et al. 2016), reversed so that larger is surer.
  """
  entropies = -(probabilities * jnp.log(jnp.maximum(probabilities, 1e-37))).sum(axis=-1)
  return 1 - entropies / jnp.log(probabilities.shape[-1])


RULES = {'max_softmax': max_softmax, 'margin': margin, 'entropy': entropy}


def of(logits: jax.Array, rule: str, temperature: float | jax.Array = 1.0) -> jax.Array:
  """The confidence of each image, from 0 to 1; larger is surer.

  Args:
    logits: `[..., classes]`, at least two classes.
    rule: one of `RULES`.
    temperature: divides the logits (Guo et al. 2017); may be traced.

  Returns:
    float32 `[...]`; NaN where a logit is NaN.

  Raises:
    UserError: there is no such rule.
  """
  check_rule(rule, 'rule')
  return RULES[rule](jax.nn.softmax(logits.astype(jnp.float32) / temperature))


def check_rule(rule: Any, name: str = 'config.early_exit.rule') -> None:
  """Raises a UserError if there is no such rule; `name` is what the message calls it."""
  if rule not in tuple(RULES):  # A tuple, so that `rule` need not be hashable.
    raise UserError(f'{name} is {rule!r}: use {", ".join(map(repr, RULES))}.')


def check(rule: Any, temperatures: Mapping[str, Any]) -> None:
  """Raises a UserError for an unknown rule, or a temperature that cannot divide logits."""
  check_rule(rule, 'rule')
  for name, value in temperatures.items():
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
      raise UserError(
        f'{name} is {value!r}: give a number above 0, as logits are divided by it; 1 changes none.'
      )
