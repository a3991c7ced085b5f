"""Shares of answers, counted by hand."""

import numpy as np
import pytest

from basisnet_jax.inference import agreement, exporting

IMAGES = np.zeros((4, 1, 1, 3), np.float32)
LABELS = np.array([0, 1, 1, 0])
PROGRAMS = [
  exporting.Program('preview', None, {'images': ()}, ('probabilities', 'confidence')),
  exporting.Program('specialist', None, {'images': (), 'confidence': ()}, ('probabilities',)),
]


def runs(first, confidence, last):
  """Programs that give these labels, and check what they get."""

  def specialist(images, sure):
    np.testing.assert_array_equal(sure, confidence)
    return [np.eye(2)[last]]

  return {'preview': lambda images: [np.eye(2)[first], confidence], 'specialist': specialist}


def test_each_program_goes_its_own_way():
  network = runs([0, 1, 0, 0], np.array([0.9, 0.9, 0.1, 0.1]), [0, 0, 1, 0])
  exported = runs([0, 0, 0, 1], np.array([0.1, 0.9, 0.9, 0.1]), [0, 0, 1, 0])
  exports = {'a file': exported, 'itself': network}
  found = agreement.measure(PROGRAMS, network, exports, [(IMAGES, LABELS)] * 2, 0.9)
  assert [shares.same for shares in found['itself'].values()] == [1.0, 1.0, 1.0]
  found = found['a file']
  assert found == {
    'preview': agreement.Agreement(8, 0.75, 0.25, 0.5),
    'specialist': agreement.Agreement(8, 0.75, 0.75, 1.0),
    # Labels 0 1 1 0 and 0 0 0 0.
    'early exit': agreement.Agreement(8, 1.0, 0.5, 0.5),
  }


def test_one_program_has_no_early_exit():
  network = {'preview': lambda images: [np.eye(2)[[0, 1, 1, 1]], np.ones(4)]}
  found = agreement.measure(PROGRAMS[:1], network, {'': network}, [(IMAGES, LABELS)], 0.5)['']
  assert found == {'preview': agreement.Agreement(4, pytest.approx(0.75), 0.75, 1.0)}
