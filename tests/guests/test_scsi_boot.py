"""Disks at the SCSI adapter, booted by SeaBIOS through the adapter's own BIOS, and its INT 13h."""

import struct

import pytest

from guest_terminal import image
from int13 import ANSWER, BLOCK, BUFFER, Int13, boot_sector
from ring3.firmware import find
from ring3.machine import Machine

BOOT_S = 60                             # on a machine that is busy with other tests
pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not find.present(find.BIOS), reason="SeaBIOS is not there: apt install seabios"),
]
MIB, GIB = 1 << 20, 1 << 30
BAD_COMMAND, WRITE_PROTECTED, NO_SUCH_SECTOR = 0x01, 0x03, 0x04
EXTENDED_SIZE = 74
NAME_AT = 1                             # block that tells which disk it is
FIRST, IDE, LARGE, LOCKED = range(0x80, 0x84)


def disk(path, size_bytes, table=b""):
    """A sparse image that starts our boot sector, says its name in block 1 and numbers some others."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.write(boot_sector()[:446] + table.ljust(64, b"\0") + b"\x55\xaa")
        file.write(path.name.encode().ljust(BLOCK))
        for block in [*range(2, 130), size_bytes // BLOCK - 1]:
            file.seek(block * BLOCK)
            file.write(numbered(block))
    return path


def numbered(block):
    return (b"block %d" % block + bytes(range(256)) * 2)[:BLOCK]


@pytest.fixture(scope="module")
def int13(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disks")
    # 16 heads of 63 sectors, as an IDE disk may have been partitioned: blocks 63 to 10 × 16 × 63 - 1.
    partition = struct.pack("<B3sBBBBII", 0x80, b"\x01\x01\x00", 0x83, 15, 63, 9, 63, 10 * 16 * 63 - 63)
    disks = [
        f"{disk(folder / 'first', 8 * MIB, partition)},bus=scsi",
        f"{disk(folder / 'ide', 2 * MIB)},bus=ide",
        f"{disk(folder / 'large', 3 << 40)},bus=scsi",
        f"{disk(folder / 'locked', 1500 * MIB)},bus=scsi,readonly",
    ]
    with Machine(firmware="bios", memory="64M", disk=disks, serial="memory") as vm:
        yield Int13(vm)


@pytest.mark.parametrize("order", [
    ("scsi", "ide", "scsi"), ("ide", "scsi", "virtio"), ("ahci", "scsi", "scsi"),
])
def test_drives_are_numbered_as_they_were_given(tmp_path, order):
    disks = [f"{disk(tmp_path / f'{n}-{bus}', MIB)},bus={bus}" for n, bus in enumerate(order)]
    with Machine(firmware="bios", memory="64M", disk=disks, serial="memory") as vm:
        int13 = Int13(vm)
        assert int13.boot_drive == 0x80
        for n, bus in enumerate(order):
            assert int13.read(0x80 + n, NAME_AT).rstrip() == f"{n}-{bus}".encode()


def test_functions_of_other_drives_reach_the_bios(int13):
    assert int13.read(IDE, NAME_AT).rstrip() == b"ide"
    assert int13(0x08, IDE).dl == 4
    assert int13(0x08, FIRST).dl == 4
    assert int13(0x08, 0x84).carry


def test_the_geometry_is_that_of_the_partition_table(int13):
    result = int13(0x08, FIRST)
    assert (result.carry, result.ah, result.dh) == (0, 0, 15)
    assert (result.cl & 63, result.ch | (result.cl & 0xC0) << 2) == (63, 8 * MIB // BLOCK // (16 * 63) - 1)


@pytest.mark.parametrize(("drive", "cylinders", "heads", "sectors"), [
    (LARGE, 1024, 255, 63),
    (LOCKED, 750, 128, 32),
])
def test_without_one_the_geometry_goes_by_size(int13, drive, cylinders, heads, sectors):
    result = int13(0x08, drive)
    assert (result.dh, result.cl & 63) == (heads - 1, sectors)
    assert result.ch | (result.cl & 0xC0) << 2 == cylinders - 1


def test_sectors_are_read_by_cylinder_head_and_sector(int13):
    # block 100 = 0 × 1008 + 1 × 63 + 37
    result = int13(0x02, FIRST, eax=3, ebx=0x123, es=BUFFER >> 4, ecx=0x0026, edx=0x0100)
    assert (result.carry, result.ax) == (0, 3)
    data = int13.vm.memory.read(BUFFER + 0x123, 3 * BLOCK)
    assert data == b"".join(numbered(block) for block in (100, 101, 102))


def test_what_was_written_by_cylinder_head_and_sector_is_read_by_block(int13):
    int13.vm.memory.write(BUFFER, b"written".ljust(2 * BLOCK, b"."))
    result = int13(0x03, FIRST, eax=2, es=BUFFER >> 4, ecx=0x0201, edx=0x0300)
    assert (result.carry, result.ax) == (0, 2)
    assert int13.read(FIRST, 2 * 1008 + 3 * 63, 2) == b"written".ljust(2 * BLOCK, b".")
    assert int13(0x04, FIRST, eax=2, ecx=0x0201, edx=0x0300).carry == 0


@pytest.mark.parametrize("al", [0, 1, 2])
def test_blocks_are_written_and_read_by_number(int13, al):
    text = b"al %d" % al * 4
    int13.vm.memory.write(BUFFER + 7, text)
    assert int13.blocks(0x43, FIRST, 500 + al, 1, buffer=BUFFER + 7, al=al).carry == 0
    assert int13.read(FIRST, 500 + al).startswith(text)
    assert int13.blocks(0x44, FIRST, 500 + al, 1).carry == 0


def test_127_blocks_are_read_at_once(int13):
    assert int13.read(LARGE, 2, 127) == b"".join(numbered(block) for block in range(2, 129))


def test_a_buffer_may_be_told_by_its_physical_address(int13):
    result = int13.blocks(0x42, FIRST, 9, 1, flat=2 * MIB)
    assert result.carry == 0
    assert int13.vm.memory.read(2 * MIB, BLOCK) == numbered(9)


def test_the_last_block_of_a_large_disk_that_32_bits_can_tell_is_there(int13):
    assert int13.blocks(0x42, LARGE, 0xFFFF_FFFE, 1).carry == 0
    assert int13.blocks(0x42, LARGE, 1 << 32, 1).ah == NO_SUCH_SECTOR


def test_blocks_behind_the_end_are_no_such_sector(int13):
    result = int13.blocks(0x42, FIRST, 8 * MIB // BLOCK, 1)
    assert (result.carry, result.ah, int13.packet_count) == (1, NO_SUCH_SECTOR, 0)
    assert int13(0x01, FIRST).ah == NO_SUCH_SECTOR


def test_a_write_to_a_disk_that_is_read_only_is_refused(int13):
    result = int13(0x03, LOCKED, eax=1, es=BUFFER >> 4, ecx=0x0001)
    assert (result.carry, result.ax) == (1, WRITE_PROTECTED << 8)


@pytest.mark.parametrize(("ah", "registers"), [
    (0x02, {"eax": 0, "ecx": 1}),               # no sectors
    (0x02, {"eax": 129, "ecx": 1}),             # more than a segment has
    (0x02, {"eax": 1, "ecx": 0}),               # sector 0
    (0x02, {"eax": 1, "ecx": 1, "edx": 0x1000}),        # head 16
    (0x02, {"eax": 1, "ecx": 0xFF01}),          # cylinder 255
    (0x05, {"eax": 1, "ecx": 1}),               # format
    (0x41, {"ebx": 0x1234}),
    (0x42, {"esi": 0x1200}),                    # a packet of 0 bytes
    (0x48, {"esi": 0x1200}),                    # room for 0 bytes
    (0x4B, {}),
])
def test_what_makes_no_sense_is_a_bad_command(int13, ah, registers):
    int13.vm.memory.write(0x1200, bytes(32))
    result = int13(ah, FIRST, **registers)
    assert (result.carry, result.ah) == (1, BAD_COMMAND)


@pytest.mark.parametrize("ah", [0x00, 0x09, 0x0C, 0x0D, 0x10, 0x11, 0x14, 0x47])
def test_what_needs_no_deed_succeeds(int13, ah):
    int13.vm.memory.write(0x1200, struct.pack("<BBHIQ", 16, 0, 0, 0, 5))
    result = int13(ah, FIRST, ecx=1, esi=0x1200)
    assert (result.carry, result.ah) == (0, 0)


def test_the_type_is_a_fixed_disk_with_its_blocks(int13):
    result = int13(0x15, LOCKED)
    assert (result.carry, result.ah) == (0, 3)
    assert result.cx << 16 | result.dx == 1500 * MIB // BLOCK


def test_there_are_the_extensions_of_edd_3(int13):
    result = int13(0x41, FIRST, ebx=0x55AA)
    assert (result.carry, result.ah, result.bx, result.cx) == (0, 0x30, 0xAA55, 5)


def test_drive_parameters_tell_size_and_place(int13):
    int13.vm.memory.write(ANSWER, EXTENDED_SIZE.to_bytes(2, "little"))
    assert int13(0x48, LOCKED, esi=ANSWER).carry == 0
    data = int13.vm.memory.read(ANSWER, EXTENDED_SIZE)
    assert struct.unpack_from("<HHIIIQHI", data) == (74, 0x0B, 750, 128, 32, 3072000, BLOCK, 0xFFFF_FFFF)
    key, length, bus, interface = struct.unpack_from("<HB3x4s8s", data, 30)
    assert (key, length, bus, interface) == (0xBEDD, 44, b"PCI ", b"SCSI    ")
    assert data[48:51] == bytes((0, 3, 0))
    assert data[56] == 2                        # target
    assert sum(data[30:]) & 0xFF == 0


@pytest.mark.parametrize(("room", "filled"), [(26, 26), (29, 26), (30, 30), (73, 30), (200, 74)])
def test_drive_parameters_fill_no_more_than_there_is_room_for(int13, room, filled):
    int13.vm.memory.write(ANSWER, room.to_bytes(2, "little") + b"\xa5" * 254)
    int13(0x48, FIRST, esi=ANSWER)
    data = int13.vm.memory.read(ANSWER, 256)
    assert int.from_bytes(data[:2], "little") == filled
    assert data[filled:] == b"\xa5" * (256 - filled)


def test_other_registers_come_back_as_they_were(int13):
    kept = {"ebx": 0x8765_0000, "esi": 0x1111_2222, "edi": 0x3333_4444, "ebp": 0x5555_6666, "es": 0x2000}
    result = int13(0x02, FIRST, eax=0xABCD_0001, ecx=0x9999_0001, edx=0x7777_0000, ds=0x1234, **kept)
    assert result.carry == 0
    assert result.registers | kept == result.registers
    assert (result.eax, result.ecx, result.edx) == (0xABCD_0001, 0x9999_0001, 0x7777_0080)
    assert (result.ds, result.sp) == (0x1234, 0x7C00)


def test_no_memory_is_taken_away(int13):
    assert int.from_bytes(int13.vm.memory.read(0x413, 2), "little") == 639


def test_the_interrupt_line_is_quiet(int13):
    int13.read(FIRST, 0)
    assert not int13.vm.bus.devices["scsi"].state.interrupt


# --- CDs ---

CD_BLOCK = 2048                         # bytes
CD = 0xEF


@pytest.mark.parametrize(("name", "shown"), [
    ("grub-rescue-cdrom.iso", "highlighted entry will be executed"),
    ("ipxe.iso", "iPXE initialising devices"),
])
def test_a_cd_is_booted(name, shown):
    with Machine(firmware="bios", memory="64M", cdrom=f"{image(name)},bus=scsi") as vm:
        vm.screen.wait(shown, timeout_s=BOOT_S)
        if name.startswith("grub"):
            vm.keyboard.press("c")
            vm.screen.wait("grub>", timeout_s=BOOT_S)
            vm.keyboard.type("ls (cd)/boot/grub\n")
            vm.screen.wait("i386-pc/", timeout_s=BOOT_S)


def cd(path, media=0):
    """A CD with a boot record and a catalog: our boot sector from block 20 on."""
    blocks = bytearray(24 * CD_BLOCK)
    blocks[17 * CD_BLOCK : 17 * CD_BLOCK + 30] = b"\0CD001\1EL TORITO SPECIFICATION"
    struct.pack_into("<I", blocks, 17 * CD_BLOCK + 0x47, 19)
    struct.pack_into("<HBB26xH", blocks, 19 * CD_BLOCK, 1, 0, 0, 0xAA55)
    struct.pack_into("<BBHBxHI", blocks, 19 * CD_BLOCK + 32, 0x88, media, 0, 0, 3, 20)
    blocks[20 * CD_BLOCK : 20 * CD_BLOCK + BLOCK] = boot_sector()
    blocks[22 * CD_BLOCK : 22 * CD_BLOCK + 8] = b"block 22"
    path.write_bytes(blocks)
    return path


@pytest.fixture(scope="module")
def from_cd(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cds")
    settings = {
        "disk": f"{disk(folder / 'disk', MIB)},bus=scsi", "cdrom": f"{cd(folder / 'cd')},bus=scsi",
        "boot": "cdrom,disk", "serial": "memory",
    }
    with Machine(firmware="bios", memory="64M", **settings) as vm:
        yield Int13(vm)


def test_the_program_of_a_cd_knows_its_drive(from_cd):
    assert from_cd.boot_drive == CD


def test_blocks_of_a_cd_have_2048_bytes(from_cd):
    result = from_cd.blocks(0x42, CD, 22, 1)
    assert result.carry == 0
    assert from_cd.vm.memory.read(BUFFER, CD_BLOCK) == b"block 22".ljust(CD_BLOCK, b"\0")


def test_a_disk_beside_the_cd_is_drive_80h(from_cd):
    assert from_cd.read(0x80, NAME_AT).rstrip() == b"disk"


@pytest.mark.parametrize("al", [0, 1])
def test_a_program_is_told_how_it_was_booted(from_cd, al):
    from_cd.vm.memory.write(ANSWER, bytes(19))
    assert from_cd(0x4B, CD, eax=al, esi=ANSWER).carry == 0
    packet = struct.unpack("<BBBBIHHHH3s", from_cd.vm.memory.read(ANSWER, 19))
    assert packet == (19, 0, CD, 0, 20, 1, 0, 0x07C0, 3, bytes(3))


def test_drive_parameters_of_a_cd_tell_its_blocks(from_cd):
    from_cd.vm.memory.write(ANSWER, (26).to_bytes(2, "little"))
    assert from_cd(0x48, CD, esi=ANSWER).carry == 0
    fields = struct.unpack("<HHIIIQH", from_cd.vm.memory.read(ANSWER, 26))
    assert fields == (26, 0x05, 0, 0, 0, 24, CD_BLOCK)


@pytest.mark.parametrize("ah", [0x02, 0x03, 0x08, 0x43])
def test_a_cd_has_no_functions_of_disks(from_cd, ah):
    result = from_cd(ah, CD, eax=1, ecx=1)
    assert (result.carry, result.ah) == (1, BAD_COMMAND)


@pytest.mark.parametrize("medium", ["empty", "blank", "emulation"])
def test_what_cannot_be_booted_is_passed_over(tmp_path, medium):
    """… for the disk behind it."""
    (tmp_path / "blank").write_bytes(bytes(24 * CD_BLOCK))
    cd(tmp_path / "emulation", media=2)
    cdrom = medium if medium == "empty" else tmp_path / medium
    disks = f"{disk(tmp_path / 'disk', MIB)},bus=scsi"
    settings = {"cdrom": f"{cdrom},bus=scsi", "disk": disks, "boot": "cdrom,disk"}
    with Machine(firmware="bios", memory="64M", serial="memory", **settings) as vm:
        assert Int13(vm).boot_drive == 0x80
        assert "No CD that can be booted" in vm.screen.text()
