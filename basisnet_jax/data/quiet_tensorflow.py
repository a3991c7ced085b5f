"""TensorFlow and TFDS, quiet and without accelerators. Import them only from here.

TensorFlow only reads images. By default it would take the accelerator memory that JAX needs, and
print pages of notes about the processor.
"""

import contextlib
import functools
import os
import sys

if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # JAX sets 1, which shows warnings.
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'  # Errors only.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Unused here; if on, it prints two lines.


@contextlib.contextmanager
def _variable(name, value):
  """Sets an environment variable inside the context; None unsets it."""
  before = os.environ.pop(name, None)
  if value is not None:
    os.environ[name] = value
  try:
    yield
  finally:
    os.environ.pop(name, None)
    if before is not None:
      os.environ[name] = before


# Otherwise TensorFlow would import Keras 3, which nothing here uses, and with it scikit-learn and
# pyplot: a third of the time. Afterwards tf.keras is the usual one.
with _variable('TF_USE_LEGACY_KERAS', '1'):
  import tensorflow as tf
import tensorflow_datasets as tfds  # noqa: E402

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')
# Many images are made in parallel, each by one thread; XLA would wake more threads for its ops.
tf.config.threading.set_intra_op_parallelism_threads(1)

# Traces a function for tf.data as it is written: autograph, for branches on tensors, which ours do
# not have, would take a second at the start.
as_written = tf.autograph.experimental.do_not_convert


@contextlib.contextmanager
def bars(*, wanted: bool):
  """Lets TFDS draw bars inside the context if wanted, but only on terminals: logs keep each one."""
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
  """Starts TensorFlow's XLA; call it before running anything with `jit_compile=True`.

  Like JAX's XLA, it reads XLA_FLAGS once and ends the process at an unknown flag. The two are of
  different versions, and the flags are meant for JAX's.
  """
  # Eagerly, even if called while a function is traced.
  with _variable('XLA_FLAGS', None), tf.init_scope():
    tf.function(tf.negative, jit_compile=True, autograph=False)(tf.zeros([]))


__all__ = ['as_written', 'bars', 'start_compiler', 'tf', 'tfds']
