"""The life of one virtual CPU, on its own thread.  Newcomers start here.

The native `live` executes guest code, serves port and MMIO accesses and sleeps through HLT inside, until the
machine must decide something; then it comes back with the reason.
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ring3._native import Vcpu


class Control(Protocol):
    """What the machine decides."""

    def attend(self) -> bool:
        """Carries out what was asked for meanwhile: pause, reset.  False: the machine has ended."""

    def triple_fault(self) -> None: ...
    def engine_error(self, report: str) -> None: ...


def run(vcpu: "Vcpu", machine: Control) -> None:
    from ring3._native import Exit

    while machine.attend():
        match vcpu.live():
            case Exit.SHUTDOWN:
                machine.triple_fault()
            case Exit.ERROR:
                machine.engine_error(vcpu.error() or "no report")
            case Exit.KICKED:
                pass
