"""Both stages as one Triton model: the specialist only sees undecided images.

This file is copied into exports as 1/model.py; Triton's Python backend runs it, with NumPy.
"""

import json

import numpy as np
import triton_python_backend_utils as triton


class TritonPythonModel:
  """One instance, whose methods Triton calls."""

  def initialize(self, args):
    """Reads the parameters of config.pbtxt."""
    written = json.loads(args['model_config'])['parameters']
    told = {name: value['string_value'] for name, value in written.items()}
    self.threshold = float(told['threshold'])
    self.madds = int(told['madds_first']), int(told['madds_all'])
    self.handed_on = told['handed_on'].split(',')

  def execute(self, requests):
    """Returns one response per request; a request may have several images."""
    parts = [triton.get_input_tensor_by_name(each, 'images').as_numpy() for each in requests]
    found = self._answers(np.concatenate(parts))
    ends = np.cumsum([len(images) for images in parts])[:-1]
    split = zip(*(np.split(values, ends) for values in found.values()), strict=True)
    return [
      triton.InferenceResponse([triton.Tensor(*one) for one in zip(found, values, strict=True)])
      for values in split
    ]

  def _answers(self, images):
    """Arrays `[b, ...]` of the outputs in config.pbtxt, by name."""
    first = _ask('preview', ['probabilities', 'confidence', *self.handed_on], images=images)
    probabilities, confidence = first['probabilities'].copy(), first['confidence']
    undecided = ~(confidence[:, 0] >= self.threshold)
    if undecided.any():
      rest = {name: first[name][undecided] for name in self.handed_on}
      last = _ask('specialist', ['probabilities'], images=images[undecided], **rest)
      probabilities[undecided] = last['probabilities']
    stages = np.where(undecided, b'specialist', b'lightweight').astype(object)
    return {
      'probabilities': probabilities,
      'confidence': confidence,
      'stage': stages[:, None],
      'madds': np.where(undecided, *self.madds[::-1])[:, None].astype(np.int64),
    }


def _ask(model, outputs, **inputs):
  """The outputs of another model of this server, by name."""
  response = triton.InferenceRequest(
    model_name=model,
    requested_output_names=outputs,
    inputs=[triton.Tensor(name, values) for name, values in inputs.items()],
    # Where NumPy can read them, even from a model on a GPU.
    preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
  ).exec()
  if response.has_error():
    raise triton.TritonModelException(f'{model}: {response.error().message()}')
  return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
