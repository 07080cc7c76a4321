"""The virtual machine generation ID: a number that tells a guest that it is a copy, or was put back.

Microsoft, "Virtual Machine Generation ID" (2012).  A GUID of 16 bytes in a page of read-only memory, whose
address the ACPI tables give (ring3.firmware.acpi); a general-purpose event says that it is another one.
Guests then renew what must not be the same twice: their entropy, above all.

It is new at power-on, after a restore, in every copy and after a rollback; not after a reset or a pause.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

GUID_BYTES = 16
PAGE_BYTES = 4096


@dataclass(slots=True)
class State:
    """The GUID; also the checkpoint record."""

    guid: bytearray = field(default_factory=lambda: bytearray(GUID_BYTES))


class GenerationId:
    def __init__(
        self, show: Callable[[bytes], None], changed: Callable[[], None], entropy: Callable[[int], bytes]
    ) -> None:
        """`show` puts bytes at the start of its page, `changed` raises the event, `entropy`: os.urandom."""
        self._show = show
        self._changed = changed
        self._entropy = entropy
        self.restore(State(bytearray(entropy(GUID_BYTES))))

    def restore(self, state: State) -> None:
        self.state = state
        self._show(bytes(state.guid[:GUID_BYTES]))

    def reset(self) -> None:
        """It is the same machine."""

    def renew(self) -> None:
        """The machine goes on from where it, or another one, has been before."""
        self.restore(State(bytearray(self._entropy(GUID_BYTES))))
        self._changed()
