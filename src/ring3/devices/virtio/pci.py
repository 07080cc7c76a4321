"""The PCI transport of virtio devices: transitional ones, which legacy and modern drivers know.

OASIS "Virtual I/O Device (VIRTIO) Version 1.2", §2.1–2.4 (status, features, notifications, configuration) and
§4.1 (PCI), with §4.1.4.10 (the legacy interface of before 1.0).  Field names are the specification's.

BAR 0 is the legacy interface's ports, BAR 1 MSI-X, BAR 2 the modern structures, a page each.  Interrupts go
by MSI-X where the driver enables it, else by INTx with the ISR.

Not modelled: resetting single queues, shared memory regions, notification data, big-endian legacy drivers.

A device derives from `VirtioPci`.  It says what it is (`Identity`), offers features, has its configuration
structure, and is told by `notified(n)` that queue n may have chains.  It takes them, works on them, now or
later, hands them back with `use`, and calls `interrupt(n)`.

1. In one go it takes no more than it can count, and leaves the rest to `later`: a driver on another CPU could
   go on for ever.
2. Work that finishes later compares `generation` to what it was in the beginning.  It changes with each reset
   and restore, and then the rings are no longer ours to write to.
"""

import struct
from dataclasses import dataclass

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices.face import Memory, WideFace, WideRegisters
from ring3.devices.pci import msix
from ring3.devices.pci.config import Bar, Command, Moved, PciFunction, Reg, image
from ring3.devices.pci.msix import Message, Msix, MsixState
from ring3.devices.virtio.queue import NO_VECTOR, Chain, Queue, QueueState
from ring3.irq import IrqLine

VENDOR = 0x1AF4
LEGACY_PORTS = 128
LEGACY_ALIGN = 4096                     # of a legacy queue: its page, and where its used ring starts
PAGE = 0x1000

LEGACY_BAR, MSIX_BAR, MODERN_BAR = range(3)
BARS = (Bar(LEGACY_PORTS, io=True), Bar(msix.REGION), Bar(4 * PAGE))
NOTIFY_STRIDE = 4                       # bytes from one queue's doorbell to the next

MSIX_CAPABILITY = 0x40                  # offsets in configuration space
WINDOW_CAPABILITY = 0x90                # VIRTIO_PCI_CAP_PCI_CFG, the last
WINDOW_DATA = WINDOW_CAPABILITY + 16


class Page:                             # of the modern region
    COMMON, ISR, DEVICE, NOTIFY = range(4)


class Status:                           # §2.1
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 0x01, 0x02, 0x04, 0x08, 0x40, 0x80


class Feature:                          # §6: of the transport and the rings
    ANY_LAYOUT, INDIRECT_DESC, EVENT_IDX, VERSION_1 = 1 << 27, 1 << 28, 1 << 29, 1 << 32


RING_FEATURES = Feature.ANY_LAYOUT | Feature.INDIRECT_DESC | Feature.EVENT_IDX | Feature.VERSION_1
LEGACY_FEATURES = 0xFFFF_FFFF           # what a legacy driver can see


class Isr:                              # §4.1.4.5
    QUEUE, CONFIG = 0x1, 0x2


class Common:                           # offsets in the common configuration structure (§4.1.4.3)
    DEVICE_FEATURE_SELECT, DEVICE_FEATURE, DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x00, 0x04, 0x08, 0x0C
    CONFIG_MSIX_VECTOR, NUM_QUEUES, DEVICE_STATUS, CONFIG_GENERATION = 0x10, 0x12, 0x14, 0x15
    QUEUE_SELECT, QUEUE_SIZE, QUEUE_MSIX_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = 0x16, 0x18, 0x1A, 0x1C, 0x1E
    QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x20, 0x28, 0x30

    FORMAT = struct.Struct("<IIIIHHBBHHHHHQQQ")


class Legacy:                           # offsets of the legacy interface (§4.1.4.10)
    DEVICE_FEATURES, DRIVER_FEATURES, QUEUE_ADDRESS, QUEUE_SIZE = 0x00, 0x04, 0x08, 0x0C
    QUEUE_SELECT, QUEUE_NOTIFY, STATUS, ISR = 0x0E, 0x10, 0x12, 0x13
    CONFIG_VECTOR, QUEUE_VECTOR = 0x14, 0x16            # while MSI-X is enabled; the device's own follow


