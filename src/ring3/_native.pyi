"""Typed face of the Rust extension (crate `native`): guest memory, the I/O map and virtual CPUs."""

from collections.abc import Callable
from typing import Any

ByteRead = Callable[[int], int]                 # (offset) -> value
ByteWrite = Callable[[int, int], None]          # (offset, value)
WideRead = Callable[[int, int], int]            # (offset, size in bytes) -> value
WideWrite = Callable[[int, int, int], None]     # (offset, value, size in bytes)

BlockRead = Callable[[int, int, int], bytes]    # (offset, size in bytes, count) -> size * count bytes
BlockWrite = Callable[[int, int, bytes], None]  # (offset, size in bytes, data)

class Exit:
    """Why `Vcpu.run` came back; plain ints."""

    HALT: int           # HLT (or shutdown wait): nothing to do until an interrupt; call `Vcpu.wait`
    KICKED: int         # `Vcpu.kick` was called: look at what the machine wants
    SHUTDOWN: int       # triple fault (SDM vol. 3, 6.15, "double fault")
    ERROR: int          # the engine found itself wrong; `Vcpu.error()` has the report

class Vm:
    """Guest-physical memory and the port and MMIO maps, shared by the machine's vCPUs."""

    def __init__(self, ram_bytes: int, low_ram_bytes: int) -> None:
        """RAM of `ram_bytes` (a multiple of 4096): `low_ram_bytes` at 0, the rest from 4 GiB up.

        Raises MemoryError when the host can't reserve it, ValueError for sizes out of range.
        """
    ram_bytes: int
    low_ram_bytes: int
    total_bytes: int    # … and of video memory
    def freeze(self) -> "RamImage":
        """RAM and video memory as they are now, in milliseconds; what is stored later is not in the image.

        The machine keeps its RAM, as a private view of the image's files, and later gets pages of its own
        for code that keeps the CPU busy.  The guest stands meanwhile, and
        the caller holds the machine lock: nobody stores to RAM.  May raise OSError; RAM is unharmed then.
        """
    def adopt(self, extents: list[tuple[int, int, int, int]]) -> None:
        """RAM and video memory become what the extents say (see RamImage), and zero where there are none.

        The files are mapped privately: nobody may write to or truncate them any more (a descriptor is
        duplicated, and may be closed; it may be read-only).  To be called as `freeze` is; code that was
        translated and what of video memory changed are the caller's business (`Vcpu.set_state`,
        `VideoMemory.disarm`).  Raises ValueError for extents that don't fit, and leaves RAM as it was then;
        after an OSError RAM is nothing any more.
        """
    def read_physical(self, address: int, length: int) -> bytes:
        """Guest-physical bytes of RAM and ROM; where nothing is mapped, FFh."""
    def write_physical(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """As a DMA write does: translated code there is dropped, ROM and holes ignore it."""
    def search_ram(self, needle: bytes, most: int) -> list[int]:
        """Guest-physical addresses of RAM with these bytes, the first `most`; drops the GIL."""
    def scatter_physical(self, regions: list[tuple[int, int]], data: bytes) -> None:
        """`write_physical` of `data`, piece by piece, into the regions (address, bytes)."""
    def fill_physical(self, regions: list[tuple[int, int]], fd: int, offset: int) -> bool:
        """The same of a file's bytes from `offset` on, without a copy in between; drops the GIL.

        False: a region is not RAM, or the host would have to wait for its disk; what was written then is undefined.
        """
    def gather_physical(self, regions: list[tuple[int, int]]) -> bytes:
        """`read_physical` of the regions (address, bytes), one after the other; at most 1 GiB together."""
    def map_ports(
        self, first: int, count: int, read: Any, write: Any, *, width: int = 1,
        blocks: tuple[BlockRead, BlockWrite] | None = None, lock: Any = None,
    ) -> None:
        """Ports `first`…: callbacks get offsets from `first`.

        width=1: read(offset) -> int, write(offset, value); wider accesses are split into bytes.
        width=2|4: read(offset, size) -> int, write(offset, value, size); accesses of up to `width` bytes as they are.
        blocks: (read(offset, size, count) -> bytes, write(offset, size, data)), one call for an INS or OUTS
        with a count (up to a page at a time); without them each element is a call.
        lock: its acquire() and release() are called around each call.
        Raises ValueError when the range overlaps one already mapped.
        """
    def unmap_ports(self, first: int, count: int) -> None: ...
    def set_gateway(
        self, port: int, magic: int, call: Callable[[int, int, int, int, int, int, int, int], Any]
    ) -> None:
        """Functions that guests call by IN EAX, DX at `port` with `magic` in EAX, whatever their privilege.

        call(eax, ebx, ecx, edx, esi, edi, ebp, cpl) -> those seven registers, or None: an access to the port.
        """
    def map_mmio(
        self, base: int, size: int, read: Any, write: Any, *, width: int = 4, lock: Any = None
    ) -> None:
        """MMIO window of whole pages; read(offset, size) -> int, write(offset, value, size).  `lock`: as above."""
    def unmap_mmio(self, base: int, size: int) -> None: ...
    def map_rom(self, base: int, data: bytes) -> None:
        """Read-only memory of whole pages; between C0000h and FFFFFh it hides RAM (see `set_shadow`).

        Stores go to an MMIO window at the same place, if there is one.
        """
    def show_rom(self, base: int, shown: bool) -> None:
        """Lets reads see the ROM at `base`, or, for a flash chip in other modes, the MMIO window over it."""
    def program_rom(self, address: int, data: bytes) -> None:
        """Changes a ROM's contents: a flash chip was programmed or erased."""
    def set_shadow(self, base: int, size: int, read: bool, write: bool) -> None:
        """Whether reads and writes of whole pages between C0000h and FFFFFh reach RAM rather than ROM."""
    def set_a20(self, enabled: bool) -> None: ...
    def set_io_error_handler(self, handler: Callable[[BaseException], None]) -> None:
        """Called when a Python device raises (our bug): the access reads as all ones."""

    def add_video_memory(self, size: int) -> "VideoMemory":
        """Memory of a video chip, whole pages, zeroed.  Raises MemoryError when the host can't reserve it."""

class RamImage:
    """RAM (low RAM first, then high RAM, then video memory) at one moment; immutable.

    It holds its files open, and costs nothing else: `Vm.freeze` of a machine that goes on shares them.  As a
    buffer it is the whole of RAM, read only (mapped at first use; untouched parts take no memory).
    """

    size_bytes: int
    # Offset into RAM, bytes, descriptor (open as long as the image), offset into the file: whole pages, in
    # order, and what none covers is zero.  An extent may hold zero pages, too.
    extents: list[tuple[int, int, int, int]]
    def changed_since(self, older: "RamImage") -> list[tuple[int, int]]:
        """Ranges (start, end) of RAM that differ from an image made earlier; whole pages."""
    def pack(self, ranges: list[tuple[int, int]]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """What is to be stored of these ranges (start, end; whole pages, in order): no page that is zero, and
        of runs of equal ones the first.  Extents (first page, pages, first stored page), and where the stored pages are
        (start, end), one after the other."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

class VideoMemory:
    """A VGA's memory, its window, and pictures of it: ring3/devices/video/memory.py describes the members."""

    size_bytes: int
    changed_fd: int
    latch: int
    def read(self, offset: int, length: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def clear(self, offset: int, length: int) -> None: ...
    def map_window(self, base: int) -> None: ...
    def map_view(self, base: int, size: int, offset: int) -> None: ...
    def unmap_view(self, base: int) -> None: ...
    def set_registers(self, misc_output: int, sequencer: bytes | bytearray, graphics: bytes | bytearray,
                      bank: int) -> None: ...
    def signal(self) -> None: ...
    def collect(self) -> list[tuple[int, int]]: ...
    def disarm(self) -> None: ...
    def pixels(self, picture: Any, x: int, y: int, width: int, height: int) -> bytes: ...
    def cells(self, picture: Any) -> tuple[bytes, bytes]: ...
    def font(self, picture: Any, number: int) -> bytes: ...
    def find_text(self, picture: Any, scale: tuple[int, int],
                  fonts: list[tuple[int, bytes, tuple[int, int]]]) -> tuple[int, int, bytes, int, int] | None: ...

class Vcpu:
    """One virtual CPU.  `live`, `run` and `wait` drop the GIL while guest code runs or sleeps.

    Until they are back only `stats` and what is marked "any thread" may be called; the rest raises RuntimeError.
    """

    def __init__(
        self, vm: Vm, *, index: int = 0, engine: str = "translate", cpu: str = "max", hypervisor: str = "ring3"
    ) -> None:
        """engine: "translate" | "interp".  cpu: a model of `cpu_models()`.  hypervisor: what CPUID says of it,
        "ring3" | "vmware" | "none".  Raises ValueError for unknown ones.
        """
    def live(self) -> int:
        """Runs guest code, and sleeps while it halts, until the machine must act; never Exit.HALT."""
    def run(self) -> int: ...
    def wait(self) -> None:
        """Sleeps until an interrupt that would wake HLT, or a kick."""
    def kick(self) -> None:
        """Makes a concurrent or the next `run`/`wait` return soon; any thread."""
    def reset(self) -> None:
        """Power-on reset state (SDM vol. 3, 9.1): CS:IP F000:FFF0, base FFFF0000h."""
    def set_windows(self, policy: str) -> None:
        """Which address spaces' user code has its memory at host addresses: "never"; "busy": those that stay in
        user code, as is the case unless said; "always".  Raises ValueError for others.
        """
    def set_intr(self, level: bool) -> None:
        """The INTR pin (LINT0 as ExtINT / virtual wire), driven by the 8259 pair; any thread."""
    def set_intr_acknowledge(self, acknowledge: Callable[[], int]) -> None:
        """Called at the INTA cycle; returns the vector (the PIC's `acknowledge`)."""
    def pulse_nmi(self) -> None:
        """An edge at the NMI pin (LINT1); any thread."""
    def pulse_init(self) -> None:
        """The INIT# pin: the CPU starts over at FFFFFFF0h, memory and FPU stay (SDM vol. 3, table 10-1); any thread."""
    def deliver_apic_interrupt(self, vector: int, delivery_mode: int, destination: int,
                               logical: bool, level_triggered: bool) -> None:
        """An interrupt message as the I/O APIC or an MSI sends it (SDM vol. 3, 11.11); any thread."""
    def write_local_apic(self, offset: int, value: int) -> None:
        """A 32-bit store to the local APIC's register at `offset`, as firmware makes it; before `run` only."""
    def write_msr(self, number: int, value: int) -> None:
        """WRMSR, as firmware makes it; ValueError where that is #GP; before `run` only."""
    def set_eoi_handler(self, handler: Callable[[int], None]) -> None:
        """Called with the vector at the EOI of a level-triggered interrupt (broadcast to I/O APICs)."""
    def set_ferr_handler(self, handler: Callable[[bool], None]) -> None:
        """Called with the FERR# pin's level as it changes: an x87 exception while CR0.NE=0, IRQ 13 on a PC."""
    def set_ignne(self, level: bool) -> None:
        """The IGNNE# pin, driven by the latch behind port F0h; any thread."""
    def tsc(self) -> int:
        """The guest's time-stamp counter now."""
    def skip_time(self, ticks: int) -> None:
        """The TSC and the local APIC's timer stood still for so many ticks of the TSC."""
    tsc_hz: int
    def cpuid(self, leaf: int, subleaf: int = 0) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX as the guest's CPUID returns them: which features the model has."""
    def registers(self) -> dict[str, int]:
        """rax … r15, rip, rflags, cr0, cr2, cr3, cr4, cr8, efer, dr0-7, and per segment `cs`, `cs_base`,
        `cs_limit`, `cs_attributes` (…ldtr, tr), gdtr_base/limit, idtr_base/limit."""
    def set_registers(self, values: dict[str, int]) -> None:
        """Any subset of `registers()`; the segment parts set the hidden descriptor caches as they stand."""
    def state(self) -> dict[str, Any]:
        """All of it for a checkpoint, as plain values: registers, MSRs, FPU, local APIC, what is pending, the TSC."""
    def set_state(self, record: dict[str, Any]) -> None:
        """Goes on from such a record; what was cached of memory is dropped.

        Raises TypeError, KeyError or ValueError, with nothing changed, for what is none or this host cannot do.
        """
    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Through the guest's current paging; None where nothing is mapped."""
    def stats(self) -> dict[str, Any]:
        """Counters, and times in nanoseconds; while one of those is on, as it found them, or
        some 0.1 s old where the guest halts in `live`.  Any thread."""
    def error(self) -> str | None: ...

Area = tuple[int, int, int, int]                # x, y, width, height

class PixelFormat:
    """A viewer's true-colour pixel format (RFC 6143, 7.4)."""

    def __init__(self, bits: int, depth: int, big_endian: bool,
                 max: tuple[int, int, int], shift: tuple[int, int, int]) -> None:
        """`max` and `shift`: of red, green and blue.  Raises ValueError for numbers that don't fit together."""

class Frame:
    """The screen as consoles know it: BGRX pixels in, RFB encodings out.  All calls drop the GIL; any thread."""

    def __init__(self, width: int, height: int) -> None:
        """Black.  Raises ValueError beyond 8192 pixels."""
    def update(self, area: Area, pixels: bytes, find_scroll: bool
               ) -> tuple[tuple[int, int, int, int, int, int] | None, list[Area]]:
        """Takes newer pixels: what moved (from x, y; to x, y; width, height), and what changed besides.

        Raises ValueError when they aren't that area's.
        """
    def raw(self, area: Area, format: PixelFormat) -> bytes: ...
    def zrle(self, area: Area, format: PixelFormat) -> bytes:
        """The tiles, before zlib."""
    def tight(self, area: Area, format: PixelFormat) -> list[tuple[Area, bytes, int | None, bytes]]:
        """Rectangles: where, control byte and what follows it plain, the zlib stream, what that compresses."""

def play_fm(
    registers: bytearray, keys: int, voices: Any, frames: int, gains: tuple[float, float]
) -> tuple[bytes, bool]:
    """What an OPL3 plays: frames of 16-bit stereo, and whether it can be heard any longer.

    `keys`: a bit for each operator; `voices` has the attributes of ring3.devices.sound.opl3.Voices, which
    are set to what they are afterwards; `gains`: factors for left and right.
    """

def cpu_models() -> dict[str, str]:
    """CPU models by name, each with a line of description."""

def host_features() -> dict[str, bool]:
    """What of the host the engine can use: bmi2, avx2, avx512, sha, fsgsbase, memfd, invariant_tsc, …"""
