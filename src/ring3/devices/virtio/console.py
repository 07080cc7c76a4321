"""Virtio console device: a terminal line without the baud rates.

OASIS "Virtual I/O Device (VIRTIO) Version 1.2", §5.3.  One port: queue 0 is its input, queue 1 its output.
The size of the terminal and emergency writes are there.

Not modelled: several ports (VIRTIO_CONSOLE_F_MULTIPORT).
"""

import struct
from dataclasses import dataclass, field

from ring3 import trace
from ring3.char import CharBackend
from ring3.devices.pci.msix import MsixState
from ring3.devices.virtio import pci
from ring3.devices.virtio.pci import Identity, VirtioPci, Wires
from ring3.devices.virtio.queue import QueueState

RECEIVE, TRANSMIT = range(2)            # queues
QUEUE_SIZE = 64                         # entries
OUTPUT_MAX = 1 << 20                    # bytes of one output buffer; what a longer one has more is lost

IDENTITY = Identity(device=3, pci_device=0x1003, pci_class=0x07_80_00, queues=(QUEUE_SIZE, QUEUE_SIZE))


class Feature:                          # §5.3.3
    SIZE, EMERG_WRITE = 1 << 0, 1 << 2


CONFIG = struct.Struct("<HHII")         # columns, rows, ports, emergency write
EMERGENCY_WRITE = 8                     # offset in it


@dataclass(slots=True)
class State(pci.State):
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    config: bytearray = field(default_factory=IDENTITY.config)
    msix: MsixState = field(default_factory=IDENTITY.msix)
    queues: list[QueueState] = field(default_factory=IDENTITY.queue_states)
    columns: int = 80
    rows: int = 25


class VirtioConsole(VirtioPci):
    state: State

    def __init__(self, wires: Wires, backend: CharBackend) -> None:
        super().__init__(IDENTITY, State(), wires)
        self.backend = backend

    def features(self) -> int:
        return Feature.SIZE | Feature.EMERG_WRITE

    def device_config(self) -> bytes:
        return CONFIG.pack(self.state.columns, self.state.rows, 1, 0)

    def write_device_config(self, offset: int, value: int, size: int) -> None:
        if offset == EMERGENCY_WRITE:
            self.backend.write(bytes((value & 0xFF,)))
        else:
            super().write_device_config(offset, value, size)

    def notified(self, number: int) -> None:
        if number == RECEIVE:
            self.backend.room()
        else:
            self._transmit()

    def _transmit(self) -> None:
        used = False
        for _ in range(QUEUE_SIZE):
            chain = self.take(TRANSMIT)
            if chain is None:
                break
            if chain.readable_bytes > OUTPUT_MAX:
                trace.odd("virtio console", "%d bytes of output in one buffer", chain.readable_bytes)
            self.backend.write(chain.gather(0, OUTPUT_MAX))
            self.queues[TRANSMIT].use(chain, 0)
            used = True
        else:
            self.later(TRANSMIT)
        if used:
            self.interrupt(TRANSMIT)

    def reset(self) -> None:
        self.restore(State())

    # --- the host's side ---

    def receive(self, data: bytes) -> int:
        """Input for the guest.  Returns how many bytes fitted; `room` tells when to offer the rest."""
        taken = 0
        for _ in range(QUEUE_SIZE):
            chain = self.take(RECEIVE) if taken < len(data) else None
            if chain is None:
                break
            piece = data[taken : taken + chain.writable_bytes]
            chain.scatter(0, piece)
            self.queues[RECEIVE].use(chain, len(piece))
            taken += len(piece)
        if taken:
            self.interrupt(RECEIVE)
        return taken

    def resize(self, columns: int, rows: int) -> None:
        """The terminal's window has another size now."""
        s = self.state
        if (columns, rows) != (s.columns, s.rows):
            s.columns, s.rows = columns & 0xFFFF, rows & 0xFFFF
            self.config_changed()
