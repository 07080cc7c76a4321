"""The BusLogic adapter: its commands as Linux's driver gives them, mailboxes and CCBs of both kinds."""

import struct

import pytest

from fakes import FakeDrive, Ram
from ring3.devices.pci.config import Command, Reg
from ring3.devices.storage.buslogic import (
    Action,
    BusLogic,
    Completion,
    Control,
    HostStatus,
    Interrupt,
    Op,
    Opcode,
    Register,
    Stat,
)
from ring3.devices.storage.scsi import Asc, Status
from ring3.devices.storage.scsi_disk import ScsiDisk
from ring3.irq import IrqLine
from ring3.state import load, record

BOXES, CCB, DATA, SENSE, LIST = 0x1000, 0x2000, 0x4000, 0x3000, 0x3800
COUNT = 4
CONTENT = bytes(range(256)) * 16        # 8 sectors
READ_CAPACITY = bytes((0x25,)) + bytes(9)


def read_10(block, count):
    return struct.pack(">BBIBHB", 0x28, 0, block, 0, count, 0)


def write_10(block, count):
    return struct.pack(">BBIBHB", 0x2A, 0, block, 0, count, 0)


class Adapter:
    """The chip, and the driver's hands on it."""

    def __init__(self, edges=None, drive=None):
        self.edges = [] if edges is None else edges
        self.ram = Ram(0x1_0000)
        self.moves, self.isa_moves = [], []
        self.chip = BusLogic(
            self.ram,
            IrqLine(self.edges.append),
            lambda *move: self.moves.append(move),
            self.isa_moves.append,
        )
        self.drive = drive or FakeDrive(CONTENT)
        self.disk = ScsiDisk(self.drive, "disk0")
        self.disk.state.attentions.clear()
        self.chip.attach(0, self.disk)
        self.out = self.into = 0

    def status(self):
        return self.chip.read(Register.CONTROL_STATUS)

    def interrupt(self):
        return self.chip.read(Register.INTERRUPT)

    def acknowledge(self):
        self.chip.write(Register.CONTROL_STATUS, Control.INTERRUPT_RESET)

    def command(self, op, *parameters):
        """As a driver: what came back, once the adapter says the command is complete."""
        self.chip.write(Register.COMMAND_DATA, op)
        for each in parameters:
            assert not self.status() & Stat.READY
            self.chip.write(Register.COMMAND_DATA, each)
        reply = bytearray()
        while self.status() & Stat.DATA_IN:
            reply.append(self.chip.read(Register.COMMAND_DATA))
        assert self.interrupt() == Interrupt.VALID | Interrupt.COMPLETE
        return bytes(reply)

    def set_up(self, *, wide=True):
        if wide:
            self.command(Op.INIT_MAILBOX_32, COUNT, *BOXES.to_bytes(4, "little"))
        else:
            self.command(Op.INIT_MAILBOX_24, COUNT, *BOXES.to_bytes(3, "big"))
        self.acknowledge()

    def ccb(self, cdb, length=0, direction=1, *, opcode=Opcode.INITIATOR, target=0, lun=0, at=CCB, data=DATA):
        block = struct.pack("<BBBBII", opcode, direction << 3, len(cdb), 18, length, data)
        block += bytes(4) + bytes((target, lun)) + cdb.ljust(12, b"\0") + bytes(6) + struct.pack("<I", SENSE)
        self.ram.write(at, block)

    def start(self, ccb=CCB, action=Action.START):
        self.ram.write(BOXES + 8 * self.out, struct.pack("<I3xB", ccb, action))
        self.out = (self.out + 1) % COUNT
        self.chip.write(Register.COMMAND_DATA, Op.START_MAILBOX)

    def collect(self):
        """The next incoming mailbox, freed: (CCB, host status, target status, completion)."""
        at = BOXES + 8 * (COUNT + self.into)
        box = struct.unpack("<IBBxB", self.ram.read(at, 8))
        if box[3]:
            self.ram.write(at, bytes(8))
            self.into = (self.into + 1) % COUNT
        return box


@pytest.fixture
def adapter(edges):
    return Adapter(edges)


@pytest.fixture
def ready(adapter):
    adapter.set_up()
    adapter.edges.clear()
    return adapter


# --- PCI and registers ---


