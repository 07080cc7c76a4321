"""A pure-Python stand-in for the native module: memory, the I/O map, and a CPU that runs a Python function.

A test sets `FakeVcpu.guest` to a function of the vCPU that plays the guest: it uses `inb`, `outb` and the
like, and returns an Exit.  It is called for each `run`.
"""

import contextlib
import os
import threading

from video_fakes import FakeVideoMemory


class Exit:
    HALT, KICKED, SHUTDOWN, ERROR = range(4)


class Ram:
    """A `Memory` of so many bytes for bus masters."""

    def __init__(self, size=1 << 20):
        self.data = bytearray(size)
        self.fills = True               # else `fill` can't, as over a device's registers

    def read(self, address, length):
        found = bytes(self.data[address : address + length])
        return found + b"\xff" * (length - len(found))

    def write(self, address, data):
        end = min(address + len(data), len(self.data))
        if address < end:
            self.data[address:end] = data[: end - address]

    def scatter(self, regions, data):
        for address, length in regions:
            self.write(address, data[:length])
            data = data[length:]

    def fill(self, regions, place):
        fd, offset = place
        self.scatter(regions, os.pread(fd, sum(length for _, length in regions), offset))
        return self.fills

    def gather(self, regions):
        return b"".join(self.read(*region) for region in regions)


class FakeVm:
    def __init__(self, ram_bytes, low_ram_bytes):
        self.ram_bytes = ram_bytes
        self.low_ram_bytes = low_ram_bytes
        self.writes = {}
        self.ports = {}
        self.mmio = {}
        self.roms = {}
        self.hidden_roms = set()
        self.shadow = {}
        self.a20 = None
        self.io_error_handler = None

    def write_physical(self, address, data):
        self.writes[address] = bytes(data)

    def read_physical(self, address, length):
        return self.writes.get(address, b"\xff" * length)[:length]

    def search_ram(self, needle, most):
        return []

    def scatter_physical(self, regions, data):
        for address, length in regions:
            self.write_physical(address, data[:length])
            data = data[length:]

    def fill_physical(self, regions, fd, offset):
        return False

    def gather_physical(self, regions):
        return b"".join(self.read_physical(*region) for region in regions)

    def map_ports(self, first, count, read, write, *, width=1, blocks=None, lock=None):
        read, write = under(lock, read), under(lock, write)
        for port in range(first, first + count):
            if port in self.ports:
                raise ValueError(f"port {port:#x} is taken")
            self.ports[port] = (first, read, write, width)

    def unmap_ports(self, first, count):
        for port in range(first, first + count):
            del self.ports[port]

    def map_mmio(self, base, size, read, write, *, width=4, lock=None):
        self.mmio[base] = (size, under(lock, read), under(lock, write), width)

    def unmap_mmio(self, base, size):
        del self.mmio[base]

    def map_rom(self, base, data):
        self.roms[base] = data

    def set_shadow(self, base, size, read, write):
        self.shadow[base] = (size, read, write)

    def show_rom(self, base, shown):
        self.hidden_roms.discard(base) if shown else self.hidden_roms.add(base)

    def program_rom(self, address, data):
        for base, rom in self.roms.items():
            if base <= address < base + len(rom):
                at = address - base
                self.roms[base] = rom[:at] + data + rom[at + len(data) :]

    def set_gateway(self, port, magic, call):
        self.gateway = (port, magic, call)

    def add_video_memory(self, size):
        return FakeVideoMemory(size)

    def set_a20(self, enabled):
        self.a20 = enabled

    def set_io_error_handler(self, handler):
        self.io_error_handler = handler


def play_fm(registers, keys, voices, frames, gains):
    return bytes(4 * frames), False


def under(lock, call):
    def locked(*values):
        with lock or contextlib.nullcontext():
            return call(*values)

    return locked


