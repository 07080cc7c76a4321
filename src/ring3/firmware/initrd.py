"""Is a file an initrd that is all there?  Checked on the host, because a guest only panics much later.

Documentation/driver-api/early-userspace/buffer-format.rst of the Linux kernel: an initramfs is a row of cpio
archives ("newc" format), each plain or compressed, with zeros between them.  gzip, bzip2, xz and lzma are
unpacked to see that nothing is missing; what is inside is not looked at.  A kernel may also take zstd, lz4,
lzo and file system images: those pass unchecked.
"""

import bz2
import lzma
import zlib

from ring3.errors import ConfigError

CHUNK = 1 << 20                         # bytes of packed data taken at a time
OUTPUT = 4 << 20                        # bytes unpacked at a time, so that a bomb costs time only
NEWC_HEADER = 110                       # bytes

FOREIGN = (
    (b"\x7fELF", "an ELF file"),
    (b"MZ", "a kernel or a program"),
    (b"#!", "a script"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"!<arch>", "an archive or a Debian package"),
    (b"PK\x03\x04", "a zip archive"),
    (b"%PDF", "a PDF document"),
    (b"<", "a web page"),
)


def check(data: bytes, name: str) -> None:
    """Raises a ConfigError for a file that is foreign or cut short."""
    for magic, what in FOREIGN:
        if data.startswith(magic):
            raise ConfigError(f"initrd {name} is {what}, not an initrd")
    rest = memoryview(data)
    while len(rest := _skip_zeros(rest)) > 0:
        try:
            after = _one_archive(rest)
        except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
            raise ConfigError(f"initrd {name} is damaged ({error}): copy it again") from None
        except EOFError:
            raise ConfigError(f"initrd {name} is truncated: copy it again") from None
        if after is None:
            return
        rest = after


def _skip_zeros(data: memoryview) -> memoryview:
    """A gap between archives is short; a disk image's zeros are no business of ours, but must be fast."""
    while len(data) >= CHUNK and not any(data[:CHUNK]):
        data = data[CHUNK:]
    head = bytes(data[:CHUNK])
    return data[len(head) - len(head.lstrip(b"\x00")) :]


def _one_archive(data: memoryview) -> memoryview | None:
    """What follows the archive that `data` starts with; None for a format that cannot be checked here."""
    head = bytes(data[:6])
    if head in (b"070701", b"070702"):
        return _skip_cpio(data)
    if head[:2] == b"\x1f\x8b":
        return _unpack_gzip(data)
    if head[:3] == b"BZh":
        return _unpack(bz2.BZ2Decompressor(), data)
    if head == b"\xfd7zXZ\x00" or head[:3] == b"]\x00\x00":
        return _unpack(lzma.LZMADecompressor(), data)
    return None


def _skip_cpio(data: memoryview) -> memoryview:
    """Entries up to and with TRAILER!!!; names and files are padded to 4 bytes."""
    at = 0
    while True:
        header = bytes(data[at : at + NEWC_HEADER])
        if len(header) < NEWC_HEADER:
            raise EOFError
        if header[:6] not in (b"070701", b"070702"):
            raise ValueError("a cpio header is not where it should be")
        file_size, name_size = int(header[54:62], 16), int(header[94:102], 16)
        name = bytes(data[at + NEWC_HEADER : at + NEWC_HEADER + name_size])
        at += NEWC_HEADER + name_size
        at += -at % 4 + file_size
        at += -at % 4
        if name == b"TRAILER!!!\x00":
            return data[at:]
        if at > len(data):
            raise EOFError


def _unpack_gzip(data: memoryview) -> memoryview:
    gzip = zlib.decompressobj(wbits=31)
    at = 0
    packed = b""
    while not gzip.eof:
        if not packed:
            packed = bytes(data[at : at + CHUNK])
            at += len(packed)
            if not packed:
                raise EOFError
        gzip.decompress(packed, OUTPUT)
        packed = gzip.unconsumed_tail
    return data[at - len(gzip.unused_data) :]


def _unpack(decompressor: "bz2.BZ2Decompressor | lzma.LZMADecompressor", data: memoryview) -> memoryview:
    at = 0
    while not decompressor.eof:
        packed = b""
        if decompressor.needs_input:
            packed = bytes(data[at : at + CHUNK])
            at += len(packed)
            if not packed:
                raise EOFError
        decompressor.decompress(packed, OUTPUT)
    return data[at - len(decompressor.unused_data) :]
