"""The rules of early termination against their definitions."""

import jax
import numpy as np
import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence


def by_definition(logits, rule, temperature):
  scaled = logits.astype(np.float64) / temperature
  p = np.exp(scaled) / np.exp(scaled).sum(-1, keepdims=True)
  if rule == 'max_softmax':
    return p.max(-1)
  if rule == 'margin':
    return np.sort(p, -1)[:, -1] - np.sort(p, -1)[:, -2]
  return 1 + (p * np.log(p)).sum(-1) / np.log(p.shape[-1])


@pytest.mark.parametrize('temperature', [0.5, 1.0, 3.0])
@pytest.mark.parametrize('rule', confidence.RULES)
@pytest.mark.parametrize('classes', [2, 7])
def test_confidence_is_that_of_the_definition(rule, temperature, classes):
  logits = 2 * np.random.default_rng(0).standard_normal((50, classes)).astype(np.float32)
  logits[0] = 1.0  # All alike: the least sure there is.
  logits[1, 1] = logits[1, 0] = 9.0  # Two alike.
  of = jax.jit(confidence.of, static_argnums=1)
  expected = by_definition(logits, rule, temperature)
  np.testing.assert_allclose(of(logits, rule, temperature), expected, atol=1e-6)


@pytest.mark.parametrize('rule', confidence.RULES)
def test_confidence_runs_from_undecided_to_certain(rule):
  found = confidence.of(np.array([[0, 0, 0], [300, 0, 0], [np.nan, 0, 0]], np.float32), rule)
  undecided = 1 / 3 if rule == 'max_softmax' else 0
  np.testing.assert_allclose(found, [undecided, 1, np.nan], atol=1e-6)


def test_unknown_rule_is_one_sentence():
  with pytest.raises(UserError, match="early_exit.rule is 'max': use 'max_softmax', 'margin'"):
    confidence.check_rule('max')


def test_unknown_rule_is_refused_where_it_is_used():
  with pytest.raises(UserError, match="rule is 'luck': use 'max_softmax', 'margin', 'entropy'"):
    confidence.of(np.zeros((2, 3), np.float32), 'luck')