class FakeVcpu:
    guest = None
    tsc_hz = 1_000_000_000

    def __init__(self, vm, *, index=0, engine="translate", cpu="max", hypervisor="ring3"):
        self.vm = vm
        self.engine = engine
        self.register_values = {}
        self.resets = self.inits = 0
        self.intr = False
        self.acknowledge = None
        self.messages = []
        self.tsc_now = self.skipped = 0     # ticks
        self.local_apic = {}
        self.msrs = {}
        self._wake = threading.Event()

    def run(self):
        if self._wake.is_set():
            self._wake.clear()
            return Exit.KICKED
        return type(self).guest(self)

    def live(self):
        while (reason := self.run()) == Exit.HALT:
            self._wake.wait()
        return reason

    def wait(self):
        self._wake.wait()
        self._wake.clear()

    def kick(self):
        self._wake.set()

    def kicked(self):
        """For guests that loop."""
        return self._wake.is_set()

    def write_msr(self, number, value):
        self.msrs[number] = value

    def pulse_init(self):
        self.inits += 1

    def set_ignne(self, level):
        self.ignne = level

    def set_ferr_handler(self, handler):
        self.ferr_handler = handler

    def reset(self):
        self.resets += 1

    def set_intr(self, level):
        self.intr = level
        if level:
            self._wake.set()

    def set_intr_acknowledge(self, acknowledge):
        self.acknowledge = acknowledge

    def deliver_apic_interrupt(self, *message):
        self.messages.append(message)

    def write_local_apic(self, offset, value):
        self.local_apic[offset] = value

    def set_eoi_handler(self, handler):
        self.eoi_handler = handler

    def registers(self):
        names = [f"r{n}" for n in range(8, 16)]
        names += ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "rflags"]
        names += ["cr0", "cr2", "cr3", "cr4", "cr8", "efer"]
        names += ["gdtr_base", "gdtr_limit", "idtr_base", "idtr_limit"]
        for segment in ("cs", "ss", "ds", "es", "fs", "gs", "ldtr", "tr"):
            names += [segment, f"{segment}_base", f"{segment}_limit", f"{segment}_attributes"]
        return dict.fromkeys(names, 0) | self.register_values

    def set_registers(self, values):
        self.register_values |= values

    def read_virtual(self, address, length):
        return b"\xf4" if address < 0x1000 else None

    def cpuid(self, leaf, subleaf=0):
        return (0, 0, 0, 1 << 29)

    def tsc(self):
        return self.tsc_now

    def skip_time(self, ticks):
        self.skipped += ticks

    def stats(self):
        return {"blocks": 0}

    def error(self):
        return "block 7: RSP lost\nregisters follow"

    # --- the guest's instructions ---

    def _port(self, port):
        first, read, write, width = self.vm.ports[port]
        return port - first, read, write, width

    def inb(self, port):
        offset, read, _, width = self._port(port)
        try:
            return read(offset) if width == 1 else read(offset, 1)
        except Exception as error:
            self.vm.io_error_handler(error)
            return 0xFF

    def outb(self, port, value):
        self._out(port, value, 1)

    def outw(self, port, value):
        self._out(port, value, 2)

    def outl(self, port, value):
        self._out(port, value, 4)

    def _out(self, port, value, size):
        offset, _, write, width = self._port(port)
        try:
            if width > 1:
                write(offset, value, size)
            else:
                write(offset, value & 0xFF)
        except Exception as error:
            self.vm.io_error_handler(error)


Vm, Vcpu = FakeVm, FakeVcpu


def cpu_models():
    return {"max": "everything"}


class FakeDrive:
    """A Drive in memory.  `deferred`: answers wait until `run`, as those of a worker's thread do.

    `errors` holds OSErrors that the next requests fail with; `log` what was asked for.
    """

    def __init__(self, content=b"", *, size_bytes=None, read_only=False, deferred=False):
        self.content = bytearray(content)
        if size_bytes is not None:
            self.content += bytes(size_bytes - len(self.content))
        self.size_bytes = len(self.content)
        self.read_only = read_only
        self.deferred = deferred
        self.file = None                # a descriptor that has the content, too
        self.waiting = []
        self.errors = []
        self.log = []

    def in_file(self, offset, length):
        self._check(offset, length)
        return (self.file, offset) if self.file is not None and not self.waiting else None

    def read(self, offset, length, done):
        self._check(offset, length)
        self._ask(("read", offset, length), done, lambda: bytes(self.content[offset : offset + length]))

    def write(self, offset, data, done):
        self._check(offset, len(data))
        assert not self.read_only
        data = bytes(data)

        def work():
            self.content[offset : offset + len(data)] = data

        self._ask(("write", offset, len(data)), done, work)

    def flush(self, done):
        self._ask(("flush",), done, lambda: None)

    def discard(self, offset, length, done):
        self._check(offset, length)

        def work():
            self.content[offset : offset + length] = bytes(length)

        self._ask(("discard", offset, length), done, work)

    def run(self, count=None):
        """Answers what waits (the first `count` of it), and what is asked for meanwhile."""
        while self.waiting and count != 0:
            self.waiting.pop(0)()
            count = None if count is None else count - 1

    def _check(self, offset, length):
        assert 0 <= offset <= offset + length <= self.size_bytes

    def _ask(self, what, done, work):
        self.log.append(what)

        def answer():
            done(self.errors.pop(0) if self.errors else work())

        if self.deferred:
            self.waiting.append(answer)
        else:
            answer()


class AudioSink:
    """Remembers what was played, by format."""

    def __init__(self):
        self.played = {}

    def open(self, *form):
        return AudioStream(self.played.setdefault(form, bytearray()))


class AudioStream:
    def __init__(self, samples):
        self.write = samples.extend

    def close(self):
        pass
