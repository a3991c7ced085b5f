"""Losses per image, and penalties of a batch."""

import jax
import jax.numpy as jnp
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


def load_balance(coefficients, mask):
  """How unevenly a batch uses the bases (the importance loss of Shazeer et al. 2017).

  The squared coefficient of variation, over a layer's bases, of the sums of their coefficients,
  averaged over the layers; for a softmax K * sum_k mean_b(c[b, k])^2 - 1.

  Args:
    coefficients: at least 0, float32 `[b, layers, K]`.
    mask: float32 `[b]`, 0 on images that do not count.

  Returns:
    A float32 scalar from 0, all alike, to K - 1, one basis alone.
  """
  importance = (coefficients * mask[:, None, None]).sum(0)
  mean = jnp.maximum(importance.mean(-1, keepdims=True), 1e-9)  # Without images: 0.
  return jnp.square(importance / mean - 1).mean()
