"""The same layers and networks in PyTorch, which is an extra: `pip install '.[bench]'`.

PyTorch is imported when needed. Its networks are torchvision's, with random weights and channels
last, and run on the device that JAX uses: on CPU in float32, on a GPU in mixed bfloat16. 'grouped'
is the usual trick for kernels per image: the batch becomes groups of one large grouped convolution.
"""

from collections.abc import Callable
import importlib.util
from typing import Any

import jax
import numpy as np

STATIC = 'PyTorch, static'
COMPILED = 'PyTorch, static, compiled'
SPECIALIST = 'PyTorch, grouped, specialist'
BOTH = 'PyTorch, grouped, both stages'
NUM_BASES = 16
PREVIEW_RESOLUTION = 208

Call = Callable[[], Any]


def torch_is_there() -> bool:
  """Whether PyTorch and torchvision are installed."""
  return all(importlib.util.find_spec(name) for name in ('torch', 'torchvision'))


def grouped_convolution(
  images: np.ndarray,
  kernels: np.ndarray,
  stride: int,
  groups: int,
  dtype: str,
  backward: bool,
) -> Call:
  """A convolution with a kernel per image, as one convolution with batch x groups groups.

  Args:
    images: `[b, h, w, i]`.
    kernels: `[b, p, q, i / groups, o]`.
    stride: of rows and columns.
    groups: of channels.
    dtype: 'float32' or 'bfloat16'.
    backward: whether a call also computes the gradients of images and kernels.
  """
  import torch

  b, p, q, inputs, outputs = kernels.shape

  def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(_device(), getattr(torch, dtype))

  x = tensor(images.transpose(0, 3, 1, 2)).reshape(1, -1, *images.shape[1:3])
  kernel = tensor(kernels.transpose(0, 4, 3, 1, 2)).reshape(b * outputs, inputs, p, q)

  def forward():
    padding = (p // 2, q // 2)
    return torch.nn.functional.conv2d(x, kernel, None, stride, padding, groups=b * groups)

  if not backward:
    return _without_gradients(forward)
  x.requires_grad_()
  kernel.requires_grad_()
  dy = torch.ones_like(forward())
  return _waiting(lambda: torch.autograd.grad(forward(), (x, kernel), dy))


def inference(batch: int) -> dict[str, Call]:
  """MobileNetV3-Large, static and with a kernel per image, at 224 pixels."""
  import torch

  x = _images(batch)
  static, two_stages = _static().eval(), _two_stages().to(_device()).eval()
  with torch.inference_mode(), _mixed_precision():
    _, coefficients = two_stages.preview(x)
  calls = {
    STATIC: _without_gradients(lambda: static(x)),
    SPECIALIST: _without_gradients(lambda: two_stages.specialize(x, coefficients)),
    BOTH: _without_gradients(lambda: two_stages(x)),
  }
  run = torch.compile(static)
  return calls | _if_it_compiles(_without_gradients(lambda: run(x)))


def training(batch: int) -> dict[str, Call]:
  """A step of RMSProp with an average of the parameters, as in the recipe."""
  import torch

  static, two_stages = _static(), _two_stages().to(_device())
  calls = {STATIC: _training_step(static, static, batch)}
  calls[BOTH] = _training_step(two_stages, two_stages, batch)
  if _device() == 'cpu':  # Compilation would take minutes.
    return calls
  static = _static()
  return calls | _if_it_compiles(_training_step(static, torch.compile(static), batch))


def _training_step(network, run, batch):
  """A training step; `run` is `network` itself, or compiled."""
  import torch

  network.train()
  x, labels = _images(batch), torch.randint(1000, (batch,), device=_device())
  params = list(network.parameters())
  average = [p.detach().clone() for p in params]
  optimizer = torch.optim.RMSprop(params, 1e-4, 0.9, 1e-3, 1e-5, 0.9, foreach=True)
  cross_entropy = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

  def step():
    optimizer.zero_grad()
    with _mixed_precision():
      outputs = run(x)
      outputs = outputs if isinstance(outputs, tuple) else (outputs,)
      loss = sum(cross_entropy(logits, labels) for logits in outputs)
    loss.backward()
    optimizer.step()
    torch._foreach_lerp_(average, [p.detach() for p in params], 1e-4)

  return _waiting(step)


def _if_it_compiles(call):
  try:
    call()
  except Exception as error:  # It needs a C++ compiler.
    print(f'No compiled PyTorch: {" ".join(str(error).split())[:100]}')
    return {}
  return {COMPILED: call}


def _device():
  return 'cuda' if jax.default_backend() == 'gpu' else 'cpu'


def _images(batch):
  import torch

  return torch.randn(batch, 3, 224, 224, device=_device()).to(memory_format=torch.channels_last)


def _mixed_precision():
  import torch

  return torch.autocast(_device(), torch.bfloat16, enabled=_device() == 'cuda')


def _waiting(run):
  """A call that returns when its work is done, as every call does on CPU."""
  import torch

  def call():
    result = run()
    if _device() == 'cuda':
      torch.cuda.synchronize()
    return result

  return call


def _without_gradients(run):
  import torch

  def call():
    with torch.inference_mode(), _mixed_precision():
      return run()

  return _waiting(call)


def _static():
  import torch
  import torchvision

  network = torchvision.models.mobilenet_v3_large()
  return network.to(_device(), memory_format=torch.channels_last)


def _two_stages():
  import torch
  import torchvision
  from torchvision.ops import SqueezeExcitation

  functional = torch.nn.functional

  class Dynamic(torch.nn.Module):
    """A convolution with bases; `coefficients` are set before it runs."""

    def __init__(self, layer):
      super().__init__()
      self.layer, self.shape = layer, layer.weight.shape
      bases = layer.weight.detach() + 0.1 * torch.randn(NUM_BASES, *self.shape)
      self.bases = torch.nn.Parameter(bases)
      layer.weight = None
      self.coefficients = None

    def forward(self, x):
      kernels = self.coefficients @ self.bases.flatten(1)
      batch, layer = x.shape[0], self.layer
      images = x.contiguous().view(1, -1, *x.shape[2:])
      kernels = kernels.view(-1, *self.shape[1:])
      groups = batch * layer.groups
      y = functional.conv2d(images, kernels, None, layer.stride, layer.padding, groups=groups)
      return y.view(batch, -1, *y.shape[2:])

  def lift(module):
    lifted = []
    for name, child in module.named_children():
      if isinstance(child, SqueezeExcitation):
        continue
      if isinstance(child, torch.nn.Conv2d):
        setattr(module, name, Dynamic(child))
        lifted.append(getattr(module, name))
      else:
        lifted += lift(child)
    return lifted

  class TwoStages(torch.nn.Module):
    """MobileNetV3-Small at 208 pixels, then a MobileNetV3-Large whose layers have bases."""

    def __init__(self):
      super().__init__()
      self.light = torchvision.models.mobilenet_v3_small().to(memory_format=torch.channels_last)
      self.special = torchvision.models.mobilenet_v3_large()
      self.lifted = lift(self.special.features)
      self.head = torch.nn.Linear(1024, len(self.lifted) * NUM_BASES)

    def preview(self, x):
      size = (PREVIEW_RESOLUTION, PREVIEW_RESOLUTION)
      x = functional.interpolate(x, size, mode='bilinear', antialias=True)
      x = self.light.avgpool(self.light.features(x)).flatten(1)
      *hidden, classifier = self.light.classifier
      for layer in hidden:
        x = layer(x)
      coefficients = self.head(x).view(-1, len(self.lifted), NUM_BASES).softmax(-1)
      return classifier(x), coefficients

    def specialize(self, x, coefficients):
      for layer, own in zip(self.lifted, coefficients.unbind(1), strict=True):
        layer.coefficients = own
      return self.special(x)

    def forward(self, x):
      first, coefficients = self.preview(x)
      return first, self.specialize(x, coefficients)

  return TwoStages()
