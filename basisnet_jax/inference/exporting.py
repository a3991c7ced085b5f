"""A trained network as programs that run without this package, such as StableHLO's.

Each stage becomes a program of its own, which contains its weights and takes any number of images:
  preview     images -> probabilities, confidence, coefficients, logits
  specialist  images, coefficients, logits -> probabilities
without coefficients if no layer has bases (a cascade).
A network of one stage is one program: images -> probabilities, confidence.
Images are float32 `[b, r, r, 3]` in [-1, 1].
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.evaluation import confidence
from basisnet_jax.inference import folding, storage
from basisnet_jax.models import BasisNet, convolution

PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')
# {how weights are stored: how far probabilities and coefficients may be from the network's}.
WEIGHTS = {'float32': 1e-3, 'float16': 1e-2, 'int8': 0.2}
_OF_LOGITS = 0.5

NAMES = ('network', 'preview', 'specialist')  # Of programs.


class Program(NamedTuple):
  """A function with its inputs and outputs.

  Attributes:
    name: of the program, and of its file.
    call: maps arrays `[b, ...]` to the results, in order.
    inputs: {name of an input: its shape for one image}, all float32.
    outputs: names of the results.
  """

  name: str
  call: Callable[..., tuple[jax.Array, ...]]
  inputs: dict[str, tuple[int, ...]]
  outputs: tuple[str, ...]

  def takes(self, batch: Any) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of the inputs for a batch size, a number or a symbol."""
    return [jax.ShapeDtypeStruct((batch, *shape), jnp.float32) for shape in self.inputs.values()]

  def gives(self) -> dict[str, tuple[int, ...]]:
    """{name of a result: its shape for one image}."""
    results = jax.eval_shape(self.call, *self.takes(1))
    return {name: x.shape[1:] for name, x in zip(self.outputs, results, strict=True)}


def programs(
  model: nn.Module, variables: Any, resolution: int, temperatures: Mapping[str, float], rule: str
) -> list[Program]:
  """Makes a program for each stage.

  Args:
    model: of one stage or two, computing in float32.
    variables: of the model.
    resolution: of the images, pixels.
    temperatures: of the stages, as far as known.
    rule: of the first stage's confidence, one of `confidence.RULES`.
  """

  def answers(logits, stage, by=rule):
    temperature = temperatures.get(stage, 1.0)
    return jax.nn.softmax(logits / temperature), confidence.of(logits, by, temperature)

  image = (resolution, resolution, 3)
  if not isinstance(model, BasisNet):

    def network(images):
      return answers(model.apply(variables, images), 'network', 'max_softmax')

    return [Program('network', network, {'images': image}, ('probabilities', 'confidence'))]

  bases = {'coefficients': (len(model.layers), model.num_bases)} if model.layers else {}

  def preview(images):
    logits, coefficients = model.apply(variables, images, method='preview')
    return *answers(logits, 'lightweight'), *([coefficients] if bases else []), logits

  def specialist(images, *rest):
    *coefficients, logits = rest
    coefficients = coefficients[0] if bases else jnp.zeros((images.shape[0], 0, model.num_bases))
    final = model.apply(variables, images, coefficients, logits, method='specialize')
    return (answers(final, 'specialist')[0],)

  classes = jax.eval_shape(preview, jnp.zeros((1, *image)))[-1].shape[1:]
  outputs = ('probabilities', 'confidence', *bases, 'logits')
  return [
    Program('preview', preview, {'images': image}, outputs),
    Program('specialist', specialist, {'images': image, **bases, 'logits': classes}, outputs[:1]),
  ]


def handed_on(programs: Sequence[Program], taken: Mapping[str, Collection[str]]) -> list[str]:
  """Names of what the programs after the first take, the images included.

  Args:
    programs: one for each stage.
    taken: {program: those of its inputs that its file has}: a converter drops unused ones.
  """
  return [name for part in programs[1:] for name in part.inputs if name in taken[part.name]]


