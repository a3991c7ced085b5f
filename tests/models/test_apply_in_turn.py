"""A preview that runs again for its gradients, against one whose activations are kept."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import jit, normal
import tiny

from basisnet_jax import models
from basisnet_jax.models import basisnet, target
from basisnet_jax.models.coefficients import Annealed

IMAGES = normal(0, (4, 8, 8, 3))
NETWORKS = {
  'basisnet': tiny.basisnet(dropout=0.5).clone(basis_dropout=0.3, refine=0.5),
  'cascade': models.create(
    'cascade', lightweight=tiny.TinyNetwork(), specialist=tiny.TinyNetwork(), resolution=8
  ),
  # No batch normalisation, so no statistics.
  'dense': models.create(
    'basisnet',
    lightweight=nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(10)]),
    specialist=tiny.TinyNetwork(),
    resolution=8,
    num_bases=2,
  ),
}


def losses(outputs):
  return sum((logits**2).sum() for logits in (outputs.lightweight, outputs.specialist))


@pytest.mark.parametrize('platform', ['cpu', 'tpu'])  # The others have JAX see to it.
@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_statistics_and_gradients_are_the_same(monkeypatch, name, platform):
  monkeypatch.setattr(target, 'platform', lambda: platform)
  model = NETWORKS[name]
  variables = model.init(jax.random.key(0), IMAGES)
  rest = {'annealed': Annealed(jnp.float32(0.3)), 'rngs': {'dropout': jax.random.key(1)}}

  def kept(variables):
    return model.apply(variables, IMAGES, train=True, mutable=['batch_stats'], **rest)

  def again(variables):
    return basisnet.apply_in_turn(model, variables, IMAGES, **rest)

  def gradients(run):
    def loss(params):
      outputs, updates = run(variables | {'params': params})
      return losses(outputs), (outputs, updates.get('batch_stats', {}))

    return jit(jax.grad(loss, has_aux=True))(variables['params'])

  found, wanted = map(gradients, (again, kept))
  assert any(leaf.any() for leaf in jax.tree.leaves(found[0]['lightweight']))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), found, wanted)
