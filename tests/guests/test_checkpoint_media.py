"""Restores of machines whose removable drives have something else since, or images on a web server."""

from pathlib import Path

import pytest

import ring3
from range_server import RangeServer
from ring3 import Machine
from ring3.disk.remote import source
from ring3.errors import VmError

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

EMBEDDED = Path(ring3.__file__).with_name("firmware") / "embedded_guest.bin"
CD_BYTES, DISKETTE_BYTES, DISK_BYTES = 1 << 20, 1440 << 10, 1 << 20
DRIVES = ("cdrom0", "floppy0")


@pytest.fixture
def image(tmp_path):
    def make(name, letter, size):
        path = tmp_path / name
        path.write_bytes(letter * size)
        return str(path)

    return make


@pytest.fixture
def vm(image):
    """One that stands, with a CD and a diskette."""
    vm = Machine(kernel=EMBEDDED, memory="8M", cdrom=image("first.iso", b"1", CD_BYTES),
                 floppy=image("first.img", b"1", DISKETTE_BYTES))
    yield vm
    vm.stop()


def start_of(vm, drive):
    images = vm.media.images()
    return images[drive].read(0, 8) if drive in images else None


def starts(vm):
    return [start_of(vm, drive) for drive in DRIVES]


def test_media_that_were_changed_since_are_changed_back(vm, image, tmp_path):
    file = vm.checkpoint(tmp_path / "a.ring3")
    vm.insert("cdrom0", image("second.iso", b"2", CD_BYTES))
    vm.insert("floppy0", image("second.img", b"2", DISKETTE_BYTES))
    vm.restore(file)
    assert starts(vm) == [b"1" * 8] * 2
    assert vm.drives() == {"cdrom0": str(tmp_path / "first.iso"), "floppy0": str(tmp_path / "first.img")}
    assert (tmp_path / "second.img").read_bytes() == b"2" * DISKETTE_BYTES


def test_media_that_were_taken_out_since_are_put_in(vm, tmp_path):
    file = vm.checkpoint(tmp_path / "a.ring3")
    for drive in DRIVES:
        vm.eject(drive)
    vm.restore(file)
    assert starts(vm) == [b"1" * 8] * 2


def test_drives_that_were_empty_are_empty_again(vm, image, tmp_path):
    for drive in DRIVES:
        vm.eject(drive)
    file = vm.checkpoint(tmp_path / "a.ring3")
    vm.insert("cdrom0", image("second.iso", b"2", CD_BYTES))
    vm.insert("floppy0", image("second.img", b"2", DISKETTE_BYTES))
    vm.restore(file)
    assert vm.drives() == dict.fromkeys(DRIVES)
    vm.insert("cdrom0", image("third.iso", b"3", CD_BYTES))     # its chip works
    assert start_of(vm, "cdrom0") == b"3" * 8


def test_a_diskette_that_was_written_to_since_is_as_it_was(vm, tmp_path):
    file = vm.checkpoint(tmp_path / "a.ring3")
    vm.media.images()["floppy0"].write(0, b"written!")
    vm.eject("floppy0")
    vm.restore(file)
    assert start_of(vm, "floppy0") == b"1" * 8
    vm.stop()
    assert (tmp_path / "first.img").read_bytes() == b"1" * DISKETTE_BYTES


@pytest.mark.parametrize("trouble", ["missing", "another"])
def test_a_medium_that_cannot_be_put_in_is_one_line_and_leaves_the_machine_as_it_is(
    vm, image, tmp_path, trouble
):
    vm.memory.write(4 << 20, b"then")
    file = vm.checkpoint(tmp_path / "a.ring3")
    vm.memory.write(4 << 20, b"now!")
    vm.insert("cdrom0", image("second.iso", b"2", CD_BYTES))
    (tmp_path / "first.iso").unlink()
    if trouble == "another":
        image("first.iso", b"3", CD_BYTES)
    with pytest.raises(VmError, match=r"first\.iso") as raised:
        vm.restore(file)
    assert "\n" not in str(raised.value)
    assert starts(vm) == [b"2" * 8, b"1" * 8]
    assert vm.memory.read(4 << 20, 4) == b"now!"


# --- images on a web server ---


@pytest.fixture
def server():
    server = RangeServer({"/disk.img": b"web " * (DISK_BYTES // 4)})
    yield server
    server.close()


@pytest.fixture(params=["disk0", "nonpersistent disk0", "cdrom0"])
def remote(request, server):
    """A machine with an image of the server's in a drive, and the drive's name."""
    mode, _, name = request.param.rpartition(" ")
    place = server.url() + ("" if name == "cdrom0" else f",mode={mode}" if mode else ",readonly")
    vm = Machine(kernel=EMBEDDED, memory="8M", **{name.rstrip("0"): place})
    yield vm, name
    vm.stop()


def test_a_machine_with_a_remote_image_goes_on_in_a_new_one(remote, tmp_path):
    vm, name = remote
    file = vm.checkpoint(tmp_path / "a.ring3")
    vm.restore(file)
    assert start_of(vm, name) == b"web web "
    other = Machine.restored(file)
    assert start_of(other, name) == b"web web "
    other.stop()


def test_what_was_written_in_front_of_a_remote_image_is_what_it_was(server, tmp_path):
    vm = Machine(kernel=EMBEDDED, memory="8M", disk=f"{server.url()},mode=nonpersistent")
    disk = vm.media.images()["disk0"]
    disk.write(0, b"then")
    file = vm.checkpoint(tmp_path / "a.ring3")
    disk.write(0, b"now!")
    vm.restore(file)
    assert start_of(vm, "disk0") == b"thenweb "
    vm.stop()
    other = Machine.restored(file)
    assert start_of(other, "disk0") == b"thenweb "
    other.stop()


def test_a_remote_image_that_has_changed_is_refused(remote, server, tmp_path):
    vm, _ = remote
    file = vm.checkpoint(tmp_path / "a.ring3")
    server.etag = '"two"'
    server.files["/disk.img"] = b"new " * (DISK_BYTES // 4)
    with pytest.raises(VmError, match="was changed on the server"):
        Machine.restored(file)


def test_a_server_that_has_gone_is_one_line(remote, server, tmp_path, monkeypatch):
    vm, _ = remote
    file = vm.checkpoint(tmp_path / "a.ring3")
    monkeypatch.setattr(source, "OPENING_S", 0)
    server.trouble = lambda handler, start, stop: setattr(handler, "close_connection", True) or True
    with pytest.raises(VmError, match="does not deliver") as raised:
        Machine.restored(file)
    assert "\n" not in str(raised.value)
