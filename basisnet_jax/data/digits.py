"""scikit-learn's handwritten digits as a TFDS dataset: real images, no download."""

import contextlib
import io

import numpy as np

from basisnet_jax.data.quiet_tensorflow import bars, tfds
from basisnet_jax.errors import UserError


class Digits(tfds.core.GeneratorBasedBuilder):
  """1,797 gray images of 8x8 pixels in 10 classes: 1,437 for training, 360 for testing."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description="scikit-learn's handwritten digits (the test set of UCI's optical digits).",
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager) -> dict:
    del dl_manager  # Nothing to fetch.
    return {name: self._generate_examples(name) for name in ('train', 'test')}

  def _generate_examples(self, split: str):
    images, labels, in_test = load()
    for index in np.flatnonzero(in_test == (split == 'test')):
      yield int(index), {'image': images[index], 'label': int(labels[index])}


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Reads the digits from scikit-learn.

  Returns:
    Images, uint8 [1797, 8, 8, 1]; labels, int [1797]; and whether each image belongs to
    the test split, bool [1797]: every fifth of each class.

  Raises:
    UserError: scikit-learn is not installed.
  """
  try:
    from sklearn import datasets
  except ImportError as error:
    raise UserError(
      "Dataset 'digits' comes with scikit-learn, which is not installed: "
      "pip install 'basisnet_jax[demo]'."
    ) from error
  digits = datasets.load_digits()
  images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
  in_test = np.zeros(len(images), bool)
  in_test[np.argsort(digits.target, kind='stable')[::5]] = True
  return images, digits.target, in_test


def prepare(data_dir: str) -> Digits:
  """Writes the dataset silently into `data_dir` unless it is already there.

  Raises:
    UserError: scikit-learn is not installed.
    OSError: the folder cannot be written, or another process wrote it at the same time.
  """
  load()  # TFDS would wrap the error.
  builder = Digits(data_dir=data_dir)
  with contextlib.redirect_stdout(io.StringIO()), bars(wanted=False):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  return builder
