"""A trained network as files that run without this package: StableHLO, read by `jax.export`.

Both stages become programs of their own, with their weights in them and for any number of images:
  preview     images -> probabilities, confidence, coefficients, logits
  specialist  images, coefficients, logits -> probabilities
A network of one stage is one program: images -> probabilities, confidence.
Images are float32 `[b, r, r, 3]` in [-1, 1].
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence
from basisnet_jax.models import BasisNet, convolution

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
TOLERANCE = 1e-3  # Of probabilities and coefficients, between a program and the network.
_CHECKED = (1, 5)  # Images at once.


class Program(NamedTuple):
  """A function and what it takes.

  Attributes:
    name: of the file.
    call: of arrays.
    inputs: shapes for one image.
    outputs: what the results are.
  """

  name: str
  call: Callable[..., tuple[jax.Array, ...]]
  inputs: tuple[tuple[int, ...], ...]
  outputs: tuple[str, ...]


def programs(
  model: nn.Module, variables: Any, resolution: int, temperatures: Mapping[str, float], rule: str
) -> list[Program]:
  """One for each stage.

  Args:
    model: of one stage or two, computing in float32.
    variables: its own.
    resolution: of the images, pixels.
    temperatures: of the stages, where they are known.
    rule: of `confidence.RULES`, of the first stage's confidence.
  """

  def answers(logits, stage, by=rule):
    temperature = temperatures.get(stage, 1.0)
    return jax.nn.softmax(logits / temperature), confidence.of(logits, by, temperature)

  image = (resolution, resolution, 3)
  if not isinstance(model, BasisNet):

    def network(images):
      return answers(model.apply(variables, images), 'network', 'max_softmax')

    return [Program('network', network, (image,), ('probabilities', 'confidence'))]

  def preview(images):
    logits, coefficients = model.apply(variables, images, method='preview')
    return *answers(logits, 'lightweight'), coefficients, logits

  def specialist(images, coefficients, logits):
    final = model.apply(variables, images, coefficients, logits, method='specialize')
    return (answers(final, 'specialist')[0],)

  *_, coefficients, logits = jax.eval_shape(preview, jnp.zeros((1, *image)))
  needed = (image, coefficients.shape[1:], logits.shape[1:])
  return [
    Program(
      'preview', preview, (image,), ('probabilities', 'confidence', 'coefficients', 'logits')
    ),
    Program('specialist', specialist, needed, ('probabilities',)),
  ]


def stablehlo(program: Program) -> bytes:
  """For `jax.export.deserialize`, for any number of images and all platforms."""
  (batch,) = jax.export.symbolic_shape('batch')
  inputs = [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in program.inputs]
  with convolution.form('shift'):  # Others are of one backend, or of known batches alone.
    exported = jax.export.export(jax.jit(program.call), platforms=PLATFORMS)(*inputs)
  return bytes(exported.serialize())


def check(program: Program, run: Callable[..., Any], inputs: Callable[[int], list]) -> float:
  """The largest difference between a program that was read again and the network.

  Args:
    run: calls what was read.
    inputs: some for so many images.

  Raises:
    UserError: it is above `TOLERANCE`.
  """
  largest = 0.0
  for count in _CHECKED:
    arrays = inputs(count)
    expected = jax.jit(program.call)(*arrays)
    for name, wanted, found in zip(program.outputs, expected, run(*arrays), strict=True):
      if name != 'logits':  # Not bounded; the probabilities are made of them.
        difference = np.abs(np.asarray(found, np.float64) - np.asarray(wanted, np.float64)).max()
        largest = max(largest, float(np.nan_to_num(difference, nan=np.inf)))
  if largest > TOLERANCE:
    raise UserError(
      f'The exported {program.name} differs from the network by {largest:.2g}, more than '
      f'{TOLERANCE:g}: it is not written.'
    )
  return largest
