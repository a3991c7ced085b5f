"""From pixels to probabilities: what a `Predictor` compiles, for a network of one or two stages."""

from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp

from basisnet_jax.evaluation.chosen import Chosen
from basisnet_jax.inference import early_exit
from basisnet_jax.models import BasisNet, microbatches, preprocessing


def make_answer(model: nn.Module, chosen: Chosen) -> Callable[..., tuple[jax.Array, ...]]:
  """Returns `answer(variables, pixels, real, threshold)`, to be jitted.

  Pixels are uint8 `[b, h, w, 3]`; rows where `real`, bool `[b]`, is False are padding. The answer
  is probabilities, float32 `[b, classes]`, the first prediction's confidence, float32 `[b]`, and
  which images exited, bool `[b]`. With one stage the confidence is that of the only prediction, and
  no image exits.
  """
  if isinstance(model, BasisNet):
    predict = early_exit.make_predict(model, rule=chosen.rule, temperatures=chosen.temperatures)

    def answer(variables, pixels, real, threshold):
      images = preprocessing.normalize(pixels)
      logits, confidence, exited = predict(variables, images, threshold, real)
      return jax.nn.softmax(logits), confidence, exited

    return answer

  def answer(variables, pixels, real, threshold):
    del threshold
    ask = lambda pixels: model.apply(variables, preprocessing.normalize(pixels))  # noqa: E731
    logits = microbatches.call(ask, pixels, wanted=real).astype(jnp.float32)
    probabilities = jax.nn.softmax(logits / chosen.temperatures.get('network', 1.0))
    return probabilities, probabilities.max(-1), jnp.zeros_like(real)

  return answer
