"""Classes that were renamed since a run began: noticed where numbers would mean others."""

import pytest
import tiny

from basisnet_jax.errors import UserError
from basisnet_jax.training import class_names, evaluator, loop


@pytest.fixture
def workdir(tmp_path):
  (tmp_path / 'labels.txt').write_text('cat\ndog\nfish\n')
  return str(tmp_path)


@pytest.mark.parametrize(
  'names',
  [
    ('cat', 'dog', 'fish'),
    ('Katze', 'Hund', 'Fisch'),  # A person edited labels.txt.
    ('cat', 'hound', 'fish'),
    ('cat', 'dog', 'dog'),
  ],
)
def test_new_names_in_their_old_places_mean_nothing(workdir, names):
  class_names.check(names, workdir)


@pytest.mark.parametrize('names', [('Dog', 'cat', 'fish'), ('dog', 'fish', 'zebra')])
def test_a_name_that_has_moved_is_refused(workdir, names):
  with pytest.raises(UserError, match=r"Class \d of the run in .* is '\w+', and in the data"):
    class_names.check(names, workdir)


def test_a_run_without_names_is_not_checked(tmp_path):
  class_names.check(('cat', 'dog'), str(tmp_path))


def test_neither_training_nor_evaluation_goes_on_with_permuted_classes(tmp_path):
  config = tiny.get_config()
  config.training.steps = 1
  loop.train_and_evaluate(config, str(tmp_path))
  (tmp_path / 'labels.txt').write_text(''.join(f'{i}\n' for i in reversed(range(10))))
  for go_on in (evaluator.evaluate_workdir, loop.train_and_evaluate):
    with pytest.raises(UserError, match="Class 0 of the run .* is '9'"):
      go_on(config, str(tmp_path))
