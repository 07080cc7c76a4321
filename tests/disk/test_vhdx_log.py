"""VHDX images that a crash has left: their log is replayed in memory, as qemu-img replays it in the file."""

import random
import shutil
import struct
import subprocess

import pytest

from ring3.disk import open_image, vhdx, vhdx_log
from ring3.errors import ConfigError
from vhdx_crashed import log_of, with_its_log

SIZE = 64 << 20


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, timeout=60, check=False, **options)


@pytest.fixture
def crashed(tmp_path):
    """An image whose writer died before it said that all of the log is in its place."""
    if shutil.which("qemu-io") is None:
        pytest.skip("qemu-io is not installed: scripts/setup test installs it")
    path = tmp_path / "disk.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", "block_size=1M", path, str(SIZE))
    writes = [f"write -P {n + 1} {n * 5}M 1M" for n in range(12)]
    run("qemu-io", "-f", "vhdx", *(word for write in writes for word in ("-c", write)), path)
    path.write_bytes(with_its_log(path.read_bytes()))
    return path


def block_table_of(data):
    at = vhdx.REGIONS_AT[0]
    for n in range(2):
        kind, offset, length, _ = struct.unpack_from("<16sQII", data, at + 16 + 32 * n)
        if kind == vhdx.BAT:
            return offset, length
    raise AssertionError


def forget_block_table(path):
    """As if nothing of it had got to its place."""
    data = bytearray(path.read_bytes())
    offset, _ = block_table_of(data)
    data[offset : offset + 4096] = random.Random(1).randbytes(4096)
    path.write_bytes(data)


def repaired(path, tmp_path):
    """What qemu-img makes of it."""
    copy = tmp_path / "repaired.vhdx"
    shutil.copy(path, copy)
    assert run("qemu-img", "check", "-q", "-r", "all", "-f", "vhdx", copy).returncode == 0
    run("qemu-img", "convert", "-f", "vhdx", "-O", "raw", copy, tmp_path / "raw")
    return (tmp_path / "raw").read_bytes()


@pytest.mark.parametrize("change", [lambda path: None, forget_block_table], ids=["written", "not written"])
def test_a_log_is_replayed_as_qemu_does(crashed, tmp_path, change):
    change(crashed)
    before = crashed.read_bytes()
    image = open_image(crashed, read_only=True)
    data = image.read(0, SIZE)
    image.close()
    assert data[:1] == b"\x01"
    assert data == repaired(crashed, tmp_path)
    assert crashed.read_bytes() == before


def test_a_damaged_log_is_refused(crashed):
    data = bytearray(crashed.read_bytes())
    offset, length = log_of(data)
    for at in range(offset, offset + length, 4096):
        data[at + 100] ^= 1
    crashed.write_bytes(data)
    with pytest.raises(ConfigError, match="its log is damaged"):
        open_image(crashed, read_only=True)


def test_a_file_that_is_shorter_than_its_log_knew_is_refused(crashed):
    crashed.write_bytes(crashed.read_bytes()[: 5 << 20])
    with pytest.raises(ConfigError, match="truncated"):
        open_image(crashed, read_only=True)


# --- logs made here ---

GUID = bytes(range(16))
LOG_BYTES = 16 * 4096


def entry(sequence, tail, *changes, guid=GUID):
    """`changes`: (offset, 4096 bytes), or (offset, length) for zeros."""
    descriptors, sectors = b"", b""
    for offset, what in changes:
        if isinstance(what, int):
            descriptors += vhdx_log.DESCRIPTOR.pack(b"zero", 0, what, offset, sequence)
            continue
        leading, body, trailing = struct.unpack("<Q4084sI", what)
        descriptors += vhdx_log.DESCRIPTOR.pack(b"desc", trailing, leading, offset, sequence)
        sectors += vhdx_log.SECTOR.pack(b"data", sequence >> 32, body, sequence & 0xFFFF_FFFF)
    size = 64 + len(descriptors)
    length = -(-size // 4096) * 4096 + len(sectors)
    head = vhdx_log.ENTRY.pack(b"loge", 0, length, tail, sequence, len(changes), 0, guid, 0, 1 << 20)
    data = bytearray((head + descriptors).ljust(length - len(sectors), b"\0") + sectors)
    struct.pack_into("<I", data, 4, vhdx.checksum(data))
    return bytes(data)


def log(*placed):
    data = bytearray(LOG_BYTES)
    for at, each in placed:
        for n in range(0, len(each), 4096):
            start = (at + n) % LOG_BYTES
            data[start : start + 4096] = each[n : n + 4096]
    return vhdx_log.Log(bytes(data), GUID, vhdx.intact)


def numbers(entries):
    return [each.sequence for each in entries]


def test_the_sequence_with_the_highest_number_is_replayed():
    old, new = entry(3, 0, (0, b"a" * 4096)), entry(9, 3 * 4096, (0, b"b" * 4096))
    assert numbers(log((0, old), (3 * 4096, new)).active()) == [9]


def test_entries_of_another_log_do_not_count():
    stranger = entry(10, 8192, (0, b"a" * 4096), guid=bytes(16))
    assert numbers(log((0, entry(9, 0, (0, b"a" * 4096))), (8192, stranger)).active()) == [9]


def test_a_sequence_goes_around_the_buffers_end():
    first, second = entry(5, 14 * 4096, (0, b"a" * 4096)), entry(6, 14 * 4096, (0, b"b" * 4096))
    assert numbers(log((14 * 4096, first), (0, second)).active()) == [5, 6]


def test_an_entry_goes_around_the_buffers_end():
    long = entry(5, 14 * 4096, (0, b"a" * 4096), (4096, b"b" * 4096), (8192, b"c" * 4096))
    (found,) = log((14 * 4096, long)).active()
    assert [offset for offset, _ in vhdx_log.changes(found)] == [0, 1, 2]


def test_entries_before_the_tail_are_in_their_place_already():
    first, second = entry(5, 0, (0, b"a" * 4096)), entry(6, 8192, (0, b"b" * 4096))
    assert numbers(log((0, first), (8192, second)).active()) == [6]


def test_a_change_is_put_together_of_its_three_parts():
    what = random.Random(2).randbytes(4096)
    (found,) = log((0, entry(1 << 33, 0, (12288, what), (0, 8192)))).active()
    assert list(vhdx_log.changes(found)) == [(3, what), (0, bytes(4096)), (1, bytes(4096))]
