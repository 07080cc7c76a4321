"""Virtio entropy device: random bytes.

OASIS "Virtual I/O Device (VIRTIO) Version 1.2", §5.4.  One queue, no features, no configuration.  A buffer is
filled at once, a long one in part, which the specification allows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3.devices.pci.msix import MsixState
from ring3.devices.virtio import pci
from ring3.devices.virtio.pci import Identity, VirtioPci, Wires
from ring3.devices.virtio.queue import QueueState

QUEUE_SIZE = 8                          # entries
BYTES_MAX = 4096                        # of one buffer

IDENTITY = Identity(device=4, pci_device=0x1005, pci_class=0x00_FF_00, queues=(QUEUE_SIZE,))


@dataclass(slots=True)
class State(pci.State):
    """Nothing but the transport's; also the checkpoint record."""

    config: bytearray = field(default_factory=IDENTITY.config)
    msix: MsixState = field(default_factory=IDENTITY.msix)
    queues: list[QueueState] = field(default_factory=IDENTITY.queue_states)


class VirtioRng(VirtioPci):
    state: State

    def __init__(self, wires: Wires, entropy: Callable[[int], bytes]) -> None:
        """`entropy` gives so many random bytes: os.urandom."""
        super().__init__(IDENTITY, State(), wires)
        self._entropy = entropy

    def notified(self, number: int) -> None:
        used = False
        for _ in range(QUEUE_SIZE):
            chain = self.take(0)
            if chain is None:
                break
            data = self._entropy(min(chain.writable_bytes, BYTES_MAX))
            chain.scatter(0, data)
            self.queues[0].use(chain, len(data))
            used = True
        else:
            self.later(0)
        if used:
            self.interrupt(0)

    def reset(self) -> None:
        self.restore(State())
