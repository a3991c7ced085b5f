"""A folder of photos as a dataset: `train/<class>/*.jpg`, and other splits beside `train`.

The photos are written once in TFDS's format, upright and at a size that decodes fast, and are then
read like any other dataset. The originals are not changed.
"""

import contextlib
import hashlib
import io
import itertools
import pathlib

from PIL import Image, UnidentifiedImageError

from basisnet_jax import photos as photos_lib
from basisnet_jax.counting import counted
from basisnet_jax.data.quiet_tensorflow import bars, tfds
from basisnet_jax.errors import UserError

# A photo's shorter side, pixels; larger photos are shrunk, as a phone's take 100 ms to decode.
LARGEST = 640
_QUALITY = 95  # JPEG quality of re-encoded photos.


class ImageFolder(tfds.core.GeneratorBasedBuilder):
  """Reads `<root>/<split>/<class>/*`; leaves out and names photos that cannot be read."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, root: pathlib.Path, photos: dict[str, list[pathlib.Path]], **options):
    """`photos` are {split: its photos}."""
    self._root, self._photos, self.unreadable = root, photos, []
    self._classes = _classes(root, photos)
    super().__init__(**options)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=f'The photos of {self._root}.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
          'label': tfds.features.ClassLabel(names=self._classes),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager) -> dict:
    del dl_manager  # Nothing to fetch.
    return {
      split: self._generate_examples(photos) for split, photos in self._photos.items() if photos
    }

  def _generate_examples(self, photos: list[pathlib.Path]):
    lost = len(self.unreadable)
    for path in photos:
      try:
        image = io.BytesIO(encode(path))
      except photos_lib.ERRORS as error:
        self.unreadable.append(f'{photos_lib.as_text(path)} ({error})')
        continue
      yield (
        photos_lib.as_text(path.relative_to(self._root)),
        {'image': image, 'label': path.parent.name},
      )
    if len(self.unreadable) - lost == len(photos):
      raise UserError(
        f'{path.parents[1]}: none of its {counted(len(photos), "photo")} can be read, such as '
        f'{self.unreadable[-1]}.'
      )


def prepare(root: pathlib.Path, data_dir: str) -> ImageFolder:
  """Writes the photos of `root` into `data_dir`, unless the same ones are there already.

  Raises:
    UserError: `root` has no train/ with photos of two classes, a class is not in train/, its name
      is not one line of text, or no photo of a split can be read.
  """
  photos = {split: _photos(root / split) for split in _splits(root)}
  digest = hashlib.sha256()
  for path in itertools.chain.from_iterable(photos.values()):
    about = path.stat(follow_symlinks=path.exists())  # A link may lead to nowhere.
    digest.update(
      f'{photos_lib.as_text(path.relative_to(root))} {about.st_size} {about.st_mtime_ns}\n'.encode()
    )
  folder = pathlib.Path(data_dir).expanduser() / f'{root.name}-{digest.hexdigest()[:12]}'
  builder = ImageFolder(root, photos, data_dir=str(folder))
  if not builder.data_path.exists():
    count = counted(sum(map(len, photos.values())), 'photo')
    print(f'Copying {count} into {folder}, once.', flush=True)
    if deeper := [path for split in photos for path in _photos(root / split, '*/*/**/*')]:
      print(
        f'Left out {counted(len(deeper), "photo")} in folders within those of the classes, such as '
        f'{photos_lib.as_text(deeper[0])}; put photos into the folder of their class.'
      )
  with contextlib.redirect_stdout(io.StringIO()), bars(wanted=True):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
  if builder.unreadable:
    print(f'Left out {counted(len(builder.unreadable), "photo")} that could not be read:')
    print('\n'.join(builder.unreadable[:10]))
  return builder


def encode(path: pathlib.Path) -> bytes:
  """Returns a photo's bytes as they are or, if it is not upright RGB of moderate size, a new JPEG.

  Raises:
    OSError and the others in `photos.ERRORS`: the photo is not readable.
  """
  data = path.read_bytes()
  try:
    opened = Image.open(io.BytesIO(data), formats=photos_lib.KINDS)
  except UnidentifiedImageError as error:
    raise ValueError(photos_lib.unknown(data)) from error
  with opened as image:
    upright = image.getexif().get(photos_lib.ORIENTATION, 1) == 1
    usual = image.format in ('JPEG', 'PNG') and image.mode in ('RGB', 'L') and upright
    usual = usual and not image.has_transparency_data
    image.load()  # A truncated file fails here, not in the middle of training.
    if usual and min(image.size) <= LARGEST:
      return data
    image = photos_lib.upright(image)
    if (shrink := LARGEST / min(image.size)) < 1:
      image = image.resize([round(side * shrink) for side in image.size], Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, 'JPEG', quality=_QUALITY)
    return written.getvalue()


def is_image_folder(root: str | pathlib.Path) -> bool:
  """Whether `root` is a folder that contains train/."""
  return (pathlib.Path(root) / 'train').is_dir()


def _splits(root):
  return sorted(path.name for path in root.iterdir() if path.is_dir() and path.name[0] != '.')


def _photos(folder, pattern='*/*'):
  """The photos in the class folders, sorted; nothing hidden, such as .ipynb_checkpoints."""
  return sorted(
    path
    for path in folder.glob(pattern)
    if path.suffix.lower() in photos_lib.SUFFIXES + photos_lib.UNREAD
    and not any(part[0] == '.' for part in path.relative_to(folder).parts)
  )


def _classes(root, photos):
  found = {split: sorted({path.parent.name for path in paths}) for split, paths in photos.items()}
  classes = found['train']
  if len(classes) < 2:
    raise UserError(
      f'{root / "train"} has photos of less than two classes ({", ".join(classes) or "none"}); '
      'put those of each class into a folder of its own: train/cat/1.jpg, train/dog/2.jpg.'
    )
  for name in classes:
    if photos_lib.as_text(name).splitlines() != [name]:
      raise UserError(
        f'{root / "train"}: {name!r} cannot be the name of a class, which is one line, in UTF-8; '
        'rename the folder.'
      )
  for split, names in found.items():
    if extra := sorted(set(names) - set(classes)):
      raise UserError(
        f'{root / split} has classes that train/ has not ({", ".join(extra[:5])}); make the '
        'names of the folders the same.'
      )
  return tuple(classes)
