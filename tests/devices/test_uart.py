import pytest

from ring3.devices.uart import Fcr, Ier, Iir, Lcr, Lsr, Mcr, Msr, Ns16550, Reg

EIGHT_BITS = 0x03  # LCR: eight data bits, one stop bit, no parity (§8.1)


@pytest.fixture
def uart(irq, sink):
    chip = Ns16550(irq, sink)
    chip.write(Reg.LCR, EIGHT_BITS)
    chip.write(Reg.MCR, Mcr.OUT2)
    sink.rooms = 0
    return chip


def test_a_byte_written_reaches_the_backend(uart, sink):
    uart.write(Reg.DATA, 0x41)
    assert sink.sent == b"A"


def test_the_transmitter_is_always_ready(uart):
    uart.write(Reg.DATA, 0x41)
    assert uart.read(Reg.LSR) == Lsr.THRE | Lsr.TEMT


def test_dlab_turns_the_first_two_registers_into_the_divisor(uart, sink):
    uart.write(Reg.LCR, Lcr.DLAB)
    uart.write(Reg.DATA, 0x80)
    uart.write(Reg.IER, 0x01)
    assert (uart.read(Reg.DATA), uart.read(Reg.IER), uart.state.divisor) == (0x80, 0x01, 0x180)
    assert sink.sent == b""


def test_registers_keep_only_the_bits_they_have(uart):
    for reg in (Reg.IER, Reg.MCR, Reg.LCR, Reg.SCR):
        uart.write(reg, 0x7F)
    assert [uart.read(r) for r in (Reg.IER, Reg.MCR, Reg.LCR, Reg.SCR)] == [0x0F, 0x1F, 0x7F, 0x7F]


def test_thre_interrupt_is_acknowledged_by_reading_iir(uart, edges):
    uart.write(Reg.IER, Ier.ETBEI)  # enabling with THR empty raises it at once
    assert edges == [True]
    assert uart.read(Reg.IIR_FCR) == Iir.THRE
    assert edges == [True, False]
    assert uart.read(Reg.IIR_FCR) == Iir.NONE


def test_each_byte_written_gives_the_thre_interrupt_a_fresh_edge(uart, edges):
    uart.write(Reg.IER, Ier.ETBEI)
    uart.write(Reg.DATA, 0x41)
    assert edges == [True, False, True]


def test_without_out2_the_interrupt_stays_off_the_bus(uart, edges):
    uart.write(Reg.MCR, 0)
    uart.write(Reg.IER, Ier.ETBEI)
    assert edges == []
    uart.write(Reg.MCR, Mcr.OUT2)
    assert edges == [True]


def test_receiver_without_fifo_holds_one_byte(uart):
    assert uart.receive(b"abc") == 1
    assert uart.read(Reg.LSR) & Lsr.DR
    assert uart.read(Reg.DATA) == ord("a")
    assert not uart.read(Reg.LSR) & Lsr.DR


def test_fifo_takes_sixteen_bytes(uart):
    uart.write(Reg.IIR_FCR, Fcr.ENABLE)
    assert uart.receive(bytes(range(20))) == 16
    assert [uart.read(Reg.DATA) for _ in range(16)] == list(range(16))


def test_backend_learns_of_room_when_the_receiver_is_empty(uart, sink):
    uart.receive(b"a")
    assert sink.rooms == 0
    uart.read(Reg.DATA)
    assert sink.rooms == 1


def test_data_below_the_trigger_level_is_a_timeout(uart):
    uart.write(Reg.IIR_FCR, Fcr.ENABLE | 0x40)  # trigger at 4 bytes
    uart.write(Reg.IER, Ier.ERBFI)
    uart.receive(b"abc")
    assert uart.read(Reg.IIR_FCR) == Iir.TIMEOUT | Iir.FIFOS
    uart.receive(b"d")
    assert uart.read(Reg.IIR_FCR) == Iir.RX | Iir.FIFOS


def test_receive_interrupt_falls_with_the_last_byte(uart, edges):
    uart.write(Reg.IIR_FCR, Fcr.ENABLE)
    uart.write(Reg.IER, Ier.ERBFI)
    uart.receive(b"ab")
    uart.read(Reg.DATA)
    assert edges == [True]
    uart.read(Reg.DATA)
    assert edges == [True, False]


def test_clearing_the_receive_fifo_drops_its_bytes(uart):
    uart.write(Reg.IIR_FCR, Fcr.ENABLE)
    uart.receive(b"abc")
    uart.write(Reg.IIR_FCR, Fcr.ENABLE | Fcr.CLEAR_RX)
    assert not uart.read(Reg.LSR) & Lsr.DR


