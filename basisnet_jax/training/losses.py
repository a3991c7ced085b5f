"""Losses per image, what an image counts, and penalties of a batch."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits, targets, label_smoothing: float = 0.0):
  """Softmax cross-entropy with smoothed labels (Szegedy et al. 2016).

  Args:
    logits: float32 `[b, classes]`.
    targets: the labels, int32 `[b]`, or each class's share, float32 `[b, classes]`.
    label_smoothing: share of the target that is spread over all classes.

  Returns:
    float32 `[b]`, nats.
  """
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, logits.shape[-1])
  return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


def distillation(logits, teacher_logits, temperature: float):
  """Temperature squared times KL(teacher || student), both softened (Hinton et al. 2015).

  Its gradient is that of the paper's soft cross-entropy, from which it differs by the teacher's
  entropy; the square keeps the gradient's size as the temperature grows.

  Args:
    logits, teacher_logits: float32 `[b, classes]`; no gradient flows into the teacher's.
    temperature: divides both before the softmax.

  Returns:
    float32 `[b]`, nats; 0 where both predict the same.
  """
  student = jax.nn.log_softmax(logits / temperature)
  teacher = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits) / temperature)
  return temperature**2 * optax.losses.kl_divergence_with_log_targets(student, teacher)


def exit_weight(lightweight_logits, *, share: float, threshold: float, softness: float):
  """What an image counts for the specialist, less if the lightweight stage would keep it.

  1 - share * sigmoid((confidence - threshold) / softness), confidence the largest softmax. Not
  normalised over the batch: with share 1 and softness towards 0 the mean of the weighted losses
  is the loss of just those images that reach the specialist, over all images; and an image's
  weight does not follow from its neighbours.

  Args:
    lightweight_logits: float32 `[b, classes]`; no gradient flows into them.
    share: from 0 (all images count 1) to 1.
    threshold: confidence at which half of `share` is taken off.
    softness: width of the step there, in confidence.

  Returns:
    float32 `[b]`, from 1 - share to 1.
  """
  confidence = jax.nn.softmax(jax.lax.stop_gradient(lightweight_logits)).max(axis=-1)
  return 1 - share * jax.nn.sigmoid((confidence - threshold) / softness)


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
