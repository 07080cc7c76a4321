"""The embedded guest's image, as far as it can be checked without running it (Multiboot 1, §3.1)."""

import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAGIC = 0x1BADB002
ADDRESS_FIELDS = 1 << 16
HEADER_WITHIN = 8192  # bytes


@pytest.fixture(scope="module")
def image() -> bytes:
    subprocess.run([ROOT / "guests/build"], check=True)
    return (ROOT / "src/ring3/firmware/embedded_guest.bin").read_bytes()


@pytest.fixture(scope="module")
def header(image: bytes) -> tuple[int, ...]:
    at = image.find(struct.pack("<I", MAGIC))
    assert 0 <= at < HEADER_WITHIN
    assert at % 4 == 0
    return (at, *struct.unpack_from("<8I", image, at))


def test_header_sums_to_zero(header: tuple[int, ...]) -> None:
    _, magic, flags, checksum, *_ = header
    assert (magic + flags + checksum) % (1 << 32) == 0
    assert flags & ADDRESS_FIELDS


def test_load_addresses_cover_the_whole_file(image: bytes, header: tuple[int, ...]) -> None:
    at, _, _, _, header_addr, load_addr, load_end_addr, bss_end_addr, entry = header
    assert header_addr - load_addr == at
    assert load_end_addr - load_addr == len(image)
    assert bss_end_addr >= load_end_addr
    assert load_addr <= entry < load_end_addr


def test_image_stays_small(image: bytes) -> None:
    assert len(image) < 16 << 10