def test_its_registers_are_at_both_regions(adapter):
    for bar, base in ((0, 0xC000), (1, 0xFE00_0000)):
        adapter.chip.write_config(Reg.BAR0 + 4 * bar, base, 4)
    adapter.chip.write_config(Reg.COMMAND, Command.IO | Command.MEMORY, 2)
    assert adapter.moves == [(0, 0xC000), (1, 0xFE00_0000)]
    assert [adapter.chip.faces[bar].read(0, 4) for bar in (0, 1)] == [0x8000_0030] * 2


def test_after_power_on_mailboxes_are_missing(adapter):
    assert (adapter.status(), adapter.interrupt()) == (Stat.INIT_REQUIRED | Stat.READY, 0)


def test_a_hard_reset_shows_its_self_test_once(ready):
    ready.chip.write(Register.CONTROL_STATUS, Control.HARD_RESET)
    assert [ready.status(), ready.status()] == [Stat.DIAG_ACTIVE, Stat.INIT_REQUIRED | Stat.READY]


def test_a_hard_reset_resets_the_targets_and_a_soft_one_does_not(ready):
    ready.chip.write(Register.CONTROL_STATUS, Control.SOFT_RESET)
    assert ready.disk.state.attentions == []
    ready.chip.write(Register.CONTROL_STATUS, Control.HARD_RESET)
    assert ready.disk.state.attentions == [Asc.RESET]


# --- commands ---


def test_it_is_a_bt_958_with_firmware_5_07b(adapter):
    assert adapter.command(Op.INQUIRE_BOARD_ID) == b"AA50"
    adapter.acknowledge()
    replies = []
    for op, *length in ((Op.INQUIRE_FIRMWARE_3,), (Op.INQUIRE_FIRMWARE_LETTER,), (Op.INQUIRE_MODEL, 5)):
        replies.append(adapter.command(op, *length))
        adapter.acknowledge()
    assert replies == [b"7", b"B", b"958  "]


def test_replies_have_the_length_asked_for(adapter):
    for op, length in ((Op.INQUIRE_EXTENDED_SETUP, 14), (Op.INQUIRE_SETUP, 34), (Op.INQUIRE_SYNC_PERIOD, 16)):
        assert len(adapter.command(op, length)) == length
        adapter.acknowledge()


def test_the_extended_set_up_tells_of_wide_mailboxes(ready):
    reply = ready.command(Op.INQUIRE_EXTENDED_SETUP, 14)
    assert struct.unpack("<cBHBIB3sB", reply) == (b"E", 0, 8192, COUNT, BOXES, 0x40, b"07B", 0x19)


def test_its_targets_are_told(adapter):
    assert adapter.command(Op.INQUIRE_TARGETS) == b"\x01\x00"
    adapter.acknowledge()
    assert adapter.command(Op.INQUIRE_DEVICES_0_7) == b"\x01" + bytes(7)


def test_an_unknown_command_is_invalid_until_the_interrupt_is_reset(adapter):
    adapter.command(0x77)
    assert adapter.status() & Stat.INVALID
    adapter.acknowledge()
    assert not adapter.status() & Stat.INVALID


def test_local_ram_keeps_what_is_stored(adapter):
    adapter.command(Op.STORE_LOCAL_RAM, 110, 2, 0xAB, 0xCD)
    adapter.acknowledge()
    assert adapter.command(Op.FETCH_LOCAL_RAM, 109, 4) == b"\0\xab\xcd\0"


def test_the_isa_port_is_off_until_it_is_chosen(adapter):
    for choice in (0, 6):
        adapter.chip.write(Register.COMMAND_DATA, Op.MODIFY_IO_ADDRESS)
        adapter.chip.write(Register.COMMAND_DATA, choice)
    assert (adapter.isa_moves, adapter.interrupt()) == ([0x330, None], 0)


# --- 32-bit mailboxes ---


def test_a_read_fills_memory_and_raises_the_interrupt(ready):
    ready.ccb(read_10(1, 2), 1024)
    ready.start()
    assert ready.ram.read(DATA, 1024) == CONTENT[512:1536]
    assert ready.interrupt() == Interrupt.VALID | Interrupt.MAIL_IN
    assert ready.edges == [True]
    assert ready.collect() == (CCB, 0, 0, Completion.GOOD)
    ready.acknowledge()
    assert (ready.interrupt(), ready.edges) == (0, [True, False])


