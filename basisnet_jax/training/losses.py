"""Losses and weights per image, and penalties per batch."""

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits, targets, label_smoothing: float = 0.0):
  """Softmax cross-entropy with smoothed labels (Szegedy et al. 2016).

  Args:
    logits: float32 `[b, classes]`.
    targets: the labels, int32 `[b]`, or each class's share, float32 `[b, classes]`.
    label_smoothing: share of the target to spread over all classes.

  Returns:
    float32 `[b]`, nats.
  """
  if targets.ndim == 1:
    targets = jax.nn.one_hot(targets, logits.shape[-1])
  return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


def distillation(logits, teacher_logits, temperature: float):
  """Temperature squared times KL(teacher || student), both softened (Hinton et al. 2015).

  It differs from the paper's soft cross-entropy by the teacher's entropy, so the gradient is the
  same; the square keeps the gradient's size as the temperature grows.

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
  """An image's weight in the specialist's loss: less if the lightweight stage would keep it.

  1 - share * sigmoid((confidence - threshold) / softness), where confidence is the largest softmax.
  It is not normalised over the batch: an image's weight does not depend on its neighbours, and with
  share 1 and softness approaching 0, the mean of the weighted losses is the sum over the images
  that reach the specialist, divided by the number of all images.

  Args:
    lightweight_logits: float32 `[b, classes]`; no gradient flows into them.
    share: from 0 (all images count 1) to 1.
    threshold: confidence at which the weight is 1 - share / 2.
    softness: width of the step there, in confidence.

  Returns:
    float32 `[b]`, from 1 - share to 1.
  """
  confidence = jax.nn.softmax(jax.lax.stop_gradient(lightweight_logits)).max(axis=-1)
  return 1 - share * jax.nn.sigmoid((confidence - threshold) / softness)


def load_balance(coefficients, mask):
  """How unevenly a batch uses the bases (the importance loss of Shazeer et al. 2017).

  Sums each basis's coefficients over the batch, takes the squared coefficient of variation over a
  layer's bases, and averages over the layers; for a softmax, K * sum_k mean_b(c[b, k])^2 - 1.

  Args:
    coefficients: at least 0, float32 `[b, layers, K]`.
    mask: float32 `[b]`, 0 on images that do not count.

  Returns:
    A float32 scalar, from 0 (all bases used equally) to K - 1 (only one).
  """
  importance = (coefficients * mask[:, None, None]).sum(0)
  mean = jnp.maximum(importance.mean(-1, keepdims=True), 1e-9)  # It is 0 without images.
  return jnp.square(importance / mean - 1).mean()
