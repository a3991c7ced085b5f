"""Writes ImageNet (ILSVRC 2012) as TFDS's records, from the two official tar files.

  python launch/prepare_imagenet.py --tars=DIR --data_dir=DIR_OR_BUCKET

--tars holds ILSVRC2012_img_train.tar (147,897,477,120 bytes) and ILSVRC2012_img_val.tar
(6,744,924,160 bytes) as downloaded from image-net.org, on a local disk. --data_dir is the recipes'
data.data_dir; the records go into imagenet2012/5.1.0 in it. That takes about 155 GB, without a
temporary copy. Both may be on one disk.

The records are those of TFDS's own builder: the same, in the same order, in the same files, with
its repairs (one PNG, 22 images in CMYK). TFDS's builder needs the space twice and starts over when
it is interrupted. Here each file is written whole or not at all, and after `kill -9` the same
command continues with the first missing file. The metadata is written last, so that nobody opens
half a dataset.

In order, the script checks the space, then that the tars are complete (headers only: minutes),
writes the records, and reads everything back (checksums, counts, the first record of some files
decoded).

Memory: 1.4 GB. Time: reading each image at its place in the tar, so use an SSD: on a spinning disk
the seeks alone take some hours. A bucket as --data_dir is written with tf.io.gfile; nobody has
tried one yet.
"""

import argparse
import contextlib
import io
import json
import os
import pathlib
import shutil
import sys

import numpy as np

# This file is run as a script: use the package beside it.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import imagenet_records  # noqa: E402
import imagenet_tars  # noqa: E402

from basisnet_jax import data  # noqa: E402
from basisnet_jax.data.quiet_tensorflow import tf, tfds  # noqa: E402
from basisnet_jax.errors import UserError  # noqa: E402
from basisnet_jax.training import workdir_lock  # noqa: E402

IMAGENET = imagenet_tars.Expected(
  classes=1000,
  images={'train': 1_281_167, 'validation': 50_000},
  files={'train': 1024, 'validation': 64},  # By TFDS's rule for these sizes.
)


def prepare(tars: str, data_dir: str, expected: imagenet_tars.Expected) -> None:
  """Writes the dataset, or what is missing from it, and checks it.

  Args:
    tars: the local folder of the two tar files.
    data_dir: the folder of datasets, local or gs://.
    expected: what the tars must hold.

  Raises:
    UserError: a tar is missing, damaged or the wrong one, there is not enough space, another
      process is at work, or what was written cannot be read.
  """
  paths = {split: os.path.join(tars, name) for split, name in imagenet_tars.NAMES.items()}
  builder = tfds.builder('imagenet2012', data_dir=data_dir)
  folder = os.fspath(builder.data_path)
  work = f'{folder}.preparing'
  if tf.io.gfile.exists(os.path.join(folder, 'dataset_info.json')):
    _check_opens(data_dir, expected)
    print(f'{folder} is prepared already.')
    return
  imagenet_tars.check_sizes(paths)
  _make_folders(folder, work)
  with contextlib.ExitStack() as stack:
    try:
      stack.enter_context(workdir_lock.exclusive(work))
    except UserError:
      raise UserError(f'Another process is at work in {work}; wait for its end.') from None
    _check_space(paths, folder)
    shards = {}
    for split, path in paths.items():
      places = _known_places(split, path, builder, expected, work)
      lengths = imagenet_records.lengths(len(places), expected.files[split])
      files = imagenet_records.paths(builder, split, len(lengths))
      shards[split] = list(zip(files, np.split(places, np.cumsum(lengths)[:-1]), strict=True))
    for split, path in paths.items():
      imagenet_records.write(builder, split, shards[split], path)
    for split in paths:
      imagenet_records.check(builder, split, shards[split])
    _write_metadata(builder, shards, work)
  tf.io.gfile.rmtree(work)
  _check_opens(data_dir, expected)
  print(f'{folder} is ready: {_counts(expected)}.\nNext: --config.data.data_dir={data_dir}')


def _make_folders(*folders):
  for folder in folders:
    try:
      tf.io.gfile.makedirs(folder)
    except tf.errors.OpError as error:
      raise UserError(
        f'{folder} cannot be made ({error.message}); choose another --data_dir.'
      ) from error


