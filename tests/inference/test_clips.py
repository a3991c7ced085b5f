"""Frames of every kind of clip, against the pictures that it was made of."""

import os
import sys
import time
import wave

import av
import numpy as np
from PIL import Image
import pytest

from basisnet_jax.errors import UserError
from basisnet_jax.inference import clips

COLORS = [(200, 30, 40), (20, 180, 60), (40, 50, 220)]


@pytest.fixture
def pictures():
  return [Image.new('RGB', (64, 48), color) for color in COLORS]


def assert_colors(frames, colors, tolerance=0):
  assert len(frames) == len(colors)
  for (_, frame), color in zip(frames, colors, strict=True):
    assert frame.mode == 'RGB' and frame.size == (64, 48)
    assert np.abs(np.asarray(frame).astype(int) - color).max() <= tolerance


def test_images_of_a_folder_in_order(tmp_path, pictures):
  for i in (2, 0, 1):
    pictures[i].save(tmp_path / f'{i}.png')
  clip = clips.open_clip(str(tmp_path))
  assert clip.count == 3
  frames = list(clip.frames)
  assert_colors(frames, COLORS)
  assert [name for name, _ in frames] == [str(tmp_path / f'{i}.png') for i in range(3)]
  (tmp_path / '1.png').write_text('no image')
  (_, red), (name, wrong), (_, blue) = clips.open_clip(str(tmp_path)).frames
  assert name in str(wrong) and isinstance(wrong, UserError) and red.size == blue.size
  pictures[1].save(tmp_path / '1.png')
  one = clips.open_clip(str(tmp_path / '1.png'))
  assert_colors(list(one.frames), COLORS[1:2])


def test_one_image_is_read_as_in_a_folder(tmp_path):
  gray = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
  Image.fromarray(gray).save(tmp_path / '1.png')
  ((_, alone),), ((_, among),) = (
    clips.open_clip(str(path)).frames for path in (tmp_path / '1.png', tmp_path)
  )
  np.testing.assert_array_equal(alone, among)
  assert np.ptp(np.asarray(alone)) == 255


def test_numbers_in_names_count_as_numbers(tmp_path, pictures):
  names = ['1/frame_9.png', '1/frame_10.png', '1/frame_010.png', '2.png', '10.png', 'last.png']
  (tmp_path / '1').mkdir()
  for name in reversed(names):
    pictures[0].save(tmp_path / name)
  found = [name for name, _ in clips.open_clip(str(tmp_path)).frames]
  names[1:3] = sorted(names[1:3])
  assert found == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
  'kind, options', [('gif', {}), ('webp', {'lossless': True}), ('avif', {'quality': 100})]
)
def test_animated_images(tmp_path, pictures, kind, options):
  path = tmp_path / f'clip.{kind}'
  pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=50, **options)
  clip = clips.open_clip(str(path))
  assert clip.count == 3 and clip.rate == 20
  assert_colors(list(clip.frames), COLORS, tolerance=3 if kind == 'avif' else 0)


