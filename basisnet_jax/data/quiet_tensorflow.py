"""TensorFlow and TFDS, quiet and without accelerators. Import them from here only.

TensorFlow reads images, nothing else: left alone it would take the accelerators'
memory that JAX needs, and print pages of notes about the processor.
"""

import os

if os.environ.get('TF_CPP_MIN_LOG_LEVEL', '1') == '1':  # JAX sets 1: warnings, too.
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '2'  # Errors only.
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')  # Unused here; when on, it prints two lines.

import tensorflow as tf  # noqa: E402
import tensorflow_datasets as tfds  # noqa: E402

tf.config.set_visible_devices([], 'GPU')
tf.config.set_visible_devices([], 'TPU')

__all__ = ['tf', 'tfds']