@dataclass(frozen=True)
class Identity:
    """What a device is: its number (§5), the legacy PCI ID that goes with it (§4.1.2), its PCI class."""

    device: int
    pci_device: int
    pci_class: int
    queues: tuple[int, ...]             # largest size of each, in entries

    @property
    def vectors(self) -> int:
        return len(self.queues) + 1     # one for changes of the configuration

    def config(self) -> bytearray:
        """Configuration space at its reset value."""
        data = bytearray(image(
            (Reg.VENDOR, 2, VENDOR),
            (Reg.DEVICE, 2, self.pci_device),
            (Reg.STATUS, 2, 0x0010),    # a list of capabilities
            (Reg.CLASS, 3, self.pci_class),
            (Reg.BAR0, 4, 1),
            (Reg.SUBSYSTEM_VENDOR, 2, VENDOR),
            (Reg.SUBSYSTEM, 2, self.device),
            (0x34, 1, MSIX_CAPABILITY),
            (Reg.INTERRUPT_PIN, 1, 1),
        ))
        at = MSIX_CAPABILITY
        following = at + msix.CAPABILITY_BYTES
        data[at:following] = msix.capability(self.vectors, MSIX_BAR, following)
        at = following
        stride = NOTIFY_STRIDE.to_bytes(4, "little")
        kinds = ((1, Page.COMMON, b""), (3, Page.ISR, b""), (4, Page.DEVICE, b""), (2, Page.NOTIFY, stride))
        for kind, page, extra in kinds:
            length = 16 + len(extra)
            where = (page * PAGE).to_bytes(4, "little") + PAGE.to_bytes(4, "little")
            head = bytes((0x09, at + length, length, kind, MODERN_BAR, 0, 0, 0))
            data[at : at + length] = head + where + extra
            at += length
        data[at : at + 20] = bytes((0x09, 0, 20, 5)) + bytes(16)
        return data

    def msix(self) -> MsixState:
        return msix.reset_state(self.vectors)

    def queue_states(self) -> list[QueueState]:
        return [QueueState(size) for size in self.queues]


WRITABLE = image(
    (Reg.COMMAND, 2, Command.IO | Command.MEMORY | Command.MASTER | Command.INTX_OFF),
    (Reg.CACHE_LINE, 1, 0xFF),
    (Reg.LATENCY, 1, 0xFF),
    (Reg.INTERRUPT_LINE, 1, 0xFF),
    (MSIX_CAPABILITY + 2, 2, msix.Control.ENABLE | msix.Control.MASK_ALL),
    (WINDOW_CAPABILITY + 4, 1, 0xFF),                   # bar
    (WINDOW_CAPABILITY + 8, 8, (1 << 64) - 1),          # offset, length
)
INTERRUPT_STATUS = 0x08                 # in the PCI status register


@dataclass(slots=True)
class State:
    """What every virtio device on PCI has; devices add their own.  Also the checkpoint record."""

    config: bytearray
    msix: MsixState
    queues: list[QueueState]
    status: int = 0
    isr: int = 0
    driver_features: int = 0
    device_feature_select: int = 0
    driver_feature_select: int = 0
    queue_select: int = 0
    config_vector: int = NO_VECTOR
    config_generation: int = 0


@dataclass(frozen=True)
class Wires:
    """What every virtio device on PCI is connected to."""

    clock: Clock
    memory: Memory
    irq: IrqLine                        # INTA#
    message: Message                    # the CPU's pin for interrupt messages
    moved: Moved                        # `faces[bar]` is decoded there now


