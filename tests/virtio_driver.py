"""The other side of a virtio device, for tests: a driver that lays queues out in a fake RAM by hand."""

import struct

from fakes import Ram
from ring3.devices.pci.config import Command, Reg
from ring3.devices.virtio.pci import Common, Feature, Legacy, Page, Status, Wires
from ring3.devices.virtio.queue import Descriptor
from ring3.irq import IrqLine

# Addresses for queue 0; those of the others are 256 KiB apart.
DESCRIPTORS, AVAILABLE, USED, BUFFERS = 0x1_0000, 0x1_4000, 0x1_5000, 0x2_0000
MODERN = Feature.VERSION_1 | Feature.INDIRECT_DESC


class Wiring:
    """Wires that remember."""

    def __init__(self, clock):
        self.ram = Ram(1 << 20)
        self.edges = []
        self.messages = []
        self.moves = []
        self.wires = Wires(
            clock,
            self.ram,
            IrqLine(self.edges.append),
            lambda *message: self.messages.append(message),
            lambda bar, base: self.moves.append((bar, base)),
        )


class Driver:
    """Sets a device up through its modern interface, and drives its queues."""

    descriptors, available, used_ring = DESCRIPTORS, AVAILABLE, USED

    def __init__(self, chip, ram, *, features=MODERN, size=8):
        self.chip, self.ram, self.size = chip, ram, size
        self.legacy, self.msix, self.modern = chip.faces
        self.next = [0] * len(chip.queues)
        self.free = [0] * len(chip.queues)
        chip.write_config(Reg.COMMAND, Command.IO | Command.MEMORY | Command.MASTER, 2)
        self.set(Common.DEVICE_STATUS, Status.ACKNOWLEDGE | Status.DRIVER, 1)
        for word in range(2):
            self.set(Common.DRIVER_FEATURE_SELECT, word, 4)
            self.set(Common.DRIVER_FEATURE, features >> 32 * word & 0xFFFF_FFFF, 4)
        self.set(Common.DEVICE_STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK, 1)
        for number in range(len(chip.queues)):
            self.place(number)
        ready = Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK
        self.set(Common.DEVICE_STATUS, ready, 1)

    def set(self, offset, value, size):
        self.modern.write(Page.COMMON * 0x1000 + offset, value, size)

    def get(self, offset, size):
        return self.modern.read(Page.COMMON * 0x1000 + offset, size)

    def place(self, number):
        base = 0x4_0000 * number
        self.set(Common.QUEUE_SELECT, number, 2)
        self.set(Common.QUEUE_SIZE, self.size, 2)
        for at, address in (
            (Common.QUEUE_DESC, DESCRIPTORS),
            (Common.QUEUE_DRIVER, AVAILABLE),
            (Common.QUEUE_DEVICE, USED),
        ):
            self.set(at, base + address, 4)
            self.set(at + 4, 0, 4)
        self.set(Common.QUEUE_ENABLE, 1, 2)

    # --- buffers ---

    def describe(self, number, index, address, length, flags=0, following=0):
        entry = struct.pack("<QIHH", address, length, flags, following)
        self.ram.write(0x4_0000 * number + self.descriptors + 16 * index, entry)

    def chain(self, number, *parts):
        """A chain of bytes to be read and lengths to be written; the head and the parts' addresses."""
        head = self.free[number]
        addresses: list[int] = []
        for n, part in enumerate(parts):
            index = (head + n) % self.size
            address = 0x4_0000 * number + BUFFERS + 0x1000 * index
            addresses.append(address)
            flags = Descriptor.NEXT if n + 1 < len(parts) else 0
            if isinstance(part, int):
                self.describe(number, index, address, part, flags | Descriptor.WRITE, (index + 1) % self.size)
            else:
                self.ram.write(address, part)
                self.describe(number, index, address, len(part), flags, (index + 1) % self.size)
        self.free[number] = (head + len(parts)) % self.size
        return head, addresses

    def offer(self, number, head, *, notify=True):
        """Makes a chain available."""
        available = 0x4_0000 * number + self.available
        self.ram.write(available + 4 + 2 * (self.next[number] % self.size), struct.pack("<H", head))
        self.next[number] = self.next[number] + 1 & 0xFFFF
        self.ram.write(available + 2, struct.pack("<H", self.next[number]))
        if notify:
            self.notify(number)

    def notify(self, number):
        self.modern.write(Page.NOTIFY * 0x1000 + 4 * number, number, 2)

    def send(self, number, *parts):
        """A chain, made available; the addresses of its parts."""
        head, addresses = self.chain(number, *parts)
        self.offer(number, head)
        return addresses

    def used(self, number=0):
        """(head, bytes written) of everything used so far."""
        ring = 0x4_0000 * number + self.used_ring
        count = int.from_bytes(self.ram.read(ring + 2, 2), "little")
        return [struct.unpack("<II", self.ram.read(ring + 4 + 8 * n, 8)) for n in range(count)]

    def take_isr(self):
        return self.modern.read(Page.ISR * 0x1000, 1)

    def config(self, offset, size):
        return self.modern.read(Page.DEVICE * 0x1000 + offset, size)


class LegacyDriver(Driver):
    """The same through the ports of before 1.0: queue 0, whose rings follow each other (§2.7.2)."""

    def __init__(self, chip, ram, *, features=0):
        self.chip, self.ram, self.size = chip, ram, 0
        self.legacy, self.msix, self.modern = chip.faces
        self.next, self.free = [0], [0]
        chip.write_config(Reg.COMMAND, Command.IO | Command.MASTER, 2)
        self.legacy.write(Legacy.STATUS, Status.ACKNOWLEDGE | Status.DRIVER, 1)
        self.legacy.write(Legacy.DRIVER_FEATURES, features, 4)
        self.legacy.write(Legacy.QUEUE_SELECT, 0, 2)
        self.size = self.legacy.read(Legacy.QUEUE_SIZE, 2)
        self.available = DESCRIPTORS + 16 * self.size
        self.used_ring = (self.available + 6 + 2 * self.size + 4095) // 4096 * 4096
        self.legacy.write(Legacy.QUEUE_ADDRESS, DESCRIPTORS >> 12, 4)
        self.legacy.write(Legacy.STATUS, Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK, 1)

    def notify(self, number):
        self.legacy.write(Legacy.QUEUE_NOTIFY, number, 2)


def mad(chip, rng):
    """For storms: a driver whose queues are full of nonsense; it resets the device when it is through."""
    ram = chip._memory
    ram.write(0, bytes(len(ram.data)))
    driver = Driver(chip, ram, features=rng.choice((0, MODERN, MODERN | Feature.EVENT_IDX)))
    for number in range(len(chip.queues)):
        for index in range(driver.size):
            address = rng.choice((0, 0x2_0000, (1 << 64) - 8))
            length = rng.choice((0, 1, 16, 512, 0xFFFF_FFFF))
            flags = rng.choice((0, 1, 1, 2, 3, 4, 7))
            driver.describe(number, index, address, length, flags, rng.randrange(9))
        ram.write(0x2_0000, bytes((rng.choice((0, 1, 4, 8, 11, 13, 99)), 0, 0, 0)) + bytes(12))
        for _ in range(rng.randrange(12)):
            driver.offer(number, rng.choice((0, 1, 2, 3, 3, 3, 0xFFFF)), notify=rng.random() < 0.7)
    driver.set(Common.DEVICE_STATUS, 0, 1)
