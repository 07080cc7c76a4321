"""VMDK, VDI, VHD and VHDX images, compared with qemu-img."""

import random
import shutil
import subprocess

import pytest

from ring3.disk import modes, open_image, tools
from ring3.errors import ConfigError

SIZE = (5 << 20) + 512 * 3
READ = [
    ("vmdk", "monolithicSparse"), ("vmdk", "monolithicFlat"), ("vmdk", "twoGbMaxExtentSparse"),
    ("vmdk", "twoGbMaxExtentFlat"), ("vmdk", "streamOptimized"), ("vdi", ""), ("vdi", "static"),
    ("vpc", "dynamic"), ("vpc", "fixed"), ("vhdx", "dynamic"), ("vhdx", "fixed"),
]
WRITTEN = ("sparse", "flat", "split", "split-flat", "stream")
SUFFIX = {"vpc": "vhd"}


@pytest.fixture(autouse=True)
def qemu_img(tmp_path):
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed: scripts/setup test installs it")

    def run(*arguments):
        command = ["qemu-img", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    return run


@pytest.fixture
def raw(tmp_path):
    rng = random.Random(4)
    content = bytearray(SIZE)
    for _ in range(12):
        offset = rng.randrange(SIZE - 70_000)
        content[offset : offset + 70_000] = rng.randbytes(70_000)
    path = tmp_path / "content.raw"
    path.write_bytes(content)
    return path


def options(kind_of, kind):
    if not kind:
        return []
    if kind == "static":
        return ["-o", "static=on"]
    extra = ",force_size=on" if kind_of == "vpc" else ""
    return ["-o", f"subformat={kind}{extra}"]


@pytest.mark.parametrize(("kind_of", "kind"), READ)
def test_what_qemu_img_writes_is_read(tmp_path, raw, qemu_img, kind_of, kind):
    path = tmp_path / f"disk.{SUFFIX.get(kind_of, kind_of)}"
    qemu_img("convert", "-O", kind_of, *options(kind_of, kind), raw, path)
    image = open_image(path, read_only=True)
    content = raw.read_bytes()
    assert image.size_bytes >= SIZE
    assert image.read(0, SIZE) == content
    rng = random.Random(6)
    for _ in range(50):
        offset = rng.randrange(SIZE)
        length = rng.randrange(1, min(200_000, SIZE - offset + 1))
        assert image.read(offset, length) == content[offset : offset + length]
    image.close()
    assert tools.verify(path).errors == 0


@pytest.mark.parametrize("kind", WRITTEN)
def test_written_vmdk_images_are_what_qemu_img_reads(tmp_path, raw, qemu_img, kind):
    path = tmp_path / "disk.vmdk"
    source = open_image(raw, read_only=True)
    tools.convert(source, path, "vmdk", type=kind)
    source.close()
    qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, path)
    qemu_img("info", path)
    if kind in ("sparse", "stream"):
        qemu_img("check", path)
    image = open_image(path, read_only=True)
    assert image.read(0, SIZE) == raw.read_bytes()
    image.close()


@pytest.mark.parametrize("kind", ["sparse", "flat", "split", "split-flat"])
def test_vmdk_images_are_written_in_place(tmp_path, raw, qemu_img, kind):
    path = tmp_path / "disk.vmdk"
    source = open_image(raw, read_only=True)
    tools.convert(source, path, "vmdk", type=kind)
    source.close()
    expected = bytearray(raw.read_bytes())
    rng = random.Random(8)
    image = open_image(path)
    for _ in range(80):
        offset = rng.randrange(SIZE)
        length = rng.randrange(1, min(150_000, SIZE - offset + 1))
        if rng.randrange(4):
            data = rng.randbytes(length)
            image.write(offset, data)
        else:
            data = bytes(length)
            image.discard(offset, length)
        expected[offset : offset + length] = data
        if not rng.randrange(10):
            image.flush()
    assert image.read(0, SIZE) == expected
    image.close()
    raw.write_bytes(expected)
    qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, path)


def test_what_qemu_img_wrote_is_written_in_place(tmp_path, raw, qemu_img):
    path = tmp_path / "disk.vmdk"
    qemu_img("convert", "-O", "vmdk", raw, path)
    image = open_image(path)
    image.write(SIZE - 100_000, b"x" * 100_000)
    image.close()
    raw.write_bytes(raw.read_bytes()[:-100_000] + b"x" * 100_000)
    qemu_img("compare", raw, path)
    qemu_img("check", path)


def test_a_vmdk_shows_what_its_parent_has(tmp_path, raw, qemu_img):
    qemu_img("convert", "-O", "vmdk", raw, tmp_path / "base.vmdk")
    qemu_img("create", "-f", "vmdk", "-F", "vmdk", "-b", "base.vmdk", tmp_path / "top.vmdk")
    image = open_image(tmp_path / "top.vmdk")
    image.write(1 << 20, b"on top")
    image.close()
    raw.write_bytes(raw.read_bytes()[: 1 << 20] + b"on top" + raw.read_bytes()[(1 << 20) + 6 :])
    qemu_img("compare", raw, tmp_path / "top.vmdk")


@pytest.mark.parametrize("kind_of", ["vdi", "vpc", "vhdx", "vmdk"])
@pytest.mark.parametrize("mode", ["undoable", "nonpersistent"])
def test_in_modes_with_overlays_every_format_is_written(tmp_path, raw, qemu_img, kind_of, mode):
    path = tmp_path / f"disk.{SUFFIX.get(kind_of, kind_of)}"
    qemu_img("convert", "-O", kind_of, *options(kind_of, "dynamic" if kind_of == "vpc" else ""), raw, path)
    before = path.read_bytes()
    for _ in range(2):
        disk = modes.open_disk(path, mode)
        disk.write(1000, b"changed")
        assert disk.read(998, 11) == raw.read_bytes()[998:1000] + b"changed" + raw.read_bytes()[1007:1009]
        disk.close()
    assert path.read_bytes() == before
    if mode == "undoable":
        qemu_img("check", f"{path}.undo")


@pytest.mark.parametrize("kind_of", ["vdi", "vhdx", "vpc"])
def test_formats_that_are_only_read_say_how_to_write(tmp_path, raw, qemu_img, kind_of):
    path = tmp_path / "disk.vhd"
    qemu_img("convert", "-O", kind_of, raw, path)
    with pytest.raises(ConfigError, match="convert it, or attach it read-only or with mode=undoable"):
        open_image(path)


def test_a_raw_disk_is_no_vmdk_because_a_guest_wrote_a_descriptor(tmp_path):
    path = tmp_path / "disk.img"
    text = b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 2 FLAT "other" 0\n'
    path.write_bytes(text + bytes((2 << 20) - len(text)))
    image = open_image(path)
    assert image.FORMAT == "raw"
    image.close()


def test_parts_outside_of_the_directory_are_not_followed(tmp_path):
    path = tmp_path / "sub/disk.vmdk"
    path.parent.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    path.write_text('# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 8 FLAT "../secret" 0\n')
    with pytest.raises(ConfigError, match="outside its own directory"):
        open_image(path)
