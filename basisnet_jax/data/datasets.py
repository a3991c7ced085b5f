"""Opens a dataset by name, or says in one sentence why it cannot."""

import dataclasses
import difflib
import os
import pathlib
import re

import numpy as np

from basisnet_jax.data import digits, image_folder
from basisnet_jax.data.quiet_tensorflow import bars, tfds
from basisnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A prepared dataset of images with one label each.

  Attributes:
    name: the name it was opened by.
    builder: the TFDS builder that reads it.
    num_classes: the number of classes.
    label_names: the classes' names, by label.
    splits: {split: number of images}, without empty splits.
  """

  name: str
  builder: tfds.core.DatasetBuilder
  num_classes: int
  label_names: tuple[str, ...]
  splits: dict[str, int]


def open_dataset(name: str, data_dir: str = '') -> Dataset:
  """Opens a dataset; one that is not in `data_dir` yet is fetched and written there.

  Args:
    name: a folder in TFDS's format inside `data_dir` (its newest version, or the one after a
      colon: 'mine:1.0.0'), the name of a TFDS dataset ('cifar10', 'imagenet2012'), 'digits', or a
      folder of photos (`image_folder`), tried in this order. './digits' and '/mine/digits' are
      always folders.
    data_dir: where the datasets are; '' is TFDS's default, ~/tensorflow_datasets.

  Returns:
    The dataset.

  Raises:
    UserError: the name is unknown, the data is missing and cannot be fetched, it cannot be read,
      or it is not a dataset of labelled uint8 images.
  """
  folder = tfds.core.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  if name.startswith(('.', '/', '~')):
    builder = _open_folder(name, tfds.core.Path('.')) or _open_photos(name, folder)
  else:
    builder = _open_folder(name, folder) or _prepare(name, folder)
    if not isinstance(builder, image_folder.ImageFolder) and image_folder.is_image_folder(name):
      print(
        f'data.name={name!r} is the dataset of that name; the photos in the folder {name} are '
        f"data.name='./{name}'."
      )
  _check_features(name, builder)
  info, path = builder.info, builder.data_path
  if info.file_format != tfds.core.FileFormat.TFRECORD:
    raise UserError(
      f'Dataset {name!r} in {path} is in the format {info.file_format.value}, but only tfrecord '
      "can be read: prepare it again with TFDS's file_format='tfrecord'."
    )
  splits = {split: s.num_examples for split, s in info.splits.items() if s.num_examples}
  if not splits:
    raise UserError(f'Dataset {name!r} in {path} has no images: delete that folder and try again.')
  label = info.features['label']
  return Dataset(name, builder, label.num_classes, tuple(label.names), splits)


def _open_folder(name: str, folder: tfds.core.Path) -> tfds.core.DatasetBuilder | None:
  """Opens a dataset that is already on disk; None if there is none."""
  root = folder / os.path.expanduser(name).replace(':', '/')
  versions = [str(version) for version in tfds.core.utils.version.list_all_versions(root)]
  for path in [root, *(root / version for version in reversed(versions))]:
    if name and (path / 'dataset_info.json').exists():
      try:
        return tfds.builder_from_directory(path)
      except Exception as error:  # Whatever is wrong with the files.
        raise UserError(
          f'Dataset {name!r} in {path} cannot be read ({_first_line(error)}): copy or prepare it '
          'again.'
        ) from error
  return None


def _open_photos(name: str, folder: tfds.core.Path) -> tfds.core.DatasetBuilder:
  root = pathlib.Path(name).expanduser()
  if not root.is_dir():
    raise UserError(f'{name} is no folder: name one that has photos, train/cat/1.jpg, ...')
  if not image_folder.is_image_folder(root):
    raise UserError(
      f'{name} is a folder, but has no train/ in it: put the photos of each class into one of '
      'their own, train/cat/1.jpg, or set data.data_dir if it is a dataset of TFDS.'
    )
  return image_folder.prepare(root.resolve(), str(folder))


def _prepare(name: str, folder: tfds.core.Path) -> tfds.core.DatasetBuilder:
  registered = {*tfds.list_builders(with_community_datasets=False), 'digits'}
  if re.split('[/:]', name)[0] not in registered:
    if name and pathlib.Path(name).is_dir():
      return _open_photos(name, folder)
    raise UserError(_unknown(name, folder, registered))
  try:
    if name == 'digits':
      return digits.prepare(str(folder))
    builder = tfds.builder(name, data_dir=str(folder))
    _check_features(name, builder)  # Before gigabytes are fetched in vain.
    _check_manual_files(name, builder, folder)
    with bars(wanted=True):
      builder.download_and_prepare()
    return builder
  except UserError:
    raise
  except Exception as error:  # No network, no space, a damaged file: whatever TFDS meets.
    # If another process has prepared it in the meantime, our last step fails.
    builder = _open_folder(name, folder)
    if builder:
      return builder
    raise UserError(
      f'Dataset {name!r} is not in {folder} and cannot be prepared there '
      f'({_first_line(error)}): mend that, or set data.data_dir to where it is prepared already.'
    ) from error


def _check_features(name: str, builder: tfds.core.DatasetBuilder):
  features = builder.info.features
  features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
  image, label = features.get('image'), features.get('label')
  if (
    isinstance(image, tfds.features.Image)
    and np.dtype(image.np_dtype) == np.uint8
    and isinstance(label, tfds.features.ClassLabel)
    and label.num_classes
  ):
    return
  have = ', '.join(f'{key} ({type(feature).__name__})' for key, feature in sorted(features.items()))
  raise UserError(
    f"Dataset {name!r} has the features {have}, but an 'image' (Image, uint8) and a 'label' "
    '(ClassLabel) are needed: choose a dataset for image classification.'
  )


def _check_manual_files(name: str, builder: tfds.core.DatasetBuilder, folder: tfds.core.Path):
  """Raises a UserError if TFDS needs files that it cannot fetch, and none are there."""
  manual = folder / 'downloads' / 'manual'
  instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if not instructions or builder.data_path.exists() or (manual.exists() and any(manual.iterdir())):
    return
  raise UserError(
    f'Dataset {name!r} is not in {folder} and TFDS cannot fetch it by itself: set data.data_dir to '
    f'where it is prepared already, or put what it is made of into {manual} '
    f'({" ".join(instructions.split()).rstrip(".")}).'
  )


def _unknown(name: str, folder: tfds.core.Path, registered: set[str]) -> str:
  try:
    found = {path.name for path in folder.iterdir() if path.is_dir()}
  except OSError:
    found = set()
  photos = {path.parent.name for path in pathlib.Path().glob('*/train')}
  nearest = difflib.get_close_matches(name, sorted((registered | found | photos) - {name}), n=1)
  hint = f'did you mean {nearest[0]!r}? Else set' if nearest else 'set'
  where = f'{folder} has no dataset of that name in the format of TFDS'
  if not folder.exists():
    where = f'the folder {folder} does not exist'
  return (
    f'Dataset {name!r} is unknown to TFDS, and {where}: {hint} data.data_dir to the folder that '
    'holds it. (Photos are named by their folder, which has train/<class>/*.jpg.)'
  )


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ['']
  line = f'{type(error).__name__}: {lines[0][:200]}'.rstrip('.: ')
  return line + '...' * (len(lines[0]) > 200)
