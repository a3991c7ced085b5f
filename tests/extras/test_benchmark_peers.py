"""The benchmarks' peers compute what ours do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from basisnet_jax.models import convolution
from basisnet_jax.training import experiment
from benchmarks import layer as layers
from benchmarks import ours, peers

CASES = [
  layers.Layer(9, 6, 10, 1),
  layers.Layer(9, 6, 6, 3, 1, 6),
  layers.Layer(9, 6, 6, 5, 2, 6),
  layers.Layer(9, 6, 10, 3),
]


def arrays(layer):
  random = np.random.default_rng(0)
  images = random.normal(size=(3, layer.size, layer.size, layer.inputs)).astype(np.float32)
  shape = (3, layer.kernel, layer.kernel, layer.inputs // layer.groups, layer.outputs)
  return images, random.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize('layer', CASES, ids=str)
def test_a_grouped_convolution_is_our_layer(layer):
  images, kernels = arrays(layer)
  pads = ((layer.kernel // 2,) * 2,) * 2  # PyTorch's; SAME pads less where the stride is 2.

  def run(x, kernel):
    strides = (layer.stride,) * 2
    return convolution.convolve(x, kernel, strides=strides, padding=pads, groups=layer.groups)

  wanted, back = jax.vjp(run, jnp.asarray(images), jnp.asarray(kernels))
  of_images, of_kernels = back(jnp.ones_like(wanted))
  sizes = (layer.stride, layer.groups, 'float32')
  found = peers.grouped_convolution(images, kernels, *sizes, backward=False)()
  b, height, width, outputs = wanted.shape
  found = found.reshape(b, outputs, height, width).numpy()
  np.testing.assert_allclose(found.transpose(0, 2, 3, 1), wanted, rtol=1e-4, atol=1e-4)

  dx, dkernel = peers.grouped_convolution(images, kernels, *sizes, backward=True)()
  dx = dx.reshape(b, layer.inputs, *images.shape[1:3]).numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(dx, of_images, rtol=1e-4, atol=1e-4)
  dkernel = dkernel.reshape(b, outputs, *kernels.shape[3:4], *kernels.shape[1:3])
  dkernel = dkernel.numpy().transpose(0, 3, 4, 2, 1)
  np.testing.assert_allclose(dkernel, of_kernels, rtol=1e-4, atol=1e-3)


def test_the_grouped_network_has_our_layers_and_gives_each_image_what_it_gets_alone():
  network = peers._two_stages().eval()
  model = experiment.build_model(ours.recipe())
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))['params']
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  bases = [leaf.size // 16 for path, leaf in leaves if path[-1].key == 'bases']
  assert sorted(bases) == sorted(layer.shape.numel() for layer in network.lifted)
  images = torch.randn(2, 3, 224, 224)
  with torch.inference_mode():
    first, final = network(images)
    alone = network(images[1:])
  assert first.shape == final.shape == (2, 1000)
  np.testing.assert_allclose(final[1:], alone[1], rtol=1e-3, atol=1e-4)
