"""What boards plug chips into: port and MMIO windows, the clock, the CPU's pins, and chips by name.

Theory.  The native I/O map calls back into Python on the vCPU's thread.  A chip is also called by the timer
thread and the event loop's thread, so every way into a chip takes the *machine lock*: the I/O map for each
access, the callbacks made here, timers, input from the host.  Device code is therefore never concurrent.

1. Windows never overlap: two chips at one port are the board's mistake, a ValueError naming both.  A window
   that a guest moves (`move_ports`, `move_mmio`) onto another is left undecoded: a guest cannot raise.
2. Lock order: machine lock, then anything else (a backend's, the machine's own condition).
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from ring3 import trace
from ring3.clock import Clock
from ring3.devices.face import BlockFace, ByteFace, InFile, WideFace
from ring3.devices.video.memory import VideoMemory

with suppress(ImportError):             # a Machine says how to get it
    from ring3 import _native  # noqa: F401  (here: it measures a clock while the rest is imported)

Chip = TypeVar("Chip")

ONE_MIB, FOUR_GIB = 1 << 20, 1 << 32
ADDRESS_BITS = (1 << 52) - 1            # what a bus master can form


class IoMap(Protocol):
    """The part of _native.Vm that a bus uses."""

    def map_ports(
        self, first: int, count: int, read: Any, write: Any, *, width: int = 1, blocks: Any = None,
        lock: Any = None,
    ) -> None: ...
    def unmap_ports(self, first: int, count: int) -> None: ...
    def map_mmio(
        self, base: int, size: int, read: Any, write: Any, *, width: int = 4, lock: Any = None
    ) -> None: ...
    def unmap_mmio(self, base: int, size: int) -> None: ...
    def map_rom(self, base: int, data: bytes) -> None: ...
    def show_rom(self, base: int, shown: bool) -> None: ...
    def program_rom(self, address: int, data: bytes) -> None: ...
    def set_shadow(self, base: int, size: int, read: bool, write: bool) -> None: ...
    def set_gateway(self, port: int, magic: int, call: Any) -> None: ...
    def read_physical(self, address: int, length: int) -> bytes: ...
    def scatter_physical(self, regions: list[tuple[int, int]], data: bytes) -> None: ...
    def fill_physical(self, regions: list[tuple[int, int]], fd: int, offset: int) -> bool: ...
    def gather_physical(self, regions: list[tuple[int, int]]) -> bytes: ...
    def write_physical(self, address: int, data: bytes | memoryview) -> None: ...
    def set_a20(self, enabled: bool) -> None: ...
    def add_video_memory(self, size: int) -> Any: ...


@dataclass(frozen=True)
class Pins:
    """The CPU's and the power supply's wires, as functions."""

    intr: Callable[[bool], None]
    interrupt_message: Callable[[int, int, int, bool, bool], None]
    reset: Callable[[], None]           # the whole machine
    init: Callable[[], None]            # INIT#: the CPU alone
    ignne: Callable[[bool], None]
    power_off: Callable[[], None]
    debug_exit: Callable[[int], None]


@dataclass(frozen=True)
class Window:
    first: int
    count: int                          # ports or bytes
    name: str
    face: Any
    width: int                          # bytes of the widest access taken as it is

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    def overlaps(self, first: int, count: int) -> bool:
        return self.first < first + count and first <= self.last

    def __str__(self) -> str:
        return f"{self.name} at {self.first:X}h–{self.last:X}h"


class PhysicalMemory:
    """`bus.memory`: guest-physical memory, as DMA sees it."""

    def __init__(self, io: IoMap) -> None:
        self._io = io

    def read(self, address: int, length: int) -> bytes:
        return self._io.read_physical(address & ADDRESS_BITS, length)

    def write(self, address: int, data: bytes | memoryview) -> None:
        self._io.write_physical(address & ADDRESS_BITS, data)

    def scatter(self, regions: list[tuple[int, int]], data: bytes) -> None:
        self._io.scatter_physical(regions, data)

    def fill(self, regions: list[tuple[int, int]], place: InFile) -> bool:
        return self._io.fill_physical(regions, *place)

    def gather(self, regions: list[tuple[int, int]]) -> bytes:
        return self._io.gather_physical(regions)


class OpenBus:
    """Nobody answers: reads float high."""

    def read(self, offset: int, size: int) -> int:
        return (1 << 8 * size) - 1

    def write(self, offset: int, value: int, size: int) -> None:
        pass


class Bus:
    def __init__(self, io: IoMap, clock: Clock, pins: Pins, lock: Any = None) -> None:
        self.io = io
        self.clock = clock
        self.pins = pins
        self.memory = PhysicalMemory(io)
        self.lock = lock if lock is not None else threading.RLock()
        self.devices: dict[str, Any] = {}
        self.port_windows: list[Window] = []
        self.mmio_windows: list[Window] = []

    def add(self, name: str, chip: Chip) -> Chip:
        if name in self.devices:
            raise ValueError(f"two chips are called {name!r}")
        self.devices[name] = chip
        return chip

    def shadow(self, base: int, size: int, read: bool, write: bool) -> None:
        """Whether reads and writes of C0000h–FFFFFh reach RAM: what the host bridge says."""
        self.io.set_shadow(base, size, read, write)

    def rom(self, base: int, data: bytes) -> None:
        self.io.map_rom(base, data)

    def set_a20(self, enabled: bool) -> None:
        self.io.set_a20(enabled)

    # --- windows ---

    def ports(self, first: int, count: int, name: str, face: ByteFace | WideFace, width: int = 1) -> None:
        """`width` 1: byte registers; 2 or 4: a WideFace that tells accesses of up to that size apart."""
        window = Window(first, count, name, face, width)
        self._refuse_overlap("ports", self.port_windows, window)
        self.port_windows.append(window)
        blocks = (face.read_block, face.write_block) if isinstance(face, BlockFace) else None
        self.io.map_ports(first, count, face.read, face.write, width=width, blocks=blocks, lock=self.lock)

    def mmio(self, base: int, size: int, name: str, face: WideFace, width: int = 4) -> None:
        window = Window(base, size, name, face, width)
        self._refuse_overlap("addresses", self.mmio_windows, window)
        self.mmio_windows.append(window)
        self.io.map_mmio(base, size, face.read, face.write, width=width, lock=self.lock)

    def empty_rom(self, base: int, size: int) -> None:
        """Where a ROM might be and none is: floats high.  As memory, because systems scan such places."""
        self.io.map_rom(base, b"\xff" * size)

    def move_ports(
        self, name: str, first: int | None, count: int, face: ByteFace | WideFace, width: int = 4
    ) -> None:
        """A window whose place the guest programs: at `first`, or nowhere."""
        for window in [w for w in self.port_windows if w.name == name]:
            self.port_windows.remove(window)
            self.io.unmap_ports(window.first, window.count)
        if first is None:
            return
        taken = next((w for w in self.port_windows if w.overlaps(first, count)), None)
        if taken is not None or first + count > 0x10000:
            trace.odd(name, "moved to %Xh, where it cannot be decoded: %s", first, taken or "beyond FFFFh")
            return
        self.ports(first, count, name, face, width)

    def move_mmio(self, name: str, base: int | None, size: int, face: WideFace, width: int = 4) -> None:
        """As `move_ports`, for a window of whole pages.  RAM and what lies below 1 MiB hide it."""
        for window in [w for w in self.mmio_windows if w.name == name]:
            self.mmio_windows.remove(window)
            self.io.unmap_mmio(window.first, window.count)
        if base is None:
            return
        taken = next((w for w in self.mmio_windows if w.overlaps(base, size)), None)
        if taken is not None or base < ONE_MIB or base + size > FOUR_GIB:
            trace.odd(name, "moved to %Xh, where it cannot be decoded: %s", base, taken or "no PCI memory")
            return
        self.mmio(base, size, name, face, width)

    def native_mmio(self, base: int, size: int, name: str) -> None:
        """Takes the place of a window that native code answers: its chip maps it."""
        window = Window(base, size, name, OpenBus(), 8)
        self._refuse_overlap("addresses", self.mmio_windows, window)
        self.mmio_windows.append(window)

    def video_memory(self, size: int) -> VideoMemory:
        """Memory for a video chip (bytes)."""
        memory: VideoMemory = self.io.add_video_memory(size)
        return memory

    def move_memory(self, name: str, memory: VideoMemory, before: int | None, base: int | None) -> None:
        """Moves the view of a chip's whole memory from `before` to `base`; RAM and windows there hide it."""
        if before is not None:
            memory.unmap_view(before)
        if base is None:
            return
        if base < ONE_MIB or base + memory.size_bytes > FOUR_GIB:
            trace.odd(name, "memory moved to %Xh, where it cannot be decoded", base)
            return
        memory.map_view(base, memory.size_bytes, 0)

    def gateway(self, port: int, magic: int, call: Callable[..., Any]) -> None:
        """A function on the CPU's registers, for IN EAX, DX at `port` with `magic` in EAX."""
        self.io.set_gateway(port, magic, self.locked(call))

    def _refuse_overlap(self, what: str, windows: list[Window], new: Window) -> None:
        for window in windows:
            if window.overlaps(new.first, new.count):
                raise ValueError(f"{what} of {new} overlap those of {window}")

    def locked(self, access: Callable[..., Any]) -> Callable[..., Any]:
        """`access` under the machine lock."""
        lock = self.lock

        def locked(*values: Any) -> Any:
            with lock:
                return access(*values)

        return locked

    # --- accesses of our own, as the firmware would make them ---

    def write_port(self, port: int, value: int, size: int = 1) -> None:
        window = next((w for w in self.port_windows if w.overlaps(port, 1)), None)
        with self.lock:
            if window is None:
                trace.odd("bus", "write of %Xh to port %Xh, where nobody listens", value, port)
            elif window.width > 1:
                window.face.write(port - window.first, value, size)
            else:
                for index in range(size):
                    window.face.write(port - window.first + index, value >> 8 * index & 0xFF)

    def read_port(self, port: int, size: int = 1) -> int:
        window = next((w for w in self.port_windows if w.overlaps(port, 1)), None)
        with self.lock:
            if window is None:
                return (1 << 8 * size) - 1
            if window.width > 1:
                return int(window.face.read(port - window.first, size))
            return sum(
                window.face.read(port - window.first + index) << 8 * index for index in range(size)
            )
