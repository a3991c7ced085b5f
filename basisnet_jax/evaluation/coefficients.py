"""Statistics of the coefficients over a whole split: do bases collapse, do images differ?

All coefficients of a split could fill the memory, so each batch yields only sums, computed on the
devices; `statistics` turns their total into numbers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.models import coefficients as coefficients_lib


class Sums(NamedTuple):
  """Sums over images; the sums of batches add up entry by entry.

  Attributes:
    images: `[classes]`, number of images in each class.
    coefficients: `[classes, layers, K]`.
    squares: `[layers, K]`, squared distance from 1 / K.
    shares: `[layers, K]`, coefficients divided by their sum in the layer.
    entropy: `[layers]`, see `models.coefficients.entropy`.
  """

  images: jax.Array
  coefficients: jax.Array
  squares: jax.Array
  shares: jax.Array
  entropy: jax.Array


class Statistics(NamedTuple):
  """Statistics of the coefficients of many images, float64.

  Attributes:
    images: int `[classes]`, number of images in each class.
    class_means: `[classes, layers, K]`, mean coefficients of a class's images; NaN without images.
    mean: `[layers, K]`, mean over all images.
    deviation: `[layers, K]`, standard deviation over the images.
    entropy: `[layers]`, mean entropy of an image's coefficients divided by log K, from 0 (each
      image uses one basis) to 1 (each uses all equally).
    effective_bases: `[layers]`, exp of the entropy of the mean coefficients, from 1 (one basis has
      taken over) to K (all are used equally).
    input_dependence: `[layers]`, mutual information of image and basis divided by log K, from 0
      (all images have the same coefficients) to 1 (each has one basis, and all bases are used
      equally).
  """

  images: np.ndarray
  class_means: np.ndarray
  mean: np.ndarray
  deviation: np.ndarray
  entropy: np.ndarray
  effective_bases: np.ndarray
  input_dependence: np.ndarray

  def summary(self) -> dict[str, float]:
    """Means over the layers."""
    names = ('entropy', 'effective_bases', 'input_dependence')
    return {name: float(getattr(self, name).mean()) for name in names}


def table(statistics: Statistics, layers: Sequence[str]) -> str:
  """Formats a line for each layer, as aligned plain text.

  Args:
    statistics: of the images.
    layers: the layers' names.
  """
  deviation = statistics.deviation.mean(-1)
  columns = statistics.entropy, statistics.effective_bases, statistics.input_dependence, deviation
  width = max(map(len, layers))
  lines = [f'{"":{width}}  entropy  bases in use  depends on input  deviation']
  for layer, *row in zip(layers, *columns, strict=True):
    entropy, in_use, dependence, spread = row
    lines.append(
      f'{layer:{width}}  {entropy:7.3f}  {in_use:12.2f}  {100 * dependence:15.1f}%  {spread:9.4f}'
    )
  return '\n'.join(lines)


def sums(coefficients, labels, mask, num_classes: int) -> Sums:
  """Sums a batch: float32 `[b, layers, K]`, int32 `[b]`, float32 `[b]`, 0 on omitted images."""
  one_hot = jax.nn.one_hot(labels, num_classes) * mask[:, None]
  counted = coefficients * mask[:, None, None]
  num_bases = coefficients.shape[-1]
  return Sums(
    images=one_hot.sum(0),
    # By default, accelerators would round the coefficients to bfloat16 or the like.
    coefficients=jnp.einsum('bc,blk->clk', one_hot, coefficients, precision='highest'),
    squares=(mask[:, None, None] * (coefficients - 1 / num_bases) ** 2).sum(0),
    shares=(counted / coefficients.sum(-1, keepdims=True)).sum(0),
    entropy=(mask[:, None] * coefficients_lib.entropy(coefficients)).sum(0),
  )


def add(total: Sums | None, batch: Sums) -> Sums:
  """Adds a batch's sums to the total so far (None for the first), on the host in float64."""
  batch = Sums(*(np.asarray(array, np.float64) for array in batch))
  return batch if total is None else Sums(*map(np.add, total, batch))


def statistics(total: Sums) -> Statistics:
  """Computes the statistics from sums over at least one image."""
  images = total.images.sum()
  num_bases = total.shares.shape[-1]
  mean = total.coefficients.sum(0) / images
  # The variance from sums about 1 / K: sums about 0 would lose digits by cancellation.
  variance = total.squares / images - (mean - 1 / num_bases) ** 2
  with np.errstate(invalid='ignore'):  # A class without images: 0 / 0.
    class_means = total.coefficients / total.images[:, None, None]
  shares, entropy = total.shares / images, total.entropy / images
  of_mean = -(shares * np.log(np.maximum(shares, np.finfo(float).tiny))).sum(-1)
  return Statistics(
    images=total.images.astype(int),
    class_means=class_means,
    mean=mean,
    deviation=np.sqrt(np.maximum(variance, 0)),
    entropy=entropy,
    effective_bases=np.exp(of_mean),
    input_dependence=np.maximum(of_mean / np.log(max(2, num_bases)) - entropy, 0),
  )
