"""LiteRT (TensorFlow Lite): the only file that knows its converter and its interpreter."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from basisnet_jax.errors import UserError
from basisnet_jax.inference import exporting


def flatbuffer(programs: Sequence[exporting.Program]) -> bytes:
  """One file with a signature for each program, which takes one image.

  Raises:
    UserError: the converter is not installed.
  """
  try:
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager
  except ImportError as error:
    raise _missing() from error
  context = ir.Context()
  converter.prepare_mlir_context(context)
  with context:
    modules = []
    for program in programs:
      exported = exporting.lowered(program, 1, form='native', platforms=['cpu'])
      module = ir.Module.parse(exported.mlir_module())
      names = list(program.inputs)
      kept = [names[i] for i in exported.module_kept_var_idx]  # It drops what is not used.
      converter.set_signature(module.operation, program.name, kept, list(program.outputs))
      config = converter.ConvertToTFLConfig()
      converter.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
      modules.append(module)
    whole = converter.merge_modules(modules) if len(modules) > 1 else modules[0]
    return converter.export_flatbuffer_to_bytes(whole.operation)


def reader(data: bytes) -> Callable[[str, Mapping[str, np.ndarray]], dict[str, Any]]:
  """Runs a signature by name: inputs by name to outputs by name.

  Raises:
    UserError: the interpreter is not installed.
  """
  try:
    from ai_edge_litert.interpreter import Interpreter
  except ImportError as error:
    raise _missing() from error
  interpreter = Interpreter(model_content=data)

  def run(name, inputs):
    signature = interpreter.get_signature_runner(name)
    return signature(**{key: inputs[key] for key in signature.get_input_details()})

  return run


def _missing():
  return UserError('--format=tflite needs LiteRT: pip install basisnet_jax[litert].')