def stored(model: nn.Module, variables: Any, resolution: int, weights: str) -> Any:
  """Returns variables as exports store them: normalisation folded, bases as in `WEIGHTS`.

  Pass them to `programs` in place of the network's own.
  """
  folded = folding.fold(model, variables, resolution, equalize=weights == 'int8')
  store = {'float32': lambda p: p, 'float16': storage.in_float16, 'int8': storage.in_int8}[weights]
  return folded | {'params': store(folded['params'])}


def lowered(
  program: Program, batch: Any, *, form: str, platforms: Sequence[str]
) -> jax.export.Exported:
  """Exports the program for a batch size, with its layers in a form of `convolution.form`."""
  # A new function, because JAX reuses the trace of one for the same shapes, whatever its form.
  run = jax.jit(lambda *arrays: program.call(*arrays))
  with convolution.form(form):
    return jax.export.export(run, platforms=platforms)(*program.takes(batch))


def stablehlo(program: Program) -> bytes:
  """Serialises it for `jax.export.deserialize`, for any number of images and all platforms."""

  def call(*arrays):
    """The program's call; compiled for one image, it takes the forms that suit one."""
    count = arrays[0].shape[0]

    def one(*arrays):
      results = program.call(*(x[:1] for x in arrays))
      return tuple(jnp.broadcast_to(x, (count, *x.shape[1:])) for x in results)

    return jax.lax.cond(jnp.asarray(count) == 1, one, program.call, *arrays)

  (batch,) = jax.export.symbolic_shape('batch')
  # The other forms are for one backend, or for known batch sizes only.
  any_number = program._replace(call=call)
  return bytes(lowered(any_number, batch, form='shift', platforms=PLATFORMS).serialize())


def read_stablehlo(data: bytes) -> Callable[..., Any]:
  """Returns a function that runs `stablehlo`'s program: inputs to outputs, in order."""
  return jax.export.deserialize(bytearray(data)).call


def check(
  program: Program, run: Callable[..., Sequence[Any]], batches: Sequence[int], tolerance: float
) -> float:
  """Returns the largest difference between a program that was read back and the network.

  Args:
    program: of the network's own variables.
    run: runs what was read, with inputs in order.
    batches: batch sizes.
    tolerance: one of `WEIGHTS`.

  Raises:
    UserError: the difference is above it, or above half of the largest logit: where no class is
      likely, even a program that always says the same comes close.
  """
  largest = of_logits = 0.0
  for count in batches:
    inputs = _some(program, count)
    expected = jax.jit(program.call)(*inputs)
    for name, *both in zip(program.outputs, expected, run(*inputs), strict=True):
      wanted, found = (np.asarray(values, np.float64) for values in both)
      if name != 'logits':  # Not bounded; the probabilities are computed from them.
        largest = max(largest, _difference(found, wanted))
      if name == 'probabilities':
        wanted, found = _centered_logits(wanted), _centered_logits(found)
        of_logits = max(of_logits, _difference(found, wanted) / max(np.abs(wanted).max(), 1e-3))
  if of_logits > _OF_LOGITS:
    raise UserError(
      f'The exported {program.name} differs from the network by {of_logits:.0%} of its largest '
      'logit: it is not written.'
    )
  if largest > tolerance:
    raise UserError(
      f'The exported {program.name} differs from the network by {largest:.2g}, more than '
      f'{tolerance:g}: it is not written.'
    )
  return largest


def _difference(found, wanted):
  return float(np.nan_to_num(np.abs(found - wanted).max(), nan=np.inf))


def _centered_logits(probabilities):
  logits = np.log(np.maximum(probabilities, 1e-9))
  return logits - logits.mean(-1, keepdims=True)


def _some(program, count):
  """Realistic inputs: images of all brightnesses; coefficients that sum to one; logits."""
  random = np.random.default_rng(count)
  images, *rest = (
    np.float32(random.uniform(-1, 1, (count, *shape))) for shape in program.inputs.values()
  )
  if rest:
    powers = np.exp(3 * rest[0])
    rest[0] = np.float32(powers / powers.sum(-1, keepdims=True))
  return [images, *rest]
