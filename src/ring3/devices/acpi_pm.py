"""82371AB (PIIX4) power management: ACPI's PM1 and GPE0 registers, PM timer and SMI command port.

Datasheets: Intel, "82371AB PCI-to-ISA/IDE Xcelerator (PIIX4)", 290562, function 3; ACPI Specification,
chapter 4 ("ACPI Hardware Specification").  Register names are PIIX4's, offsets are from PMBASE.

The timer counts 14.31818 MHz / 4, exactly 315/88 MHz, in 24 bits, and is computed.  Firmware with system
management mode would answer the SMI command port; there is none, so writing ACPI_ENABLE or ACPI_DISABLE to
it switches SCI_EN, as such firmware does.

Not modelled: sleep states other than S5 (traced and ignored), throttling and C states (stored), device
monitors and global standby (stored), RTC wake-up, SMBus, and SMIs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices.face import Registers
from ring3.devices.pci.config import Command, Moved, PciFunction, image
from ring3.devices.pci.config import Reg as PciReg
from ring3.irq import IrqLine

PORTS = 64  # that PMBASE decodes
SOFT_OFF = 0  # SUS_TYP of S5
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0  # commands to the SMI port
TIMER_BITS = 24
TIMER_MASK = 0xFF_FFFF


class Reg:
    PMSTS, PMEN, PMCNTRL, PMTMR, GPSTS, GPEN = 0x00, 0x02, 0x04, 0x08, 0x0C, 0x0E


class Pm1:  # status and enable
    TMROF, GBL, PWRBTN, RTC, RSM = 0x0001, 0x0020, 0x0100, 0x0400, 0x8000
    ENABLES = TMROF | GBL | PWRBTN | RTC
    STATUSES = ENABLES | 0x0010 | RSM  # and BM_STS


class PmControl:
    SCI_EN, BRLD_EN, GBL_RLS, SUS_TYP, SUS_EN = 0x0001, 0x0002, 0x0004, 0x1C00, 0x2000


GPI = 9  # bit of GPSTS and GPEN: the general-purpose input
GPE_BITS = 0x0F01  # of GPSTS and GPEN: THRM, LID, RI, GPI and USB
GENERAL = range(0x10, 0x38)  # PCNTRL to GPOREG: stored


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    pmsts: int = 0
    pmen: int = 0
    pmcntrl: int = 0
    gpsts: int = 0
    gpen: int = 0
    general: bytearray = field(default_factory=lambda: bytearray(len(GENERAL)))
    apmc: int = 0
    apms: int = 0
    seen_ns: int = 0  # timer overflows up to here are in pmsts


class AcpiPm:
    """The registers at PMBASE; `smi` is the pair of ports B2h (APMC) and B3h (APMS)."""

    def __init__(self, clock: Clock, sci: IrqLine, power_off: Callable[[], None]) -> None:
        self.clock = clock
        self.sci = sci
        self._power_off = power_off
        self._timer = Timer(clock, self._update)
        self.state = State(seen_ns=clock.now())
        self.smi = Registers(self._read_smi, self._write_smi)

    # --- the guest's side ---

    def read(self, offset: int, size: int) -> int:
        if offset & ~3 == Reg.PMTMR:
            value = self.clock.now() * 315 // 88_000 & TIMER_MASK
            return value if size == 4 else value >> 8 * (offset & 3) & ((1 << 8 * size) - 1)
        self._catch_up()
        return int.from_bytes(self._registers()[offset : offset + size], "little")

    def write(self, offset: int, value: int, size: int) -> None:
        self._catch_up()
        for at in range(offset, offset + size):
            self._write_byte(at, value & 0xFF)
            value >>= 8
        self._update()

    def reset(self) -> None:
        self.restore(State(seen_ns=self.clock.now()))

    def restore(self, state: State) -> None:
        self.state = state
        self._update()

    # --- the host's side ---

    def press_power_button(self) -> None:
        """A short press: the guest is asked to shut down."""
        self.state.pmsts |= Pm1.PWRBTN
        self._update()

    def raise_gpe(self, bits: int) -> None:
        """General-purpose events of other chips, by their bits in GPSTS."""
        self.state.gpsts |= bits & GPE_BITS
        self._update()

    # --- registers ---

    def _registers(self) -> bytes:
        s = self.state
        words = (s.pmsts, s.pmen, s.pmcntrl, 0, 0, 0, s.gpsts, s.gpen)
        return b"".join(w.to_bytes(2, "little") for w in words) + s.general + bytes(PORTS - GENERAL.stop)

    def _write_byte(self, offset: int, value: int) -> None:
        s = self.state
        shift = 8 * (offset & 1)
        bits, kept = value << shift, 0xFF00 >> shift
        match offset & ~1:
            case Reg.PMSTS:
                s.pmsts &= ~bits
            case Reg.PMEN:
                s.pmen = (s.pmen & kept | bits) & Pm1.ENABLES
            case Reg.PMCNTRL:
                s.pmcntrl = s.pmcntrl & kept | bits & ~(PmControl.GBL_RLS | PmControl.SUS_EN) & 0x3C07
                if bits & PmControl.SUS_EN:
                    self._suspend()
            case Reg.GPSTS:
                s.gpsts &= ~bits
            case Reg.GPEN:
                s.gpen = (s.gpen & kept | bits) & GPE_BITS
            case _ if offset in GENERAL:
                s.general[offset - GENERAL.start] = value
            case _:
                trace.odd("acpi_pm", "write of %02Xh to read-only offset %02Xh", value, offset)

    def _suspend(self) -> None:
        kind = (self.state.pmcntrl & PmControl.SUS_TYP) >> 10
        if kind == SOFT_OFF:
            self._power_off()
        else:
            trace.odd("acpi_pm", "sleep type %d is not modelled", kind)

    def _read_smi(self, offset: int) -> int:
        return self.state.apms if offset else self.state.apmc

    def _write_smi(self, offset: int, value: int) -> None:
        s = self.state
        if offset:
            s.apms = value
            return
        s.apmc = value
        if value == ACPI_ENABLE:
            s.pmcntrl |= PmControl.SCI_EN
        elif value == ACPI_DISABLE:
            s.pmcntrl &= ~PmControl.SCI_EN
        self._update()

    # --- the timer and the interrupt ---

    def _ticks(self, at_ns: int) -> int:
        return at_ns * 315 // 88_000

    def _overflows(self, at_ns: int) -> int:
        """How often the timer's top bit changed, which is what sets TMROF_STS."""
        return self._ticks(at_ns) >> TIMER_BITS - 1

    def _catch_up(self) -> None:
        s = self.state
        now_ns = self.clock.now()
        if self._overflows(now_ns) != self._overflows(s.seen_ns):
            s.pmsts |= Pm1.TMROF
        s.seen_ns = now_ns

    def _update(self) -> None:
        """Drive SCI, and have a timer for an overflow that would raise it."""
        self._catch_up()
        s = self.state
        enabled = s.pmcntrl & PmControl.SCI_EN
        self.sci.set(bool(enabled and (s.pmsts & s.pmen or s.gpsts & s.gpen)))
        if enabled and s.pmen & ~s.pmsts & Pm1.TMROF:
            ticks = self._overflows(s.seen_ns) + 1 << TIMER_BITS - 1
            self._timer.arm(-(-ticks * 88_000 // 315))
        else:
            self._timer.cancel()


PMBASE, DEVACTB, PMREGMISC = 0x40, 0x58, 0x80
APMC_EN = 1 << 25                       # of DEVACTB: writes to the SMI command port raise an SMI

FUNCTION_RESET = image(
    (PciReg.VENDOR, 2, 0x8086),
    (PciReg.DEVICE, 2, 0x7113),
    (PciReg.STATUS, 2, 0x0280),
    (PciReg.REVISION, 1, 0x03),
    (PciReg.CLASS, 3, 0x06_80_00),
    (PciReg.INTERRUPT_PIN, 1, 0x01),
    (PMBASE, 4, 0x0000_0001),
    # The SMI command port works from the start: what an SMI handler would do, this chip does itself.  A
    # BIOS that finds it on leaves system management mode alone, which this machine does not have.
    (DEVACTB, 4, APMC_EN),
)

FUNCTION_WRITABLE = image(
    (PciReg.COMMAND, 2, Command.IO),
    (PciReg.INTERRUPT_LINE, 1, 0xFF),
    (PMBASE, 2, 0xFFC0),
    (0x44, 0x1C, (1 << 8 * 0x1C) - 1),  # CNTA, CNTB, GPICTL, DEVRES
    (0x60, 0x1C, (1 << 8 * 0x1C) - 1),
    (PMREGMISC, 1, 0x01),
    (0x90, 4, 0xFFF1),  # SMBBA
    (0xD2, 5, 0xFF_FFFF_FFFF),  # SMBus
)


@dataclass(slots=True)
class FunctionState:
    """Configuration space at its reset value; also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(FUNCTION_RESET))


class PmFunction(PciFunction):
    """The PCI function (8086h:7113h) whose PMBASE says where AcpiPm's registers are."""

    state: FunctionState

    def __init__(self, moved: Moved) -> None:
        """`moved(0, base)`: the 64 ports are at `base` now; None: nowhere."""
        super().__init__(FunctionState(), FUNCTION_WRITABLE)
        self._pm_moved = moved
        self._base: int | None = None

    def place(self, base: int) -> None:
        """What firmware does: put the registers at `base` and turn them on."""
        self.write_config(PMBASE, base, 4)
        self.write_config(PMREGMISC, 1, 1)

    def config_written(self, offset: int, size: int) -> None:
        config = self.state.config
        base = int.from_bytes(config[PMBASE : PMBASE + 2], "little") & 0xFFC0
        wanted = base if config[PMREGMISC] & 1 else None
        if wanted != self._base:
            self._base = wanted
            self._pm_moved(0, wanted)

    def reset(self) -> None:
        self.restore(FunctionState())

    def restore(self, state: FunctionState) -> None:
        self.state = state
        self.restore_config()
