"""Tiny datasets on the disk, opened; and the two ways of reading them."""

import pytest
from tiny_datasets import CorruptImages, JpegImages, PngImages

from basisnet_jax.data import open_dataset, records
from basisnet_jax.data.quiet_tensorflow import tfds


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  """A folder with jpeg_images (5 files), png_images and corrupt_images."""
  folder = tmp_path_factory.mktemp('datasets')
  tfds.disable_progress_bar()
  for builder_class, num_shards in ((JpegImages, 5), (PngImages, 1), (CorruptImages, 1)):
    builder_class(data_dir=str(folder)).download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        num_shards=num_shards, min_shard_size=1, try_download_gcs=False
      )
    )
  tfds.enable_progress_bar()
  return str(folder)


@pytest.fixture
def jpeg_images(data_dir):
  return open_dataset('jpeg_images', data_dir)


@pytest.fixture(params=['in memory', 'from files'])
def storage(request, monkeypatch):
  """Runs a test both ways of reading; tiny datasets are held in memory otherwise."""
  if request.param == 'from files':
    monkeypatch.setattr(records, 'IN_MEMORY_BYTES', 0)
  return request.param
