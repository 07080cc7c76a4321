"""The check of an initrd's wholeness."""

import bz2
import gzip
import lzma

import pytest

from ring3.errors import ConfigError
from ring3.firmware import initrd


def entry(name, data=b""):
    fields = [0, 0o100644, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\x00"
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


CPIO = entry(b"init", b"#!/bin/sh\n") + entry(b"TRAILER!!!")


@pytest.mark.parametrize(
    "data",
    [
        CPIO,
        CPIO + bytes(512),
        gzip.compress(CPIO, mtime=0),
        bz2.compress(CPIO),
        lzma.compress(CPIO),
        lzma.compress(CPIO, format=lzma.FORMAT_ALONE),
        CPIO + bytes(100) + gzip.compress(CPIO, mtime=0),
        gzip.compress(CPIO, mtime=0) + gzip.compress(CPIO, mtime=0),
        b"\x28\xb5\x2f\xfd whatever zstd holds",
        bytes(3 << 20),
    ],
    ids=["cpio", "padded", "gzip", "bzip2", "xz", "lzma", "padded-gzip", "two", "zstd", "zeros"],
)
def test_whole_archives_pass(data):
    initrd.check(data, "initrd.gz")


@pytest.mark.parametrize(
    "data",
    [
        CPIO[:-30],
        CPIO[:100],
        gzip.compress(CPIO, mtime=0)[:-1],
        bz2.compress(CPIO)[:-1],
        lzma.compress(CPIO)[:-1],
        CPIO + gzip.compress(CPIO, mtime=0)[:20],
    ],
    ids=["cpio", "cpio-header", "gzip", "bzip2", "xz", "second-archive"],
)
def test_truncated_archives_are_refused(data):
    with pytest.raises(ConfigError, match=r"^initrd initrd\.gz is truncated: copy it again$"):
        initrd.check(data, "initrd.gz")


def test_a_damaged_archive_is_refused():
    data = bytearray(gzip.compress(CPIO * 100, mtime=0))
    data[40] ^= 0xFF
    with pytest.raises(ConfigError, match="damaged"):
        initrd.check(bytes(data), "initrd.gz")


@pytest.mark.parametrize("data", [b"\x7fELF", b"MZ", b"#!/bin/sh", b"<html>"])
def test_foreign_files_are_named(data):
    with pytest.raises(ConfigError, match="not an initrd"):
        initrd.check(data, "initrd.gz")