def test_fcr_without_enable_programs_nothing(uart):
    uart.write(Reg.IIR_FCR, 0xC0)
    assert uart.state.fcr == 0


def test_receive_outranks_transmit(uart):
    uart.write(Reg.IER, Ier.ERBFI | Ier.ETBEI)
    uart.receive(b"a")
    assert uart.read(Reg.IIR_FCR) == Iir.RX
    uart.read(Reg.DATA)
    assert uart.read(Reg.IIR_FCR) == Iir.THRE


def test_loopback_returns_what_was_sent(uart, sink):
    uart.write(Reg.MCR, Mcr.LOOP)
    uart.write(Reg.DATA, 0x5A)
    assert uart.read(Reg.DATA) == 0x5A
    assert sink.sent == b""


def test_loopback_wires_outputs_to_inputs(uart):
    uart.write(Reg.MCR, Mcr.LOOP | Mcr.RTS | Mcr.OUT2)  # as Linux's 8250 probe does: 1Ah
    assert uart.read(Reg.MSR) & 0xF0 == Msr.CTS | Msr.DCD


def test_loopback_overrun_is_reported_once(uart):
    uart.write(Reg.MCR, Mcr.LOOP)
    uart.write(Reg.DATA, 1)
    uart.write(Reg.DATA, 2)
    assert uart.read(Reg.LSR) & Lsr.OE
    assert not uart.read(Reg.LSR) & Lsr.OE


def test_loopback_keeps_the_line_waiting(uart, sink):
    uart.write(Reg.MCR, Mcr.LOOP)
    assert uart.receive(b"a") == 0
    uart.write(Reg.MCR, Mcr.OUT2)
    assert sink.rooms == 1


def test_modem_change_sets_delta_bits_until_read(uart, edges):
    uart.write(Reg.IER, Ier.EDSSI)
    uart.set_modem(Msr.DSR | Msr.DCD)
    assert uart.read(Reg.IIR_FCR) == Iir.MODEM
    assert uart.read(Reg.MSR) == Msr.DCTS | Msr.DSR | Msr.DCD
    assert uart.read(Reg.MSR) == Msr.DSR | Msr.DCD
    assert edges == [True, False]


def test_ring_counts_when_it_ends(uart):
    uart.set_modem(uart.state.modem | Msr.RI)
    assert not uart.read(Reg.MSR) & Msr.TERI
    uart.set_modem(uart.state.modem & ~Msr.RI)
    assert uart.read(Reg.MSR) & Msr.TERI


def test_a_break_is_a_line_status_interrupt_and_a_zero_byte(uart):
    uart.write(Reg.IER, Ier.ELSI)
    uart.receive_break()
    assert uart.read(Reg.IIR_FCR) == Iir.LINE
    assert uart.read(Reg.LSR) & Lsr.BI
    assert uart.read(Reg.IIR_FCR) == Iir.NONE
    assert uart.read(Reg.DATA) == 0


def test_restore_drives_the_line_again(uart, irq):
    uart.write(Reg.IER, Ier.ETBEI)
    saved = uart.state
    uart.reset()
    assert not irq.level
    uart.restore(saved)
    assert irq.level


def test_a_port_that_is_not_set_up_receives_nothing(irq, sink):
    chip = Ns16550(irq, sink)
    assert chip.receive(b"a") == 0


def test_nothing_is_sent_while_rts_is_down_and_dtr_up(uart):
    uart.write(Reg.MCR, Mcr.DTR)
    assert uart.receive(b"a") == 0
    uart.write(Reg.MCR, Mcr.DTR | Mcr.RTS)
    assert uart.receive(b"a") == 1


def test_backend_learns_when_rts_goes_up(uart, sink):
    uart.write(Reg.MCR, Mcr.DTR)
    sink.rooms = 0
    uart.write(Reg.MCR, Mcr.DTR | Mcr.RTS)
    assert sink.rooms == 1


def test_backend_learns_when_receive_interrupts_are_taken(uart, sink):
    uart.write(Reg.IER, Ier.ERBFI)
    assert sink.rooms == 1


def test_setting_the_line_up_alone_calls_for_nothing(irq, sink):
    chip = Ns16550(irq, sink)
    chip.write(Reg.LCR, EIGHT_BITS)
    assert sink.rooms == 0
    chip.read(Reg.LSR)  # a polled port says so by looking
    assert sink.rooms == 1


def test_setting_the_line_up_last_lets_the_other_end_send(irq, sink):
    chip = Ns16550(irq, sink)
    chip.write(Reg.IER, Ier.ERBFI)
    assert sink.rooms == 0
    chip.write(Reg.LCR, EIGHT_BITS)
    assert sink.rooms == 1