def test_a_write_goes_to_the_disk(ready):
    ready.ram.write(DATA, b"x" * 512)
    ready.ccb(write_10(3, 1), 512, 2)
    ready.start()
    assert (ready.collect()[3], bytes(ready.drive.content[1536:2048])) == (Completion.GOOD, b"x" * 512)


def test_a_list_of_segments_is_filled_in_order(ready):
    ready.ram.write(LIST, struct.pack("<6I", 100, DATA, 0, 0, 412, DATA + 0x1000))
    ready.ccb(read_10(0, 1), 24, opcode=Opcode.SCATTER_GATHER_RESIDUAL, data=LIST)
    ready.start()
    assert ready.ram.read(DATA, 100) + ready.ram.read(DATA + 0x1000, 412) == CONTENT[:512]
    assert (ready.collect()[3], ready.ram.read(CCB + 4, 4)) == (Completion.GOOD, bytes(4))


def test_what_did_not_move_is_the_residual(ready):
    ready.ccb(READ_CAPACITY, 100, opcode=Opcode.RESIDUAL)
    ready.start()
    assert (ready.collect()[1:], ready.ram.read(CCB + 4, 4)) == ((0, 0, 1), (92).to_bytes(4, "little"))


def test_without_a_residual_too_little_data_is_an_error(ready):
    ready.ccb(READ_CAPACITY, 100)
    ready.start()
    assert ready.collect()[1:] == (HostStatus.DATA_RUN, 0, Completion.ERROR)


def test_an_error_brings_its_sense_data(ready):
    ready.ccb(read_10(99, 1), 512)
    ready.start()
    assert ready.collect()[1:] == (0, Status.CHECK_CONDITION, Completion.ERROR)
    assert ready.ram.read(CCB + 14, 2) == bytes((0, Status.CHECK_CONDITION))
    assert (ready.ram.read(SENSE, 1), ready.ram.read(SENSE + 12, 2)) == (b"\x70", b"\x21\x00")


def test_a_target_that_is_not_there_times_out(ready):
    ready.ccb(READ_CAPACITY, 8, target=3)
    ready.start()
    assert ready.collect()[1:] == (HostStatus.SELECTION_TIMEOUT, 0, Completion.ERROR)


def test_an_unknown_opcode_of_a_ccb_is_refused(ready):
    ready.ccb(READ_CAPACITY, 8, opcode=0x42)
    ready.start()
    assert ready.collect()[1] == HostStatus.BAD_OPCODE


def test_without_strict_round_robin_any_mailbox_is_found(ready):
    ready.ccb(READ_CAPACITY, 8)
    ready.out = 2
    ready.start()
    assert ready.collect()[3] == Completion.GOOD


def test_with_strict_round_robin_only_the_next_mailbox_counts(ready):
    ready.command(Op.STRICT_ROUND_ROBIN, 1)
    ready.acknowledge()
    ready.ccb(READ_CAPACITY, 8)
    ready.out = 1
    ready.start()
    assert ready.collect()[3] == 0
    ready.out = 0
    ready.start()
    assert [ready.collect()[3], ready.collect()[3]] == [Completion.GOOD, Completion.GOOD]


def test_a_full_incoming_mailbox_holds_what_is_done(ready):
    for n in range(COUNT + 1):
        ready.ccb(READ_CAPACITY, 8, at=CCB + 0x100 * n)
        ready.start(CCB + 0x100 * n)
    assert len(ready.chip.state.done) == 1
    assert ready.collect()[0] == CCB
    ready.acknowledge()
    assert ready.chip.state.done == []
    assert [ready.collect()[0] for _ in range(COUNT)] == [CCB + 0x100 * n for n in range(1, COUNT + 1)]


def test_an_interrupt_that_comes_before_the_last_is_reset_shows_after_it(ready):
    for n in range(2):
        ready.ccb(READ_CAPACITY, 8, at=CCB + 0x100 * n)
        ready.start(CCB + 0x100 * n)
    ready.acknowledge()
    assert ready.interrupt() == Interrupt.VALID | Interrupt.MAIL_IN
    ready.acknowledge()
    assert ready.interrupt() == 0


def test_a_free_outgoing_mailbox_can_interrupt(ready):
    ready.chip.write(Register.COMMAND_DATA, Op.ENABLE_MAIL_OUT_INTERRUPT)
    ready.chip.write(Register.COMMAND_DATA, 1)
    ready.ccb(READ_CAPACITY, 8)
    ready.start()
    assert ready.interrupt() & Interrupt.MAIL_OUT


