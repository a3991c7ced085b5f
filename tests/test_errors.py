"""What libraries say of buckets becomes a sentence; what is no bucket's stays as it is."""

from absl import flags
import pytest
import tensorflow as tf

from basisnet_jax import command_line, errors, predict
from basisnet_jax.errors import UserError
from basisnet_jax.training import trained

SAID = (
  "Error executing an HTTP request: libcurl code 6 meaning 'Could not resolve hostname', error "
  'details: Could not resolve host\n\t when reading metadata of gs://zoo/lion/config.json'
)


@pytest.mark.parametrize(
  'kind', [tf.errors.FailedPreconditionError, tf.errors.PermissionDeniedError]
)
def test_a_bucket_that_cannot_be_reached_is_a_sentence(kind):
  with pytest.raises(UserError) as found, errors.of_buckets():
    raise kind(None, None, SAID)
  told = str(found.value)
  assert told.startswith('gs://zoo/lion/config.json cannot be written or read (Error executing')
  assert told.endswith('look at its name, your rights there and the network.')
  assert '\n' not in told and isinstance(found.value.__cause__, kind)


def test_a_kind_of_bucket_that_there_is_not_is_a_sentence():
  with pytest.raises(UserError, match=r"^ftp:// cannot be written or read \('ftp://'\); look at"):
    predict.load('ftp://zoo/lion')


@pytest.mark.parametrize(
  'error',
  [ValueError(SAID), KeyError('lion'), tf.errors.OutOfRangeError(None, None, 'End of sequence')],
  ids=repr,
)
def test_other_errors_stay_as_they_are(error):
  with pytest.raises(type(error)) as found, errors.of_buckets():
    raise error
  assert found.value is error


def test_runs_in_a_bucket_that_cannot_be_reached_are_a_sentence(monkeypatch):
  def unreachable(*_):
    raise tf.errors.UnavailableError(None, None, SAID)

  monkeypatch.setattr(trained, 'recipe', unreachable)
  monkeypatch.setattr(command_line, 'is_saved', unreachable)
  with pytest.raises(UserError, match='^gs://zoo/lion/config.json cannot be written or read'):
    predict.load('gs://zoo/lion')
  with pytest.raises(UserError, match='^gs://zoo/lion/config.json cannot be written or read'):
    command_line.parse(['program', '--workdir=gs://zoo/lion'], flags.FlagValues())
