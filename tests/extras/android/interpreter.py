"""Runs signatures of a model.tflite for the Java at the other end of the pipe."""

import struct
import sys

from ai_edge_litert.interpreter import Interpreter
import numpy as np


def main(model):
  interpreter, asked = Interpreter(model), sys.stdin.buffer

  def number():
    return struct.unpack('>i', asked.read(4))[0]

  def text():
    return asked.read(struct.unpack('>H', asked.read(2))[0]).decode()

  def head(details):
    """The name of a tensor, which has the shape that Java says."""
    name = text()
    wanted = tuple(int(size) for size in details[name]['shape'])
    shape = tuple(number() for _ in range(number()))
    if not shape:  # A buffer.
      assert number() == 4 * np.prod(wanted), (name, wanted)
    else:
      assert shape == wanted, (name, shape, wanted)
    return name, wanted

  while asked.peek(1):
    runner, inputs = interpreter.get_signature_runner(text()), {}
    for _ in range(number()):
      name, shape = head(runner.get_input_details())
      inputs[name] = np.frombuffer(asked.read(4 * int(np.prod(shape))), '>f4').reshape(shape)
    names = [head(runner.get_output_details())[0] for _ in range(number())]
    results = runner(**{name: value.astype(np.float32) for name, value in inputs.items()})
    for name in names:
      sys.stdout.buffer.write(results[name].astype('>f4').tobytes())
    sys.stdout.buffer.flush()


if __name__ == '__main__':
  main(sys.argv[1])
