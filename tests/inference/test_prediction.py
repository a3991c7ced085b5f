import json

import numpy as np
import pytest

from basisnet_jax.inference.prediction import Prediction, prediction
from basisnet_jax.models.cost import Cost, Layer


def cost(lightweight):
  return Cost([Layer('a', (1,), 70, 0), Layer('b', (1,), 30, 0)], lightweight, 0)


@pytest.mark.parametrize(
  'lightweight, exited, stage, madds',
  [
    (10, True, 'lightweight', 10),
    (10, False, 'specialist', 100),
    (None, False, 'network', 100),
  ],
)
def test_who_answered_and_for_what_cost(lightweight, exited, stage, madds):
  found = prediction(
    np.array([0.25, 0.5, 0.125]), np.float32(0.75), np.bool_(exited),
    labels=['a', 'b', 'c'], cost=cost(lightweight), top_k=2,
  )  # fmt: skip
  assert found == Prediction(('b', 'a'), (0.5, 0.25), stage, 0.75, madds)
  assert json.loads(json.dumps(found)) == [['b', 'a'], [0.5, 0.25], stage, 0.75, madds]


def test_classes_alike_come_in_their_own_order_and_no_more_than_there_are():
  found = prediction(np.array([0.25, 0.5, 0.25]), 0.5, True, labels='xyz', cost=cost(10), top_k=9)
  assert found.labels == ('y', 'x', 'z')
