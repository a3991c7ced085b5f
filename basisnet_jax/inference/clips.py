"""Frames of a video, of an animated image, or of images in order of their names."""

from collections.abc import Iterator
import contextlib
import itertools
import os
import re
import struct
import time
from typing import Any, NamedTuple

from PIL import Image

from basisnet_jax import photos
from basisnet_jax.errors import UserError
from basisnet_jax.inference import folder

_ANIMATED = ('.gif', '.webp', '.png', '.apng', '.avif')
_WANTED = 'a video file, an animated image, or a folder or pattern of images'
_RATE = 25.0  # Frames per second, if the source does not say.


class Clip(NamedTuple):
  """Frames and what is known about them.

  Attributes:
    frames: (name, RGB image) of each, read lazily; a UserError takes the place of an image of a
      folder that cannot be read.
    count: how many; None if only reading them tells.
    rate: frames per second.
  """

  frames: Iterator[tuple[str, Image.Image | UserError]]
  count: int | None
  rate: float


def open_clip(source: str) -> Clip:
  """Opens a video file, an animated GIF or WebP, a folder, or a pattern such as `frames/*.png`.

  Raises:
    UserError: there is nothing, or nothing readable; or it is a video and PyAV is not installed.
  """
  if not os.path.isfile(source):
    paths = sorted(folder.files(source, '--video', _WANTED), key=_counting)
    return Clip(((path, _read(path)) for path in paths), len(paths), _RATE)
  if source.lower().endswith(_ANIMATED):
    return _animated(source)
  if source.lower().endswith(photos.SUFFIXES):
    return Clip(iter([(source, photos.read(source))]), 1, _RATE)
  return _video(source)


def paced(clip: Clip) -> Iterator[tuple[str, Image.Image | UserError]]:
  """Yields the frames at the clip's own rate, as a camera would."""
  began = None
  for number, frame in enumerate(clip.frames):
    # The first frame may take long to arrive; the others do not have to make up for it.
    began = time.monotonic() if began is None else began
    time.sleep(max(0, began + number / clip.rate - time.monotonic()))
    yield frame


def _counting(path):
  """Sort key that compares numbers in names by value: 10 after 9."""
  parts = re.split(r'(\d+)', path)  # Text and numbers alternate.
  return [int(part) if i % 2 else part for i, part in enumerate(parts)], path


def _read(path):
  try:
    return photos.read(path)
  except UserError as error:
    return error


def _animated(source):
  try:
    with contextlib.ExitStack() as closing:
      image = closing.enter_context(Image.open(source, formats=photos.KINDS))
      image.load()  # The pace of a WebP is known only now.
      try:
        count = getattr(image, 'n_frames', 1)
      except (IndexError, struct.error):  # A truncated GIF: the frames that are there are read.
        count = None
      closing.pop_all()
  except photos.ERRORS as error:
    raise UserError(f'{source}: not readable ({" ".join(str(error).split())}).') from error

  def frames():
    with image:
      for number in itertools.count() if count is None else range(count):
        try:
          image.seek(number)
          frame = photos.read(image.copy())
        except (EOFError, IndexError, *photos.ERRORS) as error:
          raise _damaged(source, error) from error
        yield f'{number}', frame

  milliseconds = image.info.get('duration') or 1000 / _RATE
  return Clip(frames(), count, 1000 / milliseconds)


def _video(source):
  try:
    import av
  except ImportError as error:
    raise UserError(
      f"{source}: videos are read with PyAV: pip install 'basisnet_jax[video]', or give a folder "
      'of images.'
    ) from error
  try:
    with contextlib.ExitStack() as closing:
      container: Any = closing.enter_context(av.open(source))
      stream = container.streams.video[0]
      closing.pop_all()
  except (av.error.FFmpegError, IndexError) as error:
    raise UserError(f'{source}: not a video that can be read.') from error

  def frames():
    number = -1
    with container:
      try:
        for number, frame in enumerate(container.decode(stream)):
          image = frame.to_image()
          # Phones store frames as the phone was held, and the rotation separately.
          yield f'{number}', image.rotate(frame.rotation, expand=True) if frame.rotation else image
      except av.error.FFmpegError as error:
        raise _damaged(source, error) from error
    if number < 0:
      raise UserError(f'{source}: no frame of this video can be read.')

  return Clip(frames(), stream.frames or None, float(stream.average_rate or _RATE))


def _damaged(source, error):
  return UserError(f'{source} is damaged after some frames ({" ".join(str(error).split())}).')
