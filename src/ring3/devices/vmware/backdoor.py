"""VMware's backdoor: functions of the monitor that a guest calls by IN EAX, DX at port 5658h.

The interface is VMware's, as its open drivers describe it (open-vm-tools, "backdoor_def.h"; Linux's
"vmware.h"): EAX holds the magic number, ECX the command in its low half, EBX an argument; results come back
in EAX and the other general registers.  Any privilege may call, whatever IOPL and permission bitmap say.
A command that isn't there answers with EAX and EBX all ones.

Modelled: version and frequency here, the absolute pointer in pointer.py.  Not modelled: time, messages (RPC)
and the high-bandwidth port 5659h of guest tools; memory and hardware queries.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ring3 import trace

PORT, MAGIC = 0x5658, 0x564D_5868
VERSION, PRODUCT_WORKSTATION = 6, 4
NOTHING = 0xFFFF_FFFF


class Command:
    GET_MHZ, GET_VERSION, GET_HZ = 1, 10, 45
    POINTER_DATA, POINTER_STATUS, POINTER_COMMAND, POINTER_RESTRICT = 39, 40, 41, 86


@dataclass(slots=True)
class Call:
    """The caller's registers, to be changed, and its privilege level."""

    eax: int
    ebx: int
    ecx: int
    edx: int
    esi: int
    edi: int
    ebp: int
    cpl: int = 0


Function = Callable[[Call], None]
Registers = tuple[int, int, int, int, int, int, int]


@dataclass(slots=True)
class State:
    """Nothing lasts from one call to the next."""


class Backdoor:
    def __init__(self, tsc_hz: int) -> None:
        """`tsc_hz`: the time-stamp counter's frequency."""
        self.state = State()
        self._tsc_hz = tsc_hz
        self._functions: dict[int, Function] = {
            Command.GET_VERSION: self._get_version,
            Command.GET_MHZ: self._get_mhz,
            Command.GET_HZ: self._get_hz,
        }

    def add(self, command: int, function: Function) -> None:
        self._functions[command] = function

    def call(
        self, eax: int, ebx: int, ecx: int, edx: int, esi: int, edi: int, ebp: int, cpl: int
    ) -> Registers:
        """The engine's gateway: registers in, registers out."""
        call = Call(eax, ebx, ecx, edx, esi, edi, ebp, cpl)
        function = self._functions.get(ecx & 0xFFFF)
        if function is None:
            trace.odd("backdoor", "unknown command %d", ecx & 0xFFFF)
            call.eax = call.ebx = NOTHING
        else:
            function(call)
        return call.eax, call.ebx, call.ecx, call.edx, call.esi, call.edi, call.ebp

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state

    def _get_version(self, call: Call) -> None:
        call.eax, call.ebx, call.ecx = VERSION, MAGIC, PRODUCT_WORKSTATION

    def _get_mhz(self, call: Call) -> None:
        call.eax = self._tsc_hz // 1_000_000

    def _get_hz(self, call: Call) -> None:
        """The time-stamp counter's frequency in EBX:EAX; ECX, the APIC timer's, is to be measured."""
        call.eax, call.ebx, call.ecx = self._tsc_hz & 0xFFFF_FFFF, self._tsc_hz >> 32, 0
