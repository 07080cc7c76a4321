"""PC16550D UART: the PC's COM ports.

Datasheet: National Semiconductor, "PC16550D Universal Asynchronous Receiver/Transmitter with FIFOs", June
1995.  Register and bit names are the datasheet's; a section sign (§) is a section of it.

On a PC the OUT2 pin enables the interrupt's way to the bus; it is inactive while the chip loops back.

Time on the line is not modelled: a byte written to THR reaches the backend at once, so THRE and TEMT always
read 1, and bytes waiting below the trigger level count as timed out.  `receive` takes only what fits, so the
line never overruns (OE); looping back can.  The other end honours the handshake: it sends nothing to a port
that is not set up, or whose RTS is down while DTR is up.  Word length, parity and divisor are stored and not
applied, a break that the guest sends is not seen by the backend, and DMA mode has no pins to show itself at.
"""

from dataclasses import dataclass, field

from ring3 import trace
from ring3.char import CharBackend
from ring3.irq import IrqLine

FIFO_DEPTH = 16  # bytes
TRIGGER = (1, 4, 8, 14)  # bytes, by FCR bits 7:6 (§8.5)


class Reg:  # offset from the port's base (§8.0, table II)
    DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)


class Ier:  # interrupt enable (§8.7)
    ERBFI, ETBEI, ELSI, EDSSI = 0x01, 0x02, 0x04, 0x08


class Iir:  # interrupt identification (§8.6)
    MODEM, NONE, THRE, RX, LINE, TIMEOUT, FIFOS = 0x00, 0x01, 0x02, 0x04, 0x06, 0x0C, 0xC0


class Fcr:  # FIFO control (§8.5)
    ENABLE, CLEAR_RX, CLEAR_TX, DMA_MODE, TRIGGER = 0x01, 0x02, 0x04, 0x08, 0xC0


class Lcr:  # line control (§8.1)
    BREAK, DLAB = 0x40, 0x80


class Mcr:  # modem control (§8.8)
    DTR, RTS, OUT1, OUT2, LOOP = 0x01, 0x02, 0x04, 0x08, 0x10


class Lsr:  # line status (§8.4)
    DR, OE, PE, FE, BI, THRE, TEMT, FIFO_ERROR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80


class Msr:  # modem status (§8.9)
    DCTS, DDSR, TERI, DDCD, CTS, DSR, RI, DCD = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    ier: int = 0
    fcr: int = 0
    lcr: int = 0
    mcr: int = 0
    scr: int = 0
    divisor: int = 1  # of 115200 baud (§8.3)
    rx: bytearray = field(default_factory=bytearray)
    rx_errors: bytearray = field(default_factory=bytearray)  # LSR's BI for each byte of rx
    overrun: bool = False
    thre_pending: bool = False
    modem: int = Msr.CTS | Msr.DSR | Msr.DCD  # the input pins, as MSR shows them
    modem_delta: int = 0