def test_interrupts_can_be_turned_off(ready):
    ready.command(Op.DISABLE_INTERRUPT, 0)
    assert ready.edges == []


def test_a_bus_device_reset_resets_its_target(ready):
    ready.ccb(b"\0", opcode=Opcode.BUS_DEVICE_RESET)
    ready.start()
    assert (ready.collect()[3], ready.disk.state.attentions) == (Completion.GOOD, [Asc.RESET])


# --- 24-bit mailboxes ---


def test_a_read_through_24_bit_mailboxes(adapter):
    adapter.set_up(wide=False)
    cdb = read_10(2, 1)
    block = bytes((0, 1 << 3, len(cdb), 0)) + (512).to_bytes(3, "big") + DATA.to_bytes(3, "big")
    adapter.ram.write(CCB, block + bytes(8) + cdb)
    adapter.ram.write(BOXES, bytes((Action.START,)) + CCB.to_bytes(3, "big"))
    adapter.chip.write(Register.COMMAND_DATA, Op.START_MAILBOX)
    assert adapter.ram.read(DATA, 512) == CONTENT[1024:1536]
    assert adapter.ram.read(BOXES + 4 * COUNT, 4) == bytes((Completion.GOOD,)) + CCB.to_bytes(3, "big")


def test_sense_data_follows_the_cdb_of_a_24_bit_ccb(adapter):
    adapter.set_up(wide=False)
    cdb = read_10(99, 1)
    block = bytes((2, 1 << 3, len(cdb), 14)) + (6).to_bytes(3, "big") + LIST.to_bytes(3, "big")
    adapter.ram.write(CCB, block + bytes(8) + cdb)
    adapter.ram.write(LIST, (512).to_bytes(3, "big") + DATA.to_bytes(3, "big"))
    adapter.ram.write(BOXES, bytes((Action.START,)) + CCB.to_bytes(3, "big"))
    adapter.chip.write(Register.COMMAND_DATA, Op.START_MAILBOX)
    assert adapter.ram.read(CCB + 18 + len(cdb), 1) == b"\x70"
    assert adapter.ram.read(BOXES + 4 * COUNT, 1) == bytes((Completion.ERROR,))


# --- later ---


@pytest.fixture
def slow(edges):
    adapter = Adapter(edges, FakeDrive(CONTENT, deferred=True))
    adapter.set_up()
    adapter.ccb(read_10(0, 1), 512)
    adapter.start()
    return adapter


def test_an_answer_later_ends_the_ccb(slow):
    assert slow.collect()[3] == 0
    slow.drive.run()
    assert (slow.collect()[3], slow.ram.read(DATA, 512)) == (Completion.GOOD, CONTENT[:512])


def test_an_abort_ends_a_ccb_for_good(slow):
    slow.start(action=Action.ABORT)
    slow.drive.run()
    assert slow.collect() == (CCB, 0, 0, Completion.ABORTED)
    assert (slow.collect()[3], slow.ram.read(DATA, 512)) == (0, bytes(512))


def test_an_abort_of_what_is_not_under_way_finds_nothing(ready):
    ready.start(0x2222, Action.ABORT)
    assert ready.collect() == (0x2222, 0, 0, Completion.NOT_FOUND)


def test_a_bus_reset_ends_all_that_is_under_way(slow):
    slow.chip.write(Register.CONTROL_STATUS, Control.BUS_RESET)
    slow.drive.run()
    assert slow.collect()[1:] == (HostStatus.RESET, 0, Completion.ERROR)
    assert slow.disk.state.attentions == [Asc.RESET]


def test_a_hard_reset_forgets_what_is_under_way(slow):
    slow.chip.write(Register.CONTROL_STATUS, Control.HARD_RESET)
    slow.drive.run()
    assert (slow.ram.read(DATA, 512), slow.chip.state.in_flight) == (bytes(512), [])


def test_a_restored_adapter_begins_anew_what_was_under_way(slow):
    twin = Adapter()
    twin.chip._memory = twin.ram = slow.ram
    twin.chip.restore(load(type(slow.chip.state), record(slow.chip.state)))
    assert (slow.collect()[3], slow.ram.read(DATA, 512)) == (Completion.GOOD, CONTENT[:512])
