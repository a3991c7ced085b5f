"""Finds each image in the two tar files of ImageNet, and checks that none is missing."""

from collections.abc import Callable
from concurrent import futures
import dataclasses
import os
import re
import tarfile

import numpy as np
from tensorflow_datasets.core import hashing

from basisnet_jax.data.quiet_tensorflow import tfds
from basisnet_jax.errors import UserError

NAMES = {'train': 'ILSVRC2012_img_train.tar', 'validation': 'ILSVRC2012_img_val.tar'}
_OFFICIAL_BYTES = {'train': 147_897_477_120, 'validation': 6_744_924_160}
# Parallel reads, which wait for the disk more than for the processor.
READERS = 16
_BLOCK = 512  # Bytes in a block of a tar file.
# An image's name, the position of its bytes in the tar, and its class.
PLACE = np.dtype([('name', 'S64'), ('offset', 'i8'), ('size', 'i8'), ('label', 'i4')])


@dataclasses.dataclass(frozen=True)
class Expected:
  """What the tars must hold, and the number of files to write.

  Attributes:
    classes: number of archives in the training tar.
    images: {split: number of images}.
    files: {split: number of record files}.
  """

  classes: int
  images: dict[str, int]
  files: dict[str, int]


def check_sizes(paths: dict[str, str]) -> None:
  """Raises a UserError if a tar is missing or empty; `paths` is {split: tar}."""
  for split, path in paths.items():
    if not os.path.isfile(path):
      raise UserError(
        f'{path} is not there: put the two files {" and ".join(NAMES.values())} of image-net.org '
        'into one folder and give it by --tars.'
      )
    if os.path.getsize(path) < 2 * _BLOCK:
      raise UserError(f'{path} is empty; {_fetch_again(split, path)}')


def places(
  split: str,
  path: str,
  label: tfds.features.ClassLabel,
  expected: Expected,
  progress: Callable[[int], None],
) -> np.ndarray:
  """Finds every image in a tar by the headers, without reading the images.

  Args:
    split: 'train' or 'validation'.
    path: the tar.
    label: the classes.
    expected: the numbers of classes and images that there must be.
    progress: called with the number of images found so far.

  Returns:
    Array of `PLACE`, in the order in which TFDS's builder writes the images.

  Raises:
    UserError: the tar is damaged or truncated, is the wrong one, or is incomplete.
  """
  find = _training_places if split == 'train' else _validation_places
  found = find(path, label, expected, progress)
  if len(set(found['name'].tolist())) < len(found):
    raise UserError(f'{path} holds two images of the same name; {_fetch_again(split, path)}')
  hasher = hashing.Hasher(split)
  return found[np.argsort([f'{hasher.hash_key(name):032x}' for name in found['name'].tolist()])]


def _training_places(path, label, expected, progress):
  """The places in the training tar, which contains a tar for each class."""
  classes = _members('train', path)
  known = set(label.names)
  for name, *_ in classes:
    if not name.endswith('.tar') or name[:-4] not in known:
      raise UserError(
        f'{path} holds {name!r} where the archives of the 1,000 classes (n01440764.tar, ...) were '
        f'expected: this is another file under the name {NAMES["train"]}.'
      )
  _check_count('train', path, 'classes', len({name for name, *_ in classes}), expected.classes)

  def look_into(member):
    name, offset, size = member
    images = _members('train', path, offset, size)
    for image, *_ in images:
      if not re.fullmatch(rf'{name[:-4]}_\d+\.JPEG', image):
        raise UserError(f'{path} holds {image!r} in {name}; {_fetch_again("train", path)}')
    return [(*image, label.str2int(name[:-4])) for image in images]

  found = []
  with futures.ThreadPoolExecutor(READERS) as pool:
    for images in pool.map(look_into, classes):
      found += images
      progress(len(found))
  _check_count('train', path, 'images', len(found), expected.images['train'])
  return np.array(found, PLACE)


def _validation_places(path, label, expected, progress):
  """The places in the validation tar; TFDS has the labels, in the order of the images' names."""
  images = sorted(_members('validation', path))
  for name, *_ in images:
    if not re.fullmatch(r'ILSVRC2012_val_\d{8}\.JPEG', name):
      raise UserError(
        f'{path} holds {name!r} where images (ILSVRC2012_val_00000001.JPEG, ...) were expected: '
        f'this is another file under the name {NAMES["validation"]}.'
      )
  progress(len(images))
  _check_count('validation', path, 'images', len(images), expected.images['validation'])
  labels = tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt').read_text().split()
  return np.array(
    [
      (*image, label.str2int(wnid))
      for image, wnid in zip(images, labels[: len(images)], strict=True)
    ],
    PLACE,
  )


def _members(split, path, start=0, size=None):
  """(name, offset, size) of each file in a tar, which may be part of another tar.

  Reads the headers and the end, and raises a UserError unless the tar is complete.
  """
  whole = os.path.getsize(path) if size is None else start + size

  def damaged(at, why):
    return UserError(f'{path} is damaged at byte {at:,} ({why}); {_fetch_again(split, path)}')

  with open(path, 'rb') as file:
    file.seek(start)
    try:
      with tarfile.open(fileobj=file, mode='r:') as tar:
        members = tar.getmembers()
    except tarfile.TarError as error:
      raise damaged(min(file.tell(), whole), error) from error
    end = start
    for member in members:
      end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
      if end > whole:
        raise damaged(whole, f'it stops within {member.name!r}')
      if not member.isreg():
        raise damaged(member.offset, f'{member.name!r} is no file')
    file.seek(end)
    # Every tar ends with two blocks of zeros.
    if end + 2 * _BLOCK > whole or file.read(2 * _BLOCK).strip(b'\0'):
      raise damaged(end, 'the end of the archive is missing')
  return [(member.name, member.offset_data, member.size) for member in members]


def _check_count(split, path, what, found, wanted):
  if found != wanted:
    raise UserError(f'{path} has {found:,} {what}, not {wanted:,}; {_fetch_again(split, path)}')


def _fetch_again(split, path):
  return (
    f'fetch it again (the official {NAMES[split]} has {_OFFICIAL_BYTES[split]:,} bytes, this one '
    f'{os.path.getsize(path):,}).'
  )
