"""How a machine ended."""

import enum
from dataclasses import dataclass

from ring3.errors import VmError


class ExitReason(enum.Enum):
    """Why a machine ended."""

    POWER_OFF = "power off"             # the guest switched it off
    RESET = "reset"                     # the guest reset it, and `reboot` is off
    TRIPLE_FAULT = "triple fault"       # and `on_triple_fault` is "stop"
    DEBUG_EXIT = "debug exit"           # through isa-debug-exit, with a status
    STOPPED = "stopped"                 # from outside
    ERROR = "error"                     # engine or device found itself wrong, or the initrd is damaged


@dataclass(frozen=True)
class Result:
    """How a machine ended."""

    reason: ExitReason
    code: int | None = None             # DEBUG_EXIT: the status
    report: str = ""                    # TRIPLE_FAULT: registers and code bytes
    error: VmError | None = None        # ERROR
