"""Image input: datasets, and batches of them for training and evaluation."""

from basisnet_jax.data.autoaugment import create_policy
from basisnet_jax.data.datasets import Dataset, open_dataset
from basisnet_jax.data.pipeline import (
  CROPS,
  eval_batches,
  num_common_images,
  num_images,
  train_batches,
  train_records,
)

__all__ = [
  'CROPS',
  'Dataset',
  'create_policy',
  'eval_batches',
  'num_common_images',
  'num_images',
  'open_dataset',
  'train_batches',
  'train_records',
]
