"""Raw images, and how images are opened and locked."""

import os

import pytest

from ring3.disk import create_image, open_image
from ring3.errors import ConfigError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 16)
    return path


def test_reads_what_the_file_holds(path):
    image = open_image(path)
    assert image.size_bytes == 4096
    assert image.read(255, 3) == b"\xff\0\1"


def test_what_is_written_is_in_the_file(path):
    image = open_image(path)
    image.write(512, b"abc")
    image.flush()
    image.close()
    assert path.read_bytes()[510:516] == b"\xfe\xffabc\x03"


def test_a_file_of_odd_size_gets_zeros_to_a_whole_sector(path):
    path.write_bytes(b"x" * 513)
    image = open_image(path, read_only=True)
    assert image.size_bytes == 1024
    assert image.read(512, 512) == b"x" + bytes(511)
    assert image.read_now(512, 512) in (None, b"x" + bytes(511))


def test_a_file_that_shrinks_behind_us_reads_as_zeros(path):
    image = open_image(path)
    os.truncate(path, 100)
    assert image.read(0, 512) == bytes(range(100)) + bytes(412)


def test_discarded_bytes_read_as_zeros_and_take_no_space(path):
    path.write_bytes(b"x" * (1 << 20))
    image = open_image(path)
    image.discard(4096, (1 << 20) - 8192)
    assert image.read(4095, 2) == b"x\0"
    assert image.read((1 << 20) - 4097, 2) == b"\0x"
    assert path.stat().st_blocks * 512 < 1 << 16


def test_discard_writes_zeros_where_the_host_cannot_punch_holes(path, monkeypatch):
    image = open_image(path)
    monkeypatch.setattr(image.file, "punch", lambda offset, length: False)
    image.discard(1, 4000)
    assert image.read(0, 4096) == b"\0" + bytes(4000) + bytes(range(256))[0xA1:]


def test_a_second_writer_is_refused(path):
    image = open_image(path)
    with pytest.raises(ConfigError, match="in use by another machine"):
        open_image(path)
    with pytest.raises(ConfigError, match="in use by another machine"):
        open_image(path, read_only=True)
    image.close()
    open_image(path).close()


def test_readers_share_an_image_and_bear_no_writer(path):
    first, second = open_image(path, read_only=True), open_image(path, read_only=True)
    with pytest.raises(ConfigError, match="in use by another machine"):
        open_image(path)
    first.close()
    second.close()
    open_image(path).close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "disk: .*missing: no such file"),
        ("directory", "disk: .*directory is a directory"),
        ("empty", "disk: .*empty is empty"),
        ("fifo", "disk: .*fifo is neither a file nor a block device"),
        ("nul\0", "disk: .* is no path"),
        ("not-mine/file", "disk: .*: Not a directory"),
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_cannot_be_opened_is_one_line(tmp_path, name, message, read_only):
    (tmp_path / "directory").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "not-mine").touch()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match=message) as error:
        open_image(f"{tmp_path}/{name}", read_only=read_only)
    assert "\n" not in str(error.value)


def test_an_image_without_write_permission_is_refused_for_writing(path, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError, match="cannot be written: make it writable, or attach it read-only"):
        open_image(path)


def test_an_unknown_format_is_refused_by_name(path):
    with pytest.raises(ConfigError, match="'zip' is no format of images: give one of raw"):
        open_image(path, format="zip")


def test_a_created_image_is_sparse_and_never_replaces_a_file(tmp_path):
    create_image(tmp_path / "new.img", 1 << 30)
    image = open_image(tmp_path / "new.img")
    assert image.size_bytes == 1 << 30
    assert (tmp_path / "new.img").stat().st_blocks == 0
    with pytest.raises(ConfigError, match="exists already"):
        create_image(tmp_path / "new.img", 1 << 20)
