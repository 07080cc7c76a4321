"""Hostile images: DIRECTORY SEED COUNT [KIND…].  A fuzz target of all formats.

Images of each format are changed where their structures are, checksums made right again, so that what is
behind them is reached.  Whatever an image says, it is an error of ours (VmError, OSError) or it reads; all of
it within `SECONDS` and `MEMORY_BYTES` more than the process had.  Anything else ends the process, and the
image stays in DIRECTORY.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

from ring3.disk import modes, open_image, tools, vhdx
from ring3.disk.vhd import checksum
from ring3.errors import VmError
from vhdx_crashed import with_its_log

SIZE = 4 << 20
SECONDS = 20                            # for one image, on a machine that is busy
MEMORY_BYTES = 512 << 20
HOT_MAX = 8192
VALUES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x01", b"\x01\0\0\0")


def seeds(directory: Path) -> dict[str, bytes]:
    """A small image of each format and kind, as far as there is somebody to make it."""
    source = directory / "source.raw"
    source.write_bytes(random.Random(9).randbytes(300_000).ljust(SIZE // 2, b"\0") + bytes(SIZE // 2))
    found = {}
    image = open_image(source, read_only=True)
    for known, kind in (("qcow2", ""), ("vmdk", "sparse"), ("vmdk", "stream")):
        tools.convert(image, directory / f"{known}{kind}", known, type=kind)
        found[f"{known}{kind}"] = (directory / f"{known}{kind}").read_bytes()
    image.close()
    if shutil.which("qemu-img") is None:
        return found
    made = {
        "qcow2 compressed": ("qcow2", "-c"), "qcow2 v2": ("qcow2", "-o", "compat=0.10"),
        "qcow2 small": ("qcow2", "-o", "cluster_size=512,refcount_bits=4"),
        "vdi": ("vdi",), "vdi fixed": ("vdi", "-o", "static=on"),
        "vpc": ("vpc",), "vpc fixed.vhd": ("vpc", "-o", "subformat=fixed"),
        "vhdx": ("vhdx",), "vhdx fixed": ("vhdx", "-o", "subformat=fixed"),
    }
    for name, (known, *options) in made.items():
        path = directory / name
        command = ["qemu-img", "convert", "-q", "-O", known, *options, str(source), str(path)]
        subprocess.run(command, check=True, timeout=60)
        if name == "qcow2 small":
            subprocess.run(["qemu-img", "snapshot", "-c", "then", str(path)], check=True, timeout=60)
        found[name] = path.read_bytes()
        path.unlink()
    found["vhdx crashed"] = crashed(directory / "crashed")
    return found


def crashed(path: Path) -> bytes:
    subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", str(path), str(SIZE)], check=True, timeout=60)
    writes = ("-c", "write -P 1 0 1M", "-c", "write -P 2 2M 64k")
    subprocess.run(["qemu-io", "-f", "vhdx", *writes, str(path)], check=True, timeout=60, capture_output=True)
    data = with_its_log(path.read_bytes())
    path.unlink()
    return data


def mutated(data: bytes, rng: random.Random) -> bytearray:
    out = bytearray(data)
    hot = [at for at in range(0, min(len(out), 2 << 20), 4) if any(out[at : at + 4])][:HOT_MAX]
    for _ in range(rng.randrange(1, 6)):
        at = rng.choice(hot) if rng.randrange(3) else rng.randrange(min(len(out), 4096))
        match rng.randrange(4):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice((1, 2, 4, 8))
                out[at : at + size] = rng.randbytes(size)
            case 2:
                other = rng.choice(hot)
                out[at : at + 8] = out[other : other + 8]
            case _:
                out[at : at + 4] = rng.choice(VALUES)
    if not rng.randrange(6):
        del out[rng.randrange(1, len(out)) :]
    if rng.randrange(8):
        mend(out)
    return out


def mend(data: bytearray) -> None:
    """Checksums of VHD's and VHDX's structures."""
    for at, field in ((0, 64), (512, 36), (len(data) - 512, 64)):
        size = 1024 if field == 36 else 512
        if bytes(data[at : at + 8]) in (b"conectix", b"cxsparse") and at >= 0:
            struct.pack_into(">I", data, at + field, checksum(bytes(data[at : at + size]), field))
    for magic, places, size in ((b"head", vhdx.HEADERS_AT, vhdx.HEADER_BYTES),
                                (b"regi", vhdx.REGIONS_AT, vhdx.REGIONS_BYTES)):
        for at in places:
            if data[at : at + 4] == magic:
                struct.pack_into("<I", data, at + 4, vhdx.checksum(bytes(data[at : at + size])))
    if data.startswith(vhdx.MAGIC):
        mend_log(data)


def mend_log(data: bytearray) -> None:
    for at in range(1 << 20, min(len(data), 2 << 20) - 4095, 4096):
        if data[at : at + 4] == b"loge":
            size = int.from_bytes(data[at + 8 : at + 12], "little")
            if 64 <= size <= 64 << 10:
                struct.pack_into("<I", data, at + 4, vhdx.checksum(bytes(data[at : at + size])))


def exercise(path: Path, rng: random.Random) -> None:
    with contextlib.suppress(VmError, OSError):
        tools.info(path)
    with contextlib.suppress(VmError, OSError):
        tools.verify(path)
    with contextlib.suppress(VmError, OSError):
        tools.mapped(path)
    for mode, read_only in (("persistent", True), ("nonpersistent", False), ("persistent", False)):
        with contextlib.suppress(VmError):
            disk = modes.open_disk(path, mode, read_only=read_only)
            use(disk, rng, writes=not read_only)
            with contextlib.suppress(OSError):          # what was written could not be
                disk.close()


def use(disk: modes.Layers, rng: random.Random, *, writes: bool) -> None:
    for _ in range(12):
        offset = rng.choice((0, rng.randrange(min(disk.size_bytes, SIZE)), rng.randrange(disk.size_bytes)))
        length = min(rng.choice((512, 70_000)), disk.size_bytes - offset)
        with contextlib.suppress(OSError):
            data = disk.read_now(offset, length)
            assert data is None or len(data) == length
            place = disk.in_file(offset, length)
            assert place is None or len(os.pread(place[0], length, place[1])) == length
        with contextlib.suppress(OSError):
            assert len(disk.read(offset, length)) == length
        if writes:
            with contextlib.suppress(OSError):
                disk.write(offset, bytes(length))
                disk.discard(offset, length)
                disk.flush()


def limited() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))


def main(directory: Path, seed: int, count: int) -> None:
    images = seeds(directory)
    limited()
    names = sys.argv[4:] or sorted(images)
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        name = rng.choice(names)
        path = directory / f"hostile-{name.replace(' ', '-')}"
        path.write_bytes(mutated(images[name], rng))
        print(f"{number} {name}", flush=True)
        signal.alarm(SECONDS)           # without a handler: it ends the process
        exercise(path, rng)
        signal.alarm(0)
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
