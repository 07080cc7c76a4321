"""Split virtqueues: what a good driver and a bad one find."""

import struct

import pytest

from fakes import Ram
from ring3.devices.virtio.queue import Chain, Descriptor, Queue, QueueState

TABLE, AVAILABLE, USED, INDIRECT = 0x1000, 0x2000, 0x3000, 0x4000
SIZE = 4


@pytest.fixture
def ram():
    return Ram(0x1_0000)


@pytest.fixture
def broken():
    return []


@pytest.fixture
def queue(ram, broken):
    return make(ram, broken)


def make(ram, broken, event_index=False):
    state = QueueState(SIZE, enabled=True, descriptors=TABLE, available=AVAILABLE, used=USED)
    return Queue(ram, state, broken.append, event_index)


def describe(ram, index, address, length, flags=0, following=0, table=TABLE):
    ram.write(table + 16 * index, struct.pack("<QIHH", address, length, flags, following))


def offer(ram, *heads, index=None):
    for n, head in enumerate(heads):
        ram.write(AVAILABLE + 4 + 2 * n, struct.pack("<H", head))
    ram.write(AVAILABLE + 2, struct.pack("<H", len(heads) if index is None else index))


def test_a_chain_is_split_into_what_is_read_and_what_is_written(ram, queue):
    describe(ram, 2, 0x8000, 16, Descriptor.NEXT, 0)
    describe(ram, 0, 0x9000, 512, Descriptor.NEXT | Descriptor.WRITE, 3)
    describe(ram, 3, 0xA000, 1, Descriptor.WRITE)
    offer(ram, 2)
    chain = queue.take()
    assert (chain.head, chain.readable, chain.writable) == (2, [(0x8000, 16)], [(0x9000, 512), (0xA000, 1)])


def test_an_empty_queue_gives_nothing(queue):
    assert queue.take() is None


def test_a_queue_that_is_off_gives_nothing(ram, queue):
    describe(ram, 0, 0x8000, 16)
    offer(ram, 0)
    queue.state.enabled = False
    assert queue.take() is None


def test_used_chains_are_told_in_order_and_with_their_bytes(ram, queue):
    describe(ram, 0, 0x8000, 16)
    describe(ram, 1, 0x9000, 16, Descriptor.WRITE)
    offer(ram, 0, 1)
    first, second = queue.take(), queue.take()
    queue.use(second, 16)
    queue.use(first, 0)
    assert ram.read(USED, 20) == struct.pack("<HHIIII", 0, 2, 1, 16, 0, 0)


def test_rings_and_indices_wrap_around(ram, queue):
    describe(ram, 0, 0x8000, 16)
    queue.state.next_available = queue.state.next_used = 0xFFFF
    ram.write(AVAILABLE + 4 + 2 * 3, b"\0\0")
    offer(ram, index=0)
    queue = Queue(ram, queue.state, print, False)
    queue.use(queue.take(), 0)
    assert (queue.state.next_available, ram.read(USED + 2, 2)) == (0, b"\0\0")


def test_an_indirect_table_holds_the_chain(ram, queue):
    describe(ram, 0, INDIRECT, 48, Descriptor.INDIRECT)
    describe(ram, 0, 0x8000, 1, Descriptor.NEXT, 2, table=INDIRECT)
    describe(ram, 2, 0x9000, 2, Descriptor.WRITE, table=INDIRECT)
    offer(ram, 0)
    chain = queue.take()
    assert (chain.readable, chain.writable) == ([(0x8000, 1)], [(0x9000, 2)])


def test_what_was_taken_is_in_flight_until_used(ram, queue):
    describe(ram, 0, 0x8000, 16)
    offer(ram, 0)
    chain = queue.take()
    assert [c.readable for c in queue.in_flight()] == [chain.readable]
    queue.use(chain, 0)
    assert queue.in_flight() == []


# --- bytes ---


def test_gather_crosses_segments(ram):
    ram.write(0x100, b"abc")
    ram.write(0x200, b"defg")
    chain = Chain(ram, 0, [(0x100, 3), (0x180, 0), (0x200, 4)], [])
    assert (chain.gather(1, 4), chain.gather(3, 99), chain.gather(7, 1)) == (b"bcde", b"defg", b"")


def test_scatter_stops_at_the_end(ram):
    chain = Chain(ram, 0, [], [(0x100, 2), (0x200, 2)])
    chain.scatter(1, b"wxyz")
    assert (ram.read(0x100, 3), ram.read(0x200, 3)) == (b"\0w\0", b"xy\0")


# --- bad drivers ---


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        ([(0, 0x8000, 1, Descriptor.NEXT, 1), (1, 0x8000, 1, Descriptor.NEXT, 0)], "loop"),
        ([(0, 0x8000, 1, Descriptor.NEXT, 4)], "descriptor 4 of 4"),
        ([(0, 0x8000, 1, Descriptor.NEXT | Descriptor.WRITE, 1), (1, 0x8000, 1, 0, 0)], "readable"),
        ([(0, 0x8000, 1, Descriptor.NEXT, 1), (1, INDIRECT, 16, Descriptor.INDIRECT, 0)], "in a chain"),
        ([(0, INDIRECT, 16, Descriptor.INDIRECT | Descriptor.NEXT, 1)], "indirect"),
        ([(0, INDIRECT, 0, Descriptor.INDIRECT, 0)], "indirect"),
        ([(0, INDIRECT, 24, Descriptor.INDIRECT, 0)], "indirect"),
        ([(0, INDIRECT, 0xFFFF_FFF0, Descriptor.INDIRECT, 0)], "indirect"),
    ],
)
def test_a_chain_that_makes_no_sense_breaks_the_queue(ram, queue, broken, descriptors, why):
    for index, *rest in descriptors:
        describe(ram, index, *rest)
    offer(ram, 0)
    assert queue.take() is None
    assert why in broken[0]
    assert not queue.usable


def test_a_head_beyond_the_table_breaks_the_queue(ram, queue, broken):
    offer(ram, SIZE)
    assert queue.take() is None
    assert broken


def test_an_index_that_runs_ahead_breaks_the_queue(ram, queue, broken):
    offer(ram, index=SIZE + 1)
    assert queue.take() is None
    assert "5 entries" in broken[0]


def test_more_chains_in_flight_than_entries_break_the_queue(ram, queue, broken):
    describe(ram, 0, 0x8000, 1)
    for index in range(1, SIZE + 2):
        offer(ram, index=index)
        queue.take()
    assert "in flight" in broken[0]


# --- notifications ---


def test_a_driver_without_event_index_can_turn_interrupts_off(ram, queue):
    assert queue.interrupt_wanted()
    ram.write(AVAILABLE, b"\x01\0")
    assert not queue.interrupt_wanted()


def test_with_the_event_index_the_driver_is_interrupted_when_it_is_passed(ram, broken):
    queue = make(ram, broken, event_index=True)
    ram.write(AVAILABLE + 4 + 2 * SIZE, struct.pack("<H", 1))       # used_event: after the second
    describe(ram, 0, 0x8000, 1)
    offer(ram, 0, 0, 0)
    wanted = []
    for _ in range(3):
        queue.use(queue.take(), 0)
        wanted.append(queue.interrupt_wanted())
    assert wanted == [False, True, False]


def test_with_the_event_index_an_empty_queue_asks_to_be_told(ram, broken):
    queue = make(ram, broken, event_index=True)
    describe(ram, 0, 0x8000, 1)
    offer(ram, 0)
    queue.take()
    assert queue.take() is None
    assert ram.read(USED + 4 + 8 * SIZE, 2) == b"\x01\0"            # avail_event