class Ns16550:
    def __init__(self, irq: IrqLine, backend: CharBackend) -> None:
        self.irq = irq
        self.backend = backend
        self.state = State()

    # --- the guest's side: byte registers at an offset from the port's base ---

    def read(self, offset: int) -> int:
        s = self.state
        value = 0
        match offset:
            case Reg.LSR:
                if not s.rx and self._listens():
                    self.backend.room()  # a polled port says in no other way that it has been set up
                value = self._line_status()
                s.overrun = False
                if s.rx_errors:
                    s.rx_errors[0] = 0
            case Reg.DATA if s.lcr & Lcr.DLAB:
                value = s.divisor & 0xFF
            case Reg.IER if s.lcr & Lcr.DLAB:
                value = s.divisor >> 8
            case Reg.DATA if s.rx:
                value = self._take()
            case Reg.IER:
                value = s.ier
            case Reg.IIR_FCR:
                value = self._cause()
                if value == Iir.THRE:
                    s.thre_pending = False
                value |= Iir.FIFOS if s.fcr & Fcr.ENABLE else 0
            case Reg.LCR:
                value = s.lcr
            case Reg.MCR:
                value = s.mcr
            case Reg.MSR:
                value = s.modem_delta | self._modem_inputs()
                s.modem_delta = 0
            case Reg.SCR:
                value = s.scr
        self._update_irq()
        return value

    def write(self, offset: int, value: int) -> None:
        s = self.state
        match offset:
            case Reg.DATA if s.lcr & Lcr.DLAB:
                s.divisor = s.divisor & 0xFF00 | value
            case Reg.IER if s.lcr & Lcr.DLAB:
                s.divisor = s.divisor & 0x00FF | value << 8
            case Reg.DATA:
                self._send(value)
            case Reg.IER:
                if value & ~s.ier & Ier.ETBEI:
                    s.thre_pending = True
                s.ier = value & 0x0F
                if self._listens():
                    self.backend.room()
            case Reg.IIR_FCR:
                self._control_fifo(value)
            case Reg.LCR:
                s.lcr = value
                # Not on MCR's reset value alone: Linux sets the line up first, and drops RTS just after.
                if self._listens() and (s.mcr & Mcr.RTS or s.ier & Ier.ERBFI):
                    self.backend.room()
            case Reg.MCR:
                self._control_modem(value & 0x1F)
            case Reg.SCR:
                s.scr = value
            case _:
                trace.odd("uart", "write of %02Xh to read-only register %d", value, offset)
        self._update_irq()

    # --- the host's side ---

    def receive(self, data: bytes) -> int:
        """Bytes arriving on the line.  Returns how many fitted; `room` tells when to offer the rest."""
        if not self._listens():
            return 0
        taken = self._store(data)
        self._update_irq()
        return taken

    def receive_break(self) -> None:
        """The line is held at space for longer than a character: a break (§8.4), lost if there is no room."""
        if not self.state.mcr & Mcr.LOOP and self._store(b"\0"):
            self.state.rx_errors[-1] = Lsr.BI
            self._update_irq()

    def set_modem(self, inputs: int) -> None:
        """The other side's modem lines changed: a mask of Msr.CTS, DSR, RI and DCD."""
        before = self._modem_inputs()
        self.state.modem = inputs & 0xF0
        self._note_modem_change(before)
        self._update_irq()

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self._update_irq()
        self.backend.room()

    # --- what the guest's writes do ---

    def _take(self) -> int:
        """The byte at RBR leaves the receiver."""
        s = self.state
        value = s.rx.pop(0)
        del s.rx_errors[0]
        if not s.rx:
            self.backend.room()
        return value

    def _store(self, data: bytes) -> int:
        """Fill the receiver with as much of `data` as fits."""
        s = self.state
        room = (FIFO_DEPTH if s.fcr & Fcr.ENABLE else 1) - len(s.rx)
        taken = min(room, len(data))
        s.rx += data[:taken]
        s.rx_errors += bytes(taken)
        return taken

    def _send(self, value: int) -> None:
        s = self.state
        if s.thre_pending:  # THR is full for a moment: an edge-triggered controller must see the line fall
            s.thre_pending = False
            self._update_irq()
        data = bytes((value,))
        if not s.mcr & Mcr.LOOP:
            self.backend.write(data)
        elif not self._store(data):
            s.overrun = True
        s.thre_pending = True

    def _control_fifo(self, value: int) -> None:
        """FCR (§8.5): the other bits count only with ENABLE set, and changing ENABLE empties the FIFOs."""
        s = self.state
        if (value ^ s.fcr) & Fcr.ENABLE or (value & Fcr.ENABLE and value & Fcr.CLEAR_RX):
            s.rx.clear()
            s.rx_errors.clear()
            self.backend.room()
        s.fcr = value & (Fcr.ENABLE | Fcr.DMA_MODE | Fcr.TRIGGER) if value & Fcr.ENABLE else 0

    def _control_modem(self, value: int) -> None:
        s = self.state
        before = self._modem_inputs()
        s.mcr = value
        self._note_modem_change(before)
        if self._listens():
            self.backend.room()

    # --- derived, never stored ---

    def _listens(self) -> bool:
        """Whether the other end sends.

        Linux holds RTS down and DTR up until a program opens the port, and empties the FIFO before it lifts
        RTS; what was typed before, or comes from a pipe at once, waits for that.
        """
        s = self.state
        if s.mcr & Mcr.LOOP or not s.lcr & ~Lcr.DLAB:
            return False
        return s.mcr & (Mcr.DTR | Mcr.RTS) != Mcr.DTR

    def _line_status(self) -> int:
        s = self.state
        value = Lsr.THRE | Lsr.TEMT
        if s.rx:
            value |= Lsr.DR | s.rx_errors[0]
            if s.fcr & Fcr.ENABLE and any(s.rx_errors):
                value |= Lsr.FIFO_ERROR
        return value | Lsr.OE if s.overrun else value

    def _modem_inputs(self) -> int:
        """MSR bits 7:4: the pins, or with LOOP the chip's own outputs (§8.8)."""
        mcr = self.state.mcr
        if not mcr & Mcr.LOOP:
            return self.state.modem
        return (
            (Msr.CTS if mcr & Mcr.RTS else 0)
            | (Msr.DSR if mcr & Mcr.DTR else 0)
            | (Msr.RI if mcr & Mcr.OUT1 else 0)
            | (Msr.DCD if mcr & Mcr.OUT2 else 0)
        )

    def _note_modem_change(self, before: int) -> None:
        """Set the delta bits; RI counts only when it goes away (§8.9)."""
        now = self._modem_inputs()
        changed = (before ^ now) & ~(now & Msr.RI)
        self.state.modem_delta |= changed >> 4

    def _cause(self) -> int:
        """The enabled cause of highest priority, as IIR reports it (§8.6, table IV)."""
        s = self.state
        ier = s.ier
        if ier & Ier.ELSI and (s.overrun or (s.rx_errors and s.rx_errors[0])):
            return Iir.LINE
        if s.rx and ier & Ier.ERBFI:
            trigger = TRIGGER[s.fcr >> 6] if s.fcr & Fcr.ENABLE else 1
            return Iir.RX if len(s.rx) >= trigger else Iir.TIMEOUT
        if s.thre_pending and ier & Ier.ETBEI:
            return Iir.THRE
        if s.modem_delta and ier & Ier.EDSSI:
            return Iir.MODEM
        return Iir.NONE

    def _update_irq(self) -> None:
        gate = self.state.mcr & (Mcr.OUT2 | Mcr.LOOP) == Mcr.OUT2
        self.irq.set(gate and self._cause() != Iir.NONE)
