"""TensorFlow and TFDS, quiet and without accelerators. Import them from here only.

TensorFlow reads images, nothing else: left alone it would take the accelerators'
memory that JAX needs, and print pages of notes about the processor.
"""

import contextlib
import functools
import os
import sys

if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # JAX sets 1: warnings, too.
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'  # Errors only.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Unused here; when on, it prints two lines.


@contextlib.contextmanager
def _variable(name, value):
  """While inside, the environment's variable has this value; None: it is not set."""
  before = os.environ.pop(name, None)
  if value is not None:
    os.environ[name] = value
  try:
    yield
  finally:
    os.environ.pop(name, None)
    if before is not None:
      os.environ[name] = before


# It would import Keras 3, which nothing here uses, and with it scikit-learn and pyplot: a third of
# the time. Afterwards tf.keras is what it is elsewhere.
with _variable('TF_USE_LEGACY_KERAS', '1'):
  import tensorflow as tf
import tensorflow_datasets as tfds  # noqa: E402

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')
# Many images are made at a time, each by one thread: XLA would wake others for its operations.
tf.config.threading.set_intra_op_parallelism_threads(1)

# A function for tf.data, traced as it is written: rewriting it first, for branches on tensors that
# none of ours has, would take a second at the start.
as_written = tf.autograph.experimental.do_not_convert


@contextlib.contextmanager
def bars(*, wanted: bool):
  """While inside, TFDS draws bars if wanted, on terminals: a log would hold every redrawn one."""
  shown = wanted and sys.stderr.isatty()
  if not shown:
    tfds.disable_progress_bar()
  try:
    yield
  finally:
    if not shown:
      tfds.enable_progress_bar()


@functools.cache
def start_compiler() -> None:
  """Readies TensorFlow's XLA, before anything is run that has `jit_compile=True`.

  Like JAX's it reads XLA_FLAGS, once, and ends the process at a flag that it does not know. They
  are two versions, and the flags are meant for JAX's.
  """
  # Now, though it may be asked for inside a function that is traced.
  with _variable('XLA_FLAGS', None), tf.init_scope():
    tf.function(tf.negative, jit_compile=True, autograph=False)(tf.zeros([]))


__all__ = ['as_written', 'bars', 'start_compiler', 'tf', 'tfds']