@pytest.mark.parametrize(
  'kind, cut', [('gif', 'pixels'), ('gif', 'palette'), ('gif', 'size'), ('png', 'pixels')]
)
def test_a_clip_that_is_cut_off_gives_its_frames_and_a_sentence(tmp_path, kind, cut):
  random = np.random.default_rng(0)
  pictures = [Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)) for _ in range(4)]
  path, seen = tmp_path / f'clip.{kind}', []
  pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=40)
  written = path.read_bytes()
  length = len(written) * 5 // 8
  if cut in ('palette', 'size'):  # It comes after where the frame is, and how large.
    length = written.index(b',\0\0\0\0\x40\0\x30\0', len(written) * 3 // 8)
    length += 100 if cut == 'palette' else 8
  path.write_bytes(written[:length])
  with pytest.raises(UserError, match=rf'clip\.{kind} is damaged after some frames \('):
    for name, _ in clips.open_clip(str(path)).frames:
      seen.append(name)
  assert seen == ['0', '1']


def test_a_video(tmp_path, pictures):
  path = str(tmp_path / 'clip.mp4')
  with av.open(path, 'w') as container:
    stream = container.add_stream('mpeg4', rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    for picture in pictures:
      container.mux(stream.encode(av.VideoFrame.from_image(picture)))
    container.mux(stream.encode())
  clip = clips.open_clip(path)
  assert (clip.count, clip.rate) == (3, 10)
  assert_colors(list(clip.frames), COLORS, tolerance=12)


def test_a_video_that_ends_before_its_first_frame_gets_a_sentence(tmp_path, pictures):
  path = tmp_path / 'clip.mkv'
  with av.open(str(path), 'w') as container:
    stream = container.add_stream('mpeg4', rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    first = stream.encode(av.VideoFrame.from_image(pictures[0]))
    container.mux(first)
  written = path.read_bytes()
  path.write_bytes(written[: written.index(bytes(first[0]))])
  with pytest.raises(UserError, match=r'clip\.mkv: no frame of this video can be read\.$'):
    list(clips.open_clip(str(path)).frames)


@pytest.mark.parametrize('turn', [90, -90, 180])
def test_a_video_is_turned_as_it_was_filmed(tmp_path, turn):
  picture = Image.new('RGB', (64, 48), 'black')
  picture.paste('red', (0, 0, 32, 24))  # Above, on the left.
  path = str(tmp_path / 'clip.mp4')
  with av.open(path, 'w') as container:
    stream = container.add_stream('mpeg4', rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    stream.set_display_rotation(turn)
    container.mux(stream.encode(av.VideoFrame.from_image(picture)))
    container.mux(stream.encode())
  ((_, frame),) = clips.open_clip(path).frames
  assert frame.size == ((64, 48) if turn == 180 else (48, 64))
  # Counterclockwise: above on the left goes to below on the left.
  corner = {90: (5, -5), -90: (-5, 5), 180: (-5, -5)}[turn]
  x, y = (c % size for c, size in zip(corner, frame.size, strict=True))
  red, green, _ = frame.getpixel((x, y))
  assert red > 200 and green < 60


def test_pace(monkeypatch, pictures):
  slept, now = [], [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])

  def sleep(seconds):
    slept.append(seconds)
    now[0] += seconds

  monkeypatch.setattr(time, 'sleep', sleep)

  def frames():
    now[0] += 5  # Until a decoder has the first.
    yield from enumerate(pictures)

  clip = clips.Clip(frames(), 3, rate=10)
  for _ in clips.paced(clip):
    now[0] += 0.04  # Whoever takes them needs so long.
  assert slept == pytest.approx([0, 0.06, 0.06])


def test_what_videos_need_is_told_as_shells_take_it(tmp_path, monkeypatch):
  (tmp_path / 'clip.mp4').touch()
  monkeypatch.setitem(sys.modules, 'av', None)
  with pytest.raises(UserError, match=r"clip\.mp4: .* pip install 'basisnet_jax\[video\]', or"):
    clips.open_clip(str(tmp_path / 'clip.mp4'))


def test_what_is_no_clip_gets_a_sentence(tmp_path):
  for name in ('clip.mp4', 'clip.gif'):
    (tmp_path / name).write_text('no video')
  with pytest.raises(UserError, match=r'clip\.mp4: not a video that can be read'):
    clips.open_clip(str(tmp_path / 'clip.mp4'))
  with pytest.raises(UserError, match=r'clip\.gif: not readable'):
    clips.open_clip(str(tmp_path / 'clip.gif'))
  with pytest.raises(UserError, match=r'^--video=.*nowhere: no such folder') as refused:
    clips.open_clip(str(tmp_path / 'nowhere'))
  assert '; give a video file, an animated image, or a folder' in str(refused.value)


@pytest.mark.skipif(not os.path.isdir('/proc/self/fd'), reason='Only Linux lists open files so.')
@pytest.mark.parametrize('name', ['sound.wav', 'clip.gif'])
def test_what_is_refused_is_closed(tmp_path, pictures, name):
  path = tmp_path / name
  if name == 'sound.wav':
    with wave.open(str(path), 'wb') as file:
      file.setparams((1, 2, 8000, 0, 'NONE', ''))
      file.writeframes(bytes(1600))
  else:
    pictures[0].save(path)
    path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(UserError, match=r': not ') as refused:  # It holds whatever is still open.
    clips.open_clip(str(path))
  open_files = [os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')]
  assert refused and str(path) not in open_files
