"""Losses per image."""

import jax
import optax


def cross_entropy(logits, labels, label_smoothing: float = 0.0):
  """Softmax cross-entropy with smoothed labels (Szegedy et al. 2016).

  Args:
    logits: float32 `[b, classes]`.
    labels: int32 `[b]`.
    label_smoothing: share of the target that is spread over all classes.

  Returns:
    float32 `[b]`, nats.
  """
  targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
  return optax.softmax_cross_entropy(logits, targets)
