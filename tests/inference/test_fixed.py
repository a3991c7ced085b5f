import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from basisnet_jax.inference import fixed
from basisnet_jax.models import convolution, depthwise_pallas, target


def example():
  model = tiny.basisnet()
  images = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 3)), jnp.float32)
  return model, jax.jit(model.init)(jax.random.key(0), images), images


def test_a_function_of_fixed_weights_does_the_same_on_the_device_that_is_named(monkeypatch):
  model, variables, images = example()
  sizes = sorted(leaf.size for leaf in jax.tree.leaves(variables))
  monkeypatch.setattr(fixed, '_CONSTANT_AT_MOST', sizes[len(sizes) // 2])
  device = jax.devices()[3]
  run = fixed.fix(model.apply, variables, device)
  found = run(jax.device_put(images, device))
  assert found.specialist.devices() == {device}
  for own, wanted in zip(found, jax.jit(model.apply)(variables, images), strict=True):
    np.testing.assert_allclose(own, wanted, rtol=1e-5, atol=1e-6)


def test_small_weights_are_in_the_program_and_large_ones_are_not(monkeypatch):
  monkeypatch.setattr(fixed, '_CONSTANT_AT_MOST', 4)
  variables = {'small': jnp.arange(4.0), 'large': jnp.arange(5.0)}
  run = fixed.fix(lambda v, x: (v['small'].sum() * x, v['large'] + x), variables)
  held = run.args[0]
  assert [leaf.size for leaf in held] == [5]
  found = run(2.0)
  np.testing.assert_allclose(found[0], 12.0)
  np.testing.assert_allclose(found[1], np.arange(5.0) + 2)


def test_products_on_a_cpu_are_those_of_xla():
  run = fixed.fix(lambda v, x: x @ v['w'], {'w': jnp.ones((576, 96))})
  compiled = run.func.lower(*run.args, jnp.ones((49, 576))).compile()
  assert 'ynn' not in compiled.as_text()
  assert target.compiler_options(types.SimpleNamespace(platform='gpu')) is None


def test_kernels_of_gpus_are_used_on_one_device_of_many(monkeypatch):
  monkeypatch.setattr(target, 'platform', lambda: 'gpu')
  seen = []

  def function(variables, x):
    seen.append(depthwise_pallas.suit_the_device())
    return variables['w'] * x

  variables = {'w': np.float32(2)}
  fixed.fix(function, variables)(np.float32(3))  # It might be split over all.
  assert fixed.fix(function, variables, jax.devices()[3])(np.float32(3)) == 6
  assert seen == [False, True]


def test_a_cpu_beside_a_gpu_has_forms_of_its_own(monkeypatch):
  cpu, gpu = jax.devices()[1], types.SimpleNamespace(platform='gpu', compute_capability='9.0')
  monkeypatch.setattr(jax, 'devices', lambda: [gpu])
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  assert depthwise_pallas.suit_the_device()
  random = np.random.default_rng(0)
  kernel, x = (np.float32(random.normal(size=n)) for n in [(3, 3, 1, 4), (2, 6, 6, 4)])
  convolve = functools.partial(convolution.convolve, groups=4)
  run = fixed.fix(lambda kernel, x: convolve(x, kernel), kernel, cpu)
  assert run(x).devices() == {cpu}
  with convolution.form('plain'):
    np.testing.assert_allclose(run(x), convolve(x, kernel), rtol=1e-5, atol=1e-5)
