"""UHCI: the USB host controller of the PIIX3, its PCI function 2.

Intel, "Universal Host Controller Interface (UHCI) Design Guide", 1.1; 290550 for the PCI function.  Names of
registers and fields are the design guide's.

A real controller walks its schedule in memory each millisecond.  Here it does so while there is something to
do: as long as transfers complete, or a device has something to send.  Otherwise every transaction would be a
NAK, and the schedule is looked at now and then, for transfers newly queued: less often, the longer ago the
last one was, because each look wakes the host.  FRNUM counts on by the clock.

A look is at all the frames since the last one (FRAMES_MAX at most), for an interrupt transfer is in one of
many.  What they share is walked once, as long as nothing in it makes progress.  A transfer descriptor is
retired when its transaction is: nothing takes time on the wire.

Modelled: control, bulk, interrupt and isochronous descriptors, depth and breadth first, short packets,
errors of devices that aren't there, both ports, resets, suspend, resume and remote wake-up.  Not modelled:
SMI legacy support (register stored), bandwidth, data toggles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices.face import Memory
from ring3.devices.pci.config import Bar, Moved, PciFunction, image
from ring3.devices.pci.config import Command as PciCommand
from ring3.devices.pci.config import Reg as Pci
from ring3.devices.usb.device import NAK, STALL, Handshake, UsbDevice
from ring3.irq import IrqLine

PORTS = 32
FRAME_NS = 1_000_000
FRAME_LIST = 1024                       # entries
BUSY_FRAMES = 32                        # how long after the last transfer each frame is looked at,
AWAKE_FRAMES, AWAKE_STRIDE = 2048, 32   # … and then one in 32: drivers pause while they set a device up
FRAMES_MAX = 128                        # of one walk, and from one to the next when idle
TRANSFERS_MAX = 64                      # of one walk; a frame has room for some 19 of the longest
LINKS_MAX = 1024                        # of one walk: a schedule that runs in circles ends, too


class Reg:
    USBCMD, USBSTS, USBINTR, FRNUM, FLBASEADD, SOFMOD, PORTSC = 0x00, 0x02, 0x04, 0x06, 0x08, 0x0C, 0x10


class Command:
    RS, HCRESET, GRESET, EGSM, FGR, SWDBG = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Status:
    USBINT, ERROR, RESUME, HOST_ERROR, PROCESS_ERROR, HALTED = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class Interrupt:
    ERROR, RESUME, COMPLETE, SHORT = 0x01, 0x02, 0x04, 0x08


class Port:
    CONNECTED, CONNECT_CHANGE, ENABLED, ENABLE_CHANGE = 0x0001, 0x0002, 0x0004, 0x0008
    RESUME, ONE, RESET, SUSPEND = 0x0040, 0x0080, 0x0200, 0x1000
    WRITABLE = ENABLED | RESUME | RESET | SUSPEND
    CHANGES = CONNECT_CHANGE | ENABLE_CHANGE


class Link:
    TERMINATE, QUEUE, DEPTH_FIRST = 0x1, 0x2, 0x4
    ADDRESS = 0xFFFF_FFF0


class Td:  # control and status dword of a transfer descriptor
    SHORT_PACKET, ISOCHRONOUS, IOC, ACTIVE = 1 << 29, 1 << 25, 1 << 24, 1 << 23
    STALLED, BABBLE, NAK, TIMEOUT = 1 << 22, 1 << 20, 1 << 19, 1 << 18
    ERRORS, ONE_ERROR = 3 << 27, 1 << 27
    LENGTH = 0x7FF


class Pid:
    IN, OUT, SETUP = 0x69, 0xE1, 0x2D


RESET = image(
    (Pci.VENDOR, 2, 0x8086),
    (Pci.DEVICE, 2, 0x7020),
    (Pci.STATUS, 2, 0x0280),
    (Pci.REVISION, 1, 0x01),
    (Pci.CLASS, 3, 0x0C_03_00),
    (0x20, 4, 0x0000_0001),             # USBBA
    (Pci.INTERRUPT_PIN, 1, 0x04),
    (0x60, 1, 0x10),                    # SBRNUM: USB 1.0
    (0xC0, 2, 0x2000),                  # LEGSUP
)
WRITABLE = image(
    (Pci.COMMAND, 2, PciCommand.IO | PciCommand.MASTER),
    (Pci.LATENCY, 1, 0xF8),
    (Pci.INTERRUPT_LINE, 1, 0xFF),
    (0xC0, 2, 0x20BF),
)
CLEARABLE = image((Pci.STATUS, 2, 0x7800), (0xC0, 2, 0x9F00))
NO_BAR = Bar(1 << 32, io=True)          # only BAR 4 is there


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    config: bytearray = field(default_factory=lambda: bytearray(RESET))
    command: int = 0
    status: int = 0                     # but HALTED
    complete: bool = False              # what USBINT stands for
    short: bool = False
    enabled: int = 0                    # interrupts
    frame: int = 0                      # at `base_ns`, while it runs
    base_ns: int = 0
    walked: int = 0                     # frames since then that were looked at
    awake: int = 0                      # frames to go until idle
    frame_list: int = 0
    sofmod: int = 0x40
    ports: list[int] = field(default_factory=lambda: [0, 0])


class Uhci(PciFunction):
    """A wide face of 32 ports."""

    state: State

    def __init__(
        self, clock: Clock, memory: Memory, irq: IrqLine, devices: Sequence[UsbDevice], moved: Moved
    ) -> None:
        """`devices`: what is plugged in, two at most; tell `kick` when one has something to send."""
        super().__init__(
            State(), WRITABLE, clearable=CLEARABLE, bars=(NO_BAR,) * 4 + (Bar(PORTS, io=True),),
            moved=lambda bar, base: moved(bar, base) if bar == 4 else None,
        )  # fmt: skip
        self._clock = clock
        self._memory = memory
        self._irq = irq
        self._devices = devices
        self._timer = Timer(clock, self._due)
        self._plug_in()

    def kick(self) -> None:
        """A device has something to send: looks at the schedule at the next frame, or wakes the host."""
        s = self.state
        asleep = s.command & Command.EGSM
        for number, device in enumerate(self._devices):
            suspended = asleep or s.ports[number] & Port.SUSPEND
            if suspended and s.ports[number] & Port.ENABLED and device.pending and device.remote_wakeup:
                s.ports[number] |= Port.RESUME
                s.command |= Command.FGR if asleep else 0
                s.status |= Status.RESUME
                self._update_irq()
        if self._runs():
            self._timer.arm(self._frame_ns(self._elapsed() + 1))

    def reset(self) -> None:
        self.state = State()
        self._plug_in()
        self.restore(self.state)

    def restore(self, state: State) -> None:
        self.state = state
        self.restore_config()
        self._arm()
        self._update_irq()

    # --- ports ---

    def read(self, offset: int, size: int) -> int:
        s = self.state
        words = {
            Reg.USBCMD: s.command,
            Reg.USBSTS: s.status | (0 if s.command & Command.RS else Status.HALTED),
            Reg.USBINTR: s.enabled,
            Reg.FRNUM: self._frame_number(),
            Reg.FLBASEADD: s.frame_list & 0xFFFF,
            Reg.FLBASEADD + 2: s.frame_list >> 16,
            Reg.SOFMOD: s.sofmod,
            Reg.PORTSC: s.ports[0] | Port.ONE,
            Reg.PORTSC + 2: s.ports[1] | Port.ONE,
        }
        value = words.get(offset & ~1, 0xFFFF if offset > 0x13 else 0)
        if size == 4:
            value |= words.get((offset & ~1) + 2, 0xFFFF if offset > 0x11 else 0) << 16
        return value >> 8 * (offset & 1) & (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        if size == 4:
            self._write_word(offset, value & 0xFFFF)
            self._write_word(offset + 2, value >> 16)
        elif size == 2:
            self._write_word(offset, value)
        elif offset == Reg.SOFMOD:
            self.state.sofmod = value & 0x7F
        else:
            trace.odd("uhci", "write of a byte to %Xh", offset)

    def _write_word(self, offset: int, value: int) -> None:
        s = self.state
        match offset:
            case Reg.USBCMD:
                self._write_command(value)
            case Reg.USBSTS:
                s.status &= ~value
                if value & Status.USBINT:
                    s.complete = s.short = False
            case Reg.USBINTR:
                s.enabled = value & 0x0F
            case Reg.FRNUM if not s.command & Command.RS:
                s.frame = value & 0x7FF
            case Reg.FLBASEADD:
                s.frame_list = s.frame_list & 0xFFFF_0000 | value & 0xF000
            case 0x0A:
                s.frame_list = s.frame_list & 0xFFFF | value << 16
            case Reg.SOFMOD:
                s.sofmod = value & 0x7F
            case Reg.PORTSC | 0x12:
                self._write_port(offset - Reg.PORTSC >> 1, value)
        self._update_irq()

    def _write_command(self, value: int) -> None:
        s = self.state
        if value & Command.HCRESET:
            config = s.config
            self.state = State(config=config)
            self._plug_in()
            self._timer.cancel()
            return
        if value & Command.GRESET and not s.command & Command.GRESET:
            for device in self._devices:
                device.bus_reset()
        if (value ^ s.command) & Command.RS:
            s.frame = self._frame_number()
            s.base_ns, s.walked, s.awake = self._clock.now(), 0, AWAKE_FRAMES
        s.command = value & 0xFF
        self._arm()

    def _write_port(self, number: int, value: int) -> None:
        s = self.state
        before = s.ports[number]
        fixed = before & (Port.CONNECTED | Port.CHANGES & ~value)
        after = fixed | value & Port.WRITABLE
        if not after & Port.CONNECTED:
            after &= ~Port.ENABLED
        if before & Port.RESET and not value & Port.RESET and number < len(self._devices):
            self._devices[number].bus_reset()
        if value & Port.RESET:
            after &= ~Port.ENABLED
        s.ports[number] = after
        self._arm()

    def _plug_in(self) -> None:
        for number, device in enumerate(self._devices):
            device.bus_reset()
            self.state.ports[number] = Port.CONNECTED | Port.CONNECT_CHANGE

    # --- frames ---

    def _runs(self) -> bool:
        s = self.state
        return (
            s.command & (Command.RS | Command.EGSM | Command.GRESET) == Command.RS
            and any(port & Port.ENABLED for port in s.ports)
        )

    def _pending(self) -> bool:
        return any(device.pending for device in self._devices)

    def _elapsed(self) -> int:
        """Frames since `base_ns`."""
        return (self._clock.now() - self.state.base_ns) // FRAME_NS

    def _frame_ns(self, elapsed: int) -> int:
        return self.state.base_ns + elapsed * FRAME_NS

    def _frame_number(self) -> int:
        s = self.state
        return s.frame + (self._elapsed() if s.command & Command.RS else 0) & 0x7FF

    def _arm(self) -> None:
        if not self._runs():
            self._timer.cancel()
            return
        self._timer.arm(self._frame_ns(self._elapsed() + self._stride()))

    def _stride(self) -> int:
        """Frames to the next look."""
        awake = self.state.awake
        if awake > AWAKE_FRAMES - BUSY_FRAMES or self._pending():
            return 1
        return AWAKE_STRIDE if awake else FRAMES_MAX

    def _due(self) -> None:
        s = self.state
        elapsed = self._elapsed()
        passed = max(1, elapsed - s.walked)
        s.walked, s.awake = elapsed, max(0, s.awake - passed)
        if s.config[Pci.COMMAND] & PciCommand.MASTER:
            walk = Walk(self._memory, self._enabled_devices())
            for link in self._frames(s.frame + elapsed, min(passed, FRAMES_MAX)):
                walk.frame(link)
            if walk.transfers:
                s.awake = AWAKE_FRAMES
            self._report(walk)
        self._arm()

    def _frames(self, last: int, count: int) -> list[int]:
        """Entries of the frame list, which is a ring, up to the one of frame number `last`."""
        first = last - count + 1 & FRAME_LIST - 1
        in_row = min(count, FRAME_LIST - first)
        base = self.state.frame_list
        data = self._memory.read(base + 4 * first, 4 * in_row) + self._memory.read(base, 4 * (count - in_row))
        return [int.from_bytes(data[at : at + 4], "little") for at in range(0, 4 * count, 4)]

    def _enabled_devices(self) -> list[UsbDevice]:
        return [
            device
            for device, port in zip(self._devices, self.state.ports, strict=False)
            if port & (Port.ENABLED | Port.SUSPEND) == Port.ENABLED
        ]

    def _report(self, walk: "Walk") -> None:
        s = self.state
        s.complete |= walk.complete
        s.short |= walk.short
        if walk.complete or walk.short:
            s.status |= Status.USBINT
        if walk.errors:
            s.status |= Status.ERROR
        self._update_irq()

    def _update_irq(self) -> None:
        s = self.state
        causes = Interrupt.COMPLETE if s.complete else 0
        causes |= Interrupt.SHORT if s.short else 0
        causes |= Interrupt.ERROR if s.status & Status.ERROR else 0
        causes |= Interrupt.RESUME if s.status & Status.RESUME else 0
        always = s.status & (Status.HOST_ERROR | Status.PROCESS_ERROR)
        self._irq.set(bool(causes & s.enabled or always))


class Walk:
    """One look at the schedule: queue heads and transfer descriptors (design guide, chapter 3).

    A queue that is come to again without a transfer since then has nothing to do, nor has what follows it.
    """

    def __init__(self, memory: Memory, devices: Sequence[UsbDevice]) -> None:
        self._memory = memory
        self._devices = devices
        self.transfers = 0
        self._seen: dict[int, int] = {}         # queue heads, and how many transfers there had been
        self._links = LINKS_MAX
        self.complete = self.short = self.errors = False

    def frame(self, link: int) -> None:
        """From an entry of the frame list along its horizontal links."""
        seen = self._seen
        while not link & Link.TERMINATE and self.transfers < TRANSFERS_MAX and self._links:
            self._links -= 1
            address = link & Link.ADDRESS
            if not link & Link.QUEUE:
                link = self._dword(address)
                self._descriptor(address)
                continue
            if seen.get(address) == self.transfers:
                return
            seen[address] = self.transfers
            link, element = self._dwords(address, 2)
            self._queue(address, element)

    def _queue(self, head: int, element: int) -> None:
        """Descriptors of a queue, as long as they complete and the next is to follow at once."""
        for _ in range(TRANSFERS_MAX):
            if element & (Link.TERMINATE | Link.QUEUE):
                break
            following = self._descriptor(element & Link.ADDRESS)
            if following is None:
                return
            element = following
            self._memory.write(head + 4, element.to_bytes(4, "little"))
            if not element & Link.DEPTH_FIRST:
                return
        if element & Link.QUEUE and not element & Link.TERMINATE:
            nested = element & Link.ADDRESS
            if nested != head:
                self._queue_once(nested)

    def _queue_once(self, head: int) -> None:
        """A queue in a queue: its first descriptor."""
        element = self._dwords(head, 2)[1]
        if not element & (Link.TERMINATE | Link.QUEUE):
            following = self._descriptor(element & Link.ADDRESS)
            if following is not None:
                self._memory.write(head + 4, following.to_bytes(4, "little"))

    def _descriptor(self, address: int) -> int | None:
        """Carries one out; its link if the queue is to go on with that, None to stay."""
        link, status, token, buffer = self._dwords(address, 4)
        if not status & Td.ACTIVE:
            return None
        self.transfers += 1
        length = (token >> 21) + 1 & 0x7FF
        answer = self._transact(token, length, buffer)
        if answer is NAK and not status & Td.ISOCHRONOUS:
            self.transfers -= 1
            if not status & Td.NAK:
                self._memory.write(address + 4, (status | Td.NAK).to_bytes(4, "little"))
            return None
        retired = self._status(status, answer, length)
        self._memory.write(address + 4, retired.to_bytes(4, "little"))
        if retired & Td.ACTIVE:
            return None
        if retired & Td.IOC:
            self.complete = True
        if retired & (Td.STALLED | Td.TIMEOUT):
            self.errors = True
            return None
        short = token & 0xFF == Pid.IN and isinstance(answer, int) and answer < length
        if short and status & Td.SHORT_PACKET:
            self.short = True
            return None
        return link

    def _transact(self, token: int, length: int, buffer: int) -> int | Handshake | None:
        """Bytes moved, a handshake, or None: nobody answers."""
        pid, endpoint = token & 0xFF, token >> 15 & 0x0F
        device = next((d for d in self._devices if d.address == token >> 8 & 0x7F), None)
        if device is None:
            return None
        match pid:
            case Pid.IN:
                answer = device.data_in(endpoint, length)
                if isinstance(answer, bytes):
                    self._memory.write(buffer, answer)
                    return len(answer)
            case Pid.OUT:
                answer = device.data_out(endpoint, self._memory.read(buffer, length))
            case Pid.SETUP:
                answer = device.setup(endpoint, self._memory.read(buffer, length))
            case _:
                return STALL
        return answer if isinstance(answer, Handshake) else length

    @staticmethod
    def _status(status: int, answer: int | Handshake | None, length: int) -> int:
        """The descriptor's second dword afterwards."""
        status &= ~(Td.LENGTH | Td.NAK | Td.STALLED | Td.TIMEOUT | Td.BABBLE)
        if isinstance(answer, int):
            return status & ~Td.ACTIVE | answer - 1 & Td.LENGTH
        if answer is STALL:
            return status & ~Td.ACTIVE | Td.STALLED | Td.LENGTH
        if answer is NAK:               # isochronous: its time is over
            return status & ~Td.ACTIVE | Td.LENGTH
        errors = status & Td.ERRORS
        status |= Td.TIMEOUT | Td.LENGTH
        if errors > Td.ONE_ERROR or not errors:
            return status - Td.ONE_ERROR if errors else status
        return status & ~(Td.ACTIVE | Td.ERRORS) | Td.STALLED

    def _dword(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 4), "little")

    def _dwords(self, address: int, count: int) -> list[int]:
        data = self._memory.read(address, 4 * count)
        return [int.from_bytes(data[at : at + 4], "little") for at in range(0, 4 * count, 4)]
