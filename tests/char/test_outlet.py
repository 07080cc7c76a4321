"""Output to a host descriptor (ring3.char.outlet)."""

import contextlib
import os

import pytest

from ring3.char.outlet import Outlet


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def read_all(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 65536), b""))


def test_output_arrives_complete_and_in_order(pipe):
    outlet = Outlet(pipe[1])
    for byte in b"hello":
        outlet.write(bytes((byte,)))
    outlet.close()
    os.close(pipe[1])
    assert read_all(pipe[0]) == b"hello"
    assert outlet.lost == 0


def test_a_reader_that_never_reads_costs_bytes_and_not_the_guest(pipe):
    outlet = Outlet(pipe[1], limit=1000, patience_s=0.0)
    for _ in range(2000):
        outlet.write(bytes(100))        # 200 000 bytes: more than the pipe and the buffer hold
    assert outlet.lost > 0
    os.close(pipe[0])
    outlet.close()


def test_lost_bytes_are_exactly_those_that_did_not_arrive(pipe):
    outlet = Outlet(pipe[1], limit=1000, patience_s=0.0)
    for _ in range(2000):
        outlet.write(bytes(100))
    lost = outlet.lost
    got = bytearray()
    while len(got) < 200_000 - lost:
        got += os.read(pipe[0], 65536)
    outlet.close()
    os.close(pipe[1])
    assert len(got) + len(read_all(pipe[0])) == 200_000 - outlet.lost


def test_a_reader_that_went_away_is_no_error(pipe):
    outlet = Outlet(pipe[1])
    os.close(pipe[0])
    outlet.write(b"x")
    outlet.close()
    assert outlet.broken
