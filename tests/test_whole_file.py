"""Files written whole: two processes write, one reads."""

import multiprocessing

import pytest

from basisnet_jax import whole_file

_SIZE = 2_000_000  # Bytes; more than one write of the system.


def _write_often(path, letter, times):
  for _ in range(times):
    whole_file.write(path, letter * _SIZE)


def test_two_writers_never_show_a_reader_half_a_file_or_stand_in_each_others_way(tmp_path):
  path = tmp_path / 'folder' / 'results.md'
  spawn = multiprocessing.get_context('spawn')
  writers = [spawn.Process(target=_write_often, args=(path, letter, 60)) for letter in 'ab']
  for writer in writers:
    writer.start()
  reads = set()
  while any(writer.is_alive() for writer in writers):
    if path.exists():
      text = path.read_text()
      reads.add((text[:1], text == text[:1] * _SIZE))
  assert [writer.exitcode for writer in writers] == [0, 0]
  assert reads and reads <= {('a', True), ('b', True)}
  assert list(path.parent.iterdir()) == [path]


def test_content_is_text_or_bytes(tmp_path):
  whole_file.write(tmp_path / 'a', 'ä')
  whole_file.write(tmp_path / 'b', b'\xff')
  assert (tmp_path / 'a').read_bytes() == 'ä'.encode()
  assert (tmp_path / 'b').read_bytes() == b'\xff'


def test_failed_write_leaves_no_part(tmp_path):
  (tmp_path / 'folder').mkdir()
  with pytest.raises(OSError):
    whole_file.write(tmp_path / 'folder', 'where a folder is')
  assert list(tmp_path.iterdir()) == [tmp_path / 'folder']
