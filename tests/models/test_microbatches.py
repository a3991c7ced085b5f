"""Networks on a few images at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from basisnet_jax.models import microbatches


def recorded(rows):
  """A function that notes how many rows it is given."""

  def function(x, y):
    rows.append(len(x))
    return {'sum': x + y[:, None], 'odd': (y % 2).astype(jnp.int32)}

  return function


@pytest.mark.parametrize(
  'size, most, at_once',
  [(1, None, 1), (8, None, 8), (9, None, 5), (12, None, 6), (32, None, 8), (20, 512, 7), (7, 3, 3)],
)
def test_rows_come_back_in_order(size, most, at_once):
  x = np.arange(3.0 * size).reshape(size, 3)
  y = np.arange(float(size))
  rows = []
  found = jax.jit(lambda *arrays: microbatches.call(recorded(rows), *arrays, most=most))(x, y)
  assert set(rows) == {at_once}
  np.testing.assert_array_equal(found['sum'], x + y[:, None])
  np.testing.assert_array_equal(found['odd'], np.arange(size) % 2)


def test_arrays_without_elements_come_back_such_as_coefficients_of_a_cascade():
  found = microbatches.call(lambda x: (x, x[:, :0, None]), np.arange(40.0).reshape(20, 2), most=8)
  np.testing.assert_array_equal(found[0], np.arange(40.0).reshape(20, 2))
  assert found[1].shape == (20, 0, 1)


@pytest.mark.parametrize('most, at_once', [(None, 20), (512, 20), (10, 10)])
def test_elsewhere_only_what_is_asked_for(most, at_once, monkeypatch):
  monkeypatch.setattr(microbatches.target, 'platform', lambda: 'tpu')
  rows = []
  jax.eval_shape(
    lambda *arrays: microbatches.call(recorded(rows), *arrays, most=most),
    *(jnp.zeros((20, 3)), jnp.zeros(20)),
  )
  assert set(rows) == {at_once}


def test_parts_that_nobody_wants_are_left_out():
  ran = []

  def function(x):
    jax.debug.callback(ran.append, x[0])
    return x + 1.0

  x, wanted = np.arange(32.0), np.isin(np.arange(32), [3, 17])
  found = jax.jit(lambda x, wanted: microbatches.call(function, x, wanted=wanted))(x, wanted)
  jax.effects_barrier()
  assert sorted(map(float, ran)) == [0, 16]
  np.testing.assert_array_equal(found, np.where(np.arange(32) // 8 % 2 == 0, x + 1, 0))
