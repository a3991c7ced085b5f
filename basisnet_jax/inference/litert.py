"""LiteRT (TensorFlow Lite): the only file that uses its converter and its interpreter."""

from collections.abc import Mapping, Sequence
import contextlib
import io
import os
from typing import Any

import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.inference import exporting
from basisnet_jax.models import synthesis

# To write files, and to read them again.
NEEDED = ('litert_converter', 'ai_edge_quantizer', 'ai_edge_litert')


def flatbuffer(programs: Sequence[exporting.Program], weights: str = 'float32') -> bytes:
  """Makes one file with a signature for each program; each takes one image.

  Args:
    programs: of `exporting.stored` variables.
    weights: of `exporting.WEIGHTS`, the same. 'int8' ones are multiplied as integers, except
      depthwise kernels; 'float16' ones become float32 when the file is opened.

  Raises:
    UserError: the converter is not installed.
  """
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Unused there; when on, it prints two lines.
  try:
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
  except ImportError as error:
    raise missing() from error
  context = ir.Context()
  converter.prepare_mlir_context(context)
  with context:
    modules = []
    for program in programs:
      exported = exporting.lowered(program, 1, form='native', platforms=['cpu'])
      module = ir.Module.parse(exported.mlir_module())
      names = list(program.inputs)
      kept = [names[i] for i in exported.module_kept_var_idx]  # Unused ones are dropped.
      converter.set_signature(module.operation, program.name, kept, list(program.outputs))
      config = converter.ConvertToTFLConfig()
      converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
      modules.append(module)
    whole = converter.merge_modules(modules) if len(modules) > 1 else modules[0]
    data = converter.export_flatbuffer_to_bytes(whole.operation)
  return data if weights == 'float32' else _quantized(data, weights)


def _quantized(data, weights):
  try:
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer
  except ImportError as error:
    raise missing() from error
  kinds = qtyping.TFLOperationName
  recipe = quantizer.Quantizer(data)
  if weights == 'float16':
    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
      weight_tensor_config=half,
      compute_precision=qtyping.ComputePrecision.FLOAT,
      explicit_dequantize=True,
    )
    cast = algorithm_manager.AlgorithmName.FLOAT_CASTING
    for kind in (kinds.FULLY_CONNECTED, kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D):
      recipe.update_quantization_recipe('.*', kind, config, cast)
  else:
    for kind in (kinds.FULLY_CONNECTED, kinds.CONV_2D):
      recipe.add_dynamic_config('.*', kind, 8)  # A step for each output channel.
    # One step for all of a layer's bases: each of their weights is a channel here.
    whole = qtyping.QuantGranularity.TENSORWISE
    recipe.add_dynamic_config(f'.*{synthesis.SCOPE}.*', kinds.FULLY_CONNECTED, 8, whole)
  with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    return bytes(recipe.quantize().quantized_model)


class Reader:
  """Runs the signatures of a flatbuffer."""

  def __init__(self, data: bytes, threads: int | None = None):
    """Reads it; `threads`: None is LiteRT's choice.

    Raises:
      UserError: the interpreter is not installed.
    """
    try:
      from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
      raise missing() from error
    interpreter = Interpreter(model_content=data, num_threads=threads)
    names = interpreter.get_signature_list()
    self._signatures = {name: interpreter.get_signature_runner(name) for name in names}

  def inputs(self) -> dict[str, dict[str, tuple[int, ...]]]:
    """{signature: {name: shape}} of the inputs that are not constant."""
    return {
      name: {key: tuple(about['shape']) for key, about in signature.get_input_details().items()}
      for name, signature in self._signatures.items()
    }

  def __call__(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Runs a signature: inputs by name (any others are ignored) to outputs by name."""
    signature = self._signatures[name]
    return signature(**{key: inputs[key] for key in signature.get_input_details()})


def missing() -> UserError:
  """The error to raise if any of `NEEDED` is not installed."""
  return UserError("--format=tflite needs LiteRT: pip install 'basisnet_jax[litert]'.")