def _check_space(paths, folder):
  if '://' in folder:
    return  # A bucket cannot be full.
  # A record adds less to an image than the tar does, which pads images to blocks.
  wanted = sum(map(os.path.getsize, paths.values()))
  written = sum(file.stat().st_size for file in os.scandir(folder) if '.tfrecord-' in file.name)
  needed, free = max(0, wanted - written), shutil.disk_usage(folder).free
  print(f'Space: {_gigabytes(needed)} to write, {_gigabytes(free)} free in {folder}.')
  if needed > free:
    raise UserError(
      f'{folder} needs {_gigabytes(needed)} more, and {_gigabytes(free)} are free there: make '
      'room, or choose another --data_dir.'
    )


def _gigabytes(count):
  return f'{count / 1e9:,.3g} GB'


def _known_places(split, path, builder, expected, work):
  """The places of a split's images (`imagenet_tars.places`), found once and kept in `work`."""
  about = os.stat(path)
  tar = json.dumps([os.path.abspath(path), about.st_size, about.st_mtime_ns])
  kept, before = os.path.join(work, f'{split}.npz'), None
  if tf.io.gfile.exists(kept):
    with tf.io.gfile.GFile(kept, 'rb') as file, np.load(io.BytesIO(file.read())) as arrays:
      before = arrays['places']
      if arrays['tar'] == tar:
        return before
  label = builder.info.features['label']
  with imagenet_records.progress(expected.images[split], f'checking {split}') as line:
    places = imagenet_tars.places(split, path, label, expected, line.update)
  if before is not None and not np.array_equal(before, places):
    raise UserError(
      f'{path} is another file than the one that {builder.data_path} was begun with: bring that '
      f'one back, or delete {builder.data_path} and {work}.'
    )
  arrays = io.BytesIO()
  np.savez(arrays, places=places, tar=tar)
  with tf.io.gfile.GFile(f'{kept}.tmp', 'wb') as file:
    file.write(arrays.getvalue())
  tf.io.gfile.rename(f'{kept}.tmp', kept, overwrite=True)
  return places


def _write_metadata(builder, shards, work):
  """Writes TFDS's description of the dataset, last of all."""
  infos = []
  for split, files in shards.items():
    lengths = [len(places) for _, places in files]
    size = sum(tf.io.gfile.stat(path).length for path, _ in files)
    size -= sum(lengths) * 16  # TFRecord's overhead.
    infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size))
  builder.info.set_splits(tfds.core.splits.SplitDict(infos))
  metadata = os.path.join(work, 'metadata')
  tf.io.gfile.makedirs(metadata)
  builder.info.write_to_directory(metadata)
  # The file that makes the folder a dataset comes last.
  for name in sorted(tf.io.gfile.listdir(metadata), key=lambda name: name == 'dataset_info.json'):
    target = os.path.join(os.fspath(builder.data_path), name)
    tf.io.gfile.rename(os.path.join(metadata, name), target, overwrite=True)


def _check_opens(data_dir, expected):
  """Opens the dataset as training does."""
  dataset = data.open_dataset('imagenet2012', data_dir)
  found = {split: dataset.splits.get(split, 0) for split in expected.images}
  for split in expected.images:
    if found[split] != expected.images[split]:
      raise UserError(
        f'{dataset.builder.data_path} holds {found[split]:,} images in {split}, not '
        f'{expected.images[split]:,}; delete it to prepare it again.'
      )
    data.num_images(dataset, split)  # Raises an error if the split cannot be opened.


def _counts(expected):
  return ', '.join(f'{count:,} images in {split}' for split, count in expected.images.items())


def main() -> None:
  """The command-line entry point: a user's mistakes end in a sentence and exit code 2."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tars', required=True, help='The folder of the two tar files.')
  parser.add_argument('--data_dir', required=True, help='Where datasets are, a folder or gs://...')
  arguments = parser.parse_args()
  try:
    prepare(os.path.expanduser(arguments.tars), os.path.expanduser(arguments.data_dir), IMAGENET)
  except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
  except KeyboardInterrupt:
    print('Interrupted; the same command goes on.', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
  main()
