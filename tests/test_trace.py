import pytest

from ring3 import trace


class Lsr:
    DR, OE, THRE, TEMT = 0x01, 0x02, 0x20, 0x40


@pytest.fixture
def lines():
    seen = []
    trace.enable(seen.append)
    yield seen
    trace.disable()


def test_a_trace_point_formats_its_values(lines):
    trace.odd("uart", "write of %02Xh to offset %d", 0x5A, 7)
    trace.odd("pic", "100 % odd")
    assert lines == ["uart: write of 5Ah to offset 7", "pic: 100 % odd"]


def test_without_a_listener_nothing_is_formatted():
    class Untouchable:
        def __str__(self):
            raise AssertionError

    trace.odd("uart", "%s", Untouchable())


def test_bits_have_names():
    assert trace.names(Lsr, 0x61) == "DR|THRE|TEMT"
    assert trace.names(Lsr, 0) == ""
