import pytest

from ring3.devices.parallel import ON_LINE, Control, ParallelPort, Reg


@pytest.fixture
def port(irq, sink):
    return ParallelPort(irq, sink)


def send(port, text, control=Control.INIT | Control.SELECT_IN):
    for byte in text:
        assert port.read(Reg.STATUS) & 0x80
        port.write(Reg.DATA, byte)
        port.write(Reg.CONTROL, control | Control.STROBE)
        port.write(Reg.CONTROL, control)


def test_a_byte_is_printed_at_each_strobe(port, sink):
    send(port, b"hello")
    assert bytes(sink.sent) == b"hello"


def test_a_strobe_that_is_held_prints_once(port, sink):
    port.write(Reg.DATA, 0x41)
    port.write(Reg.CONTROL, Control.STROBE)
    port.write(Reg.CONTROL, Control.STROBE | Control.INIT)
    assert bytes(sink.sent) == b"A"


def test_the_acknowledge_interrupts_where_it_is_enabled(port, edges):
    send(port, b"a")
    assert edges == []
    send(port, b"b", Control.INIT | Control.INTERRUPT)
    assert edges == [True, False]


def test_the_printer_is_on_line(port):
    assert port.read(Reg.STATUS) == ON_LINE == 0xDF


def test_data_and_control_read_back(port):
    port.write(Reg.DATA, 0x5A)
    port.write(Reg.CONTROL, 0x0C)
    assert (port.read(Reg.DATA), port.read(Reg.CONTROL)) == (0x5A, 0xCC)


def test_with_the_lines_turned_inward_nothing_is_printed_or_read(port, sink):
    port.write(Reg.DATA, 0x5A)
    port.write(Reg.CONTROL, Control.INPUT | Control.STROBE)
    assert (port.read(Reg.DATA), bytes(sink.sent)) == (0xFF, b"")