class VirtioPci(PciFunction):
    state: State

    def __init__(self, identity: Identity, state: State, wires: Wires) -> None:
        clearable = image((Reg.STATUS, 2, 0xF900))
        super().__init__(state, WRITABLE, clearable=clearable, bars=BARS, moved=wires.moved)
        self.identity = identity
        self.generation = 0
        self.queues: list[Queue] = []
        self._memory = wires.memory
        self._irq = wires.irq
        self._msix = Msix(state.msix, wires.memory, wires.message)
        self._clock = wires.clock
        self._unfinished: set[int] = set()              # queues
        self._turn = Timer(wires.clock, self._go_on)
        self.faces: tuple[WideFace, ...] = (
            WideRegisters(self._read_legacy, self._write_legacy),
            self._msix,
            WideRegisters(self._read_modern, self._write_modern),
        )
        self._bind()

    # --- what a device says and is told ---

    def features(self) -> int:
        """What it offers besides the rings' features."""
        return 0

    def device_config(self) -> bytes:
        """Its configuration structure."""
        return b""

    def write_device_config(self, offset: int, value: int, size: int) -> None:
        trace.odd("virtio", "write of %Xh to read-only configuration at %d", value, offset)

    def notified(self, number: int) -> None:
        """Queue `number` may have something."""

    def device_reset(self) -> None:
        """The driver resets the device: its own state goes back; the queues and features are gone already."""

    # --- what a device uses ---

    def has(self, feature: int) -> bool:
        """Whether a feature is negotiated."""
        return bool(self.state.driver_features & feature)

    @property
    def running(self) -> bool:
        """Whether queues may be used.  Legacy drivers use them before they say DRIVER_OK (§3.1.1)."""
        return bool(self.state.status & Status.DRIVER_OK) or not self.has(Feature.VERSION_1)

    def take(self, number: int) -> Chain | None:
        return self.queues[number].take() if self.running else None

    def interrupt(self, number: int) -> None:
        """Chains of a queue were used: tells the driver if it wants to know."""
        queue = self.queues[number]
        if queue.usable and queue.interrupt_wanted():
            self._raise(Isr.QUEUE, queue.state.vector)

    def later(self, number: int) -> None:
        """Queue `number` has more than one turn's work: `notified` again, after others had theirs."""
        self._unfinished.add(number)
        self._turn.arm(self._clock.now())

    def _go_on(self) -> None:
        unfinished, self._unfinished = self._unfinished, set()
        for number in sorted(unfinished):
            self._notify(number)

    def config_changed(self) -> None:
        """The configuration structure changed by itself."""
        s = self.state
        s.config_generation = s.config_generation + 1 & 0xFF
        if s.status & Status.DRIVER_OK:
            self._raise(Isr.CONFIG, s.config_vector)

    # --- configuration space ---

    def read_config(self, offset: int, size: int) -> int:
        if offset == WINDOW_DATA:
            window = self._window()
            if window is not None:
                face, at, length = window
                return face.read(at, length) & (1 << 8 * size) - 1
        return super().read_config(offset, size)

    def write_config(self, offset: int, value: int, size: int) -> None:
        super().write_config(offset, value, size)
        window = self._window() if offset == WINDOW_DATA else None
        if window is not None:
            face, at, length = window
            face.write(at, value & (1 << 8 * length) - 1, length)

    def _window(self) -> tuple[WideFace, int, int] | None:
        """Where the capability for accesses through configuration space points to (§4.1.4.9)."""
        config = self.state.config
        at = WINDOW_CAPABILITY
        bar = config[at + 4]
        offset = int.from_bytes(config[at + 8 : at + 12], "little")
        length = int.from_bytes(config[at + 12 : at + 16], "little")
        if bar >= len(BARS) or length not in (1, 2, 4) or offset % length or offset + length > BARS[bar].size:
            return None
        return self.faces[bar], offset, length

    def config_written(self, offset: int, size: int) -> None:
        control = int.from_bytes(self.state.config[MSIX_CAPABILITY + 2 : MSIX_CAPABILITY + 4], "little")
        if control != self._msix.control:
            self._msix.set_control(control)
        self._update_irq()

    # --- the modern interface ---

    def _read_modern(self, offset: int, size: int) -> int:
        page, at = divmod(offset, PAGE)
        if page == Page.ISR:
            return self._take_isr() if at == 0 else 0
        if page == Page.COMMON:
            return int.from_bytes(self._common()[at : at + size], "little")
        return int.from_bytes(self.device_config()[at : at + size], "little") if page == Page.DEVICE else 0

    def _write_modern(self, offset: int, value: int, size: int) -> None:
        page, at = divmod(offset, PAGE)
        match page:
            case Page.NOTIFY:
                self._notify(at // NOTIFY_STRIDE)
            case Page.COMMON:
                self._write_common(at, value)
            case Page.DEVICE:
                self.write_device_config(at, value, size)
            case _:
                trace.odd("virtio", "write of %Xh to the ISR", value)

    def _common(self) -> bytes:
        """The common configuration structure."""
        s = self.state
        selected = self._selected()
        queue = selected if selected is not None else QueueState(0)
        return Common.FORMAT.pack(
            s.device_feature_select,
            self._feature_word(self._offered(), s.device_feature_select),
            s.driver_feature_select,
            self._feature_word(s.driver_features, s.driver_feature_select),
            s.config_vector,
            len(s.queues),
            s.status,
            s.config_generation,
            s.queue_select,
            queue.size,
            queue.vector,
            queue.enabled,
            s.queue_select if selected is not None else 0,
            queue.descriptors,
            queue.available,
            queue.used,
        )

    def _write_common(self, at: int, value: int) -> None:
        s = self.state
        match at:
            case Common.DEVICE_FEATURE_SELECT:
                s.device_feature_select = value
            case Common.DRIVER_FEATURE_SELECT:
                s.driver_feature_select = value
            case Common.DRIVER_FEATURE if s.driver_feature_select < 2 and not s.status & Status.FEATURES_OK:
                shift = 32 * s.driver_feature_select
                s.driver_features = s.driver_features & ~(0xFFFF_FFFF << shift) | value << shift
            case Common.CONFIG_MSIX_VECTOR:
                s.config_vector = self._vector(value)
            case Common.DEVICE_STATUS:
                self._write_status(value & 0xFF)
            case Common.QUEUE_SELECT:
                s.queue_select = value & 0xFFFF
            case _:
                self._write_queue(at, value)

    def _write_queue(self, at: int, value: int) -> None:
        s = self.state
        queue = self._selected()
        if queue is None:
            return
        if at == Common.QUEUE_MSIX_VECTOR:
            queue.vector = self._vector(value)
        elif queue.enabled:
            trace.odd("virtio", "write of %Xh to %02Xh of queue %d in use", value, at, s.queue_select)
        elif at == Common.QUEUE_SIZE:
            # A size the driver must not choose leaves the one there is.
            if value & (value - 1) == 0 and 0 < value <= self.identity.queues[s.queue_select]:
                queue.size = value
        elif at == Common.QUEUE_ENABLE:
            queue.enabled = value & 0xFFFF == 1
            self._bind()
        else:
            queue.descriptors = _half(queue.descriptors, at - Common.QUEUE_DESC, value)
            queue.available = _half(queue.available, at - Common.QUEUE_DRIVER, value)
            queue.used = _half(queue.used, at - Common.QUEUE_DEVICE, value)

    # --- the legacy interface ---

    def _read_legacy(self, offset: int, size: int) -> int:
        s = self.state
        selected = self._selected()
        start = self._legacy_config_start()
        if offset >= start:
            return int.from_bytes(self.device_config()[offset - start :][:size], "little")
        value = 0
        match offset:
            case Legacy.DEVICE_FEATURES:
                value = self._offered() & LEGACY_FEATURES
            case Legacy.DRIVER_FEATURES:
                value = s.driver_features & LEGACY_FEATURES
            case Legacy.QUEUE_ADDRESS if selected is not None:
                value = selected.descriptors // LEGACY_ALIGN & 0xFFFF_FFFF
            case Legacy.QUEUE_SIZE if selected is not None:
                value = selected.size
            case Legacy.QUEUE_SELECT:
                value = s.queue_select
            case Legacy.STATUS:
                value = s.status
            case Legacy.ISR:
                value = self._take_isr()
            case Legacy.CONFIG_VECTOR:
                value = s.config_vector
            case Legacy.QUEUE_VECTOR:
                value = selected.vector if selected is not None else NO_VECTOR
        return value & (1 << 8 * size) - 1

    def _write_legacy(self, offset: int, value: int, size: int) -> None:
        s = self.state
        selected = self._selected()
        start = self._legacy_config_start()
        if offset >= start:
            self.write_device_config(offset - start, value, size)
            return
        match offset:
            case Legacy.QUEUE_NOTIFY:
                self._notify(value & 0xFFFF)
            case Legacy.DRIVER_FEATURES:
                s.driver_features = value & self._offered() & LEGACY_FEATURES
                self._bind()
            case Legacy.QUEUE_ADDRESS if selected is not None:
                self._place_legacy_queue(selected, value)
            case Legacy.QUEUE_SELECT:
                s.queue_select = value & 0xFFFF
            case Legacy.STATUS:
                self._write_status(value & 0xFF)
            case Legacy.CONFIG_VECTOR:
                s.config_vector = self._vector(value)
            case Legacy.QUEUE_VECTOR if selected is not None:
                selected.vector = self._vector(value)
            case _:
                trace.odd("virtio", "write of %Xh to legacy register %02Xh", value, offset)

    def _legacy_config_start(self) -> int:
        return 24 if self._msix.enabled else 20

    def _place_legacy_queue(self, queue: QueueState, page: int) -> None:
        """A legacy queue is one piece (§2.7.2); page 0 takes it away, and what is in flight with it."""
        if page == 0:
            self.generation += 1
            self.state.queues[self.state.queue_select] = QueueState(queue.size, vector=queue.vector)
        else:
            queue.descriptors = page * LEGACY_ALIGN
            queue.available = queue.descriptors + 16 * queue.size
            end = queue.available + 2 * (3 + queue.size)
            queue.used = -(-end // LEGACY_ALIGN) * LEGACY_ALIGN
            queue.enabled = True
        self._bind()

    # --- both ---

    def restore(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self._msix.state = state.msix
        self._bind()
        self.restore_config()
        self.resume()

    def resume(self) -> None:
        """After a restore: looks at every queue; devices that work in the background begin again first."""
        if self.running:
            for number in range(len(self.queues)):
                self.notified(number)

    def _offered(self) -> int:
        return RING_FEATURES | self.features()

    @staticmethod
    def _feature_word(features: int, word: int) -> int:
        return features >> 32 * word & 0xFFFF_FFFF if word < 2 else 0

    def _vector(self, value: int) -> int:
        """What a vector register takes: one that isn't there reads back as none (§4.1.5.1.2)."""
        value &= 0xFFFF
        return value if value < self.identity.vectors else NO_VECTOR

    def _selected(self) -> QueueState | None:
        s = self.state
        return s.queues[s.queue_select] if s.queue_select < len(s.queues) else None

    def _bind(self) -> None:
        """Queues as features and state say."""
        event_index = self.has(Feature.EVENT_IDX)
        self.queues = [Queue(self._memory, queue, self._broke, event_index) for queue in self.state.queues]

    def _broke(self, why: str) -> None:
        """A queue's driver made no sense (§2.1.2)."""
        trace.odd("virtio", "the driver broke a queue: %s", why)
        self.state.status |= Status.NEEDS_RESET
        self.config_changed()

    def _write_status(self, value: int) -> None:
        s = self.state
        if value == 0:
            self._reset_device()
            return
        if value & Status.FEATURES_OK and s.driver_features & ~self._offered():
            value &= ~Status.FEATURES_OK
        started = value & ~s.status & Status.DRIVER_OK
        s.status = value | s.status & Status.NEEDS_RESET
        if value & Status.FEATURES_OK:
            self._bind()
        if started:
            for number in range(len(self.queues)):
                self.notified(number)

    def _reset_device(self) -> None:
        """As the driver resets it (§2.4): PCI's own registers and the vectors' table stay."""
        s = self.state
        self.generation += 1
        s.status = s.isr = s.driver_features = 0
        s.device_feature_select = s.driver_feature_select = s.queue_select = 0
        s.config_vector = NO_VECTOR
        s.queues[:] = self.identity.queue_states()
        self._bind()
        self.device_reset()
        self._update_irq()

    def _notify(self, number: int) -> None:
        if number < len(self.queues) and self.running:
            self.notified(number)

    def _raise(self, bit: int, vector: int) -> None:
        if self._msix.enabled:
            self._msix.fire(vector)
        else:
            self.state.isr |= bit
            self._update_irq()

    def _take_isr(self) -> int:
        """Reading the ISR clears it."""
        value, self.state.isr = self.state.isr, 0
        self._update_irq()
        return value

    def _update_irq(self) -> None:
        s = self.state
        pending = bool(s.isr) and not self._msix.enabled
        s.config[Reg.STATUS] = s.config[Reg.STATUS] & ~INTERRUPT_STATUS | (INTERRUPT_STATUS if pending else 0)
        command = int.from_bytes(s.config[Reg.COMMAND : Reg.COMMAND + 2], "little")
        self._irq.set(pending and not command & Command.INTX_OFF)


def _half(address: int, at: int, value: int) -> int:
    """`address` with its half at offset 0 or 4 replaced; other offsets are another register's."""
    if at not in (0, 4):
        return address
    shift = 8 * at
    return address & ~(0xFFFF_FFFF << shift) | (value & 0xFFFF_FFFF) << shift
