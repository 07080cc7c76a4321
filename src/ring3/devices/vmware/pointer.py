"""VMware's absolute pointer ("vmmouse"): a mouse that knows where on the screen it points.

The interface is VMware's, as its open drivers describe it (xf86-input-vmmouse, "vmmouse_defs.h"; Linux's
"vmmouse.c").  The guest reads packets of four words through the backdoor: buttons and flags, x and y from 0
to FFFFh, and the wheel.  That there are some it learns from the PS/2 mouse, which sends an empty packet for
it (`nudge`); the PS/2 mouse's own movement is not to be used meanwhile.

Movement that the guest has not read yet is replaced by later movement; clicks are kept, up to QUEUE_MAX
packets.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3 import trace
from ring3.devices.vmware.backdoor import NOTHING, Backdoor, Call, Command

QUEUE_MAX = 64                          # packets
PACKET = 4                              # words
VERSION_ID = 0x3442_554A
ERROR = 0xFFFF                          # in the upper half of the status: switched off


class Request:
    READ_ID, DISABLE, RELATIVE, ABSOLUTE = 0x4541_4552, 0x0000_00F5, 0x4C45_5252, 0x5342_4152


class Flags:
    MIDDLE, RIGHT, LEFT, RELATIVE = 0x08, 0x10, 0x20, 0x0001_0000


class Restrict:                         # who may use it; not enforced for IOPL
    ANY, CPL_0, IOPL = 0, 1, 2


# Buttons of ours (ps2_mouse.Button) by flag.  There are no more than three.
BUTTONS = ((0x01, Flags.LEFT), (0x02, Flags.RIGHT), (0x04, Flags.MIDDLE))


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    enabled: bool = False
    absolute: bool = False
    restrict: int = Restrict.ANY
    words: list[int] = field(default_factory=list)
    packets: bool = False               # `words` ends in a packet, not in the version


class VmMouse:
    def __init__(self, backdoor: Backdoor, nudge: Callable[[], None]) -> None:
        """`nudge`: have the PS/2 mouse tell the guest that there is something to read."""
        self._nudge = nudge
        self.state = State()
        for command, function in (
            (Command.POINTER_DATA, self._data),
            (Command.POINTER_STATUS, self._status),
            (Command.POINTER_COMMAND, self._command),
            (Command.POINTER_RESTRICT, self._restrict),
        ):
            backdoor.add(command, self._permitted(function))

    # --- the host's side ---

    @property
    def in_use(self) -> bool:
        return self.state.enabled and self.state.absolute

    @property
    def pending(self) -> bool:
        return bool(self.state.words)

    def point(self, x: int, y: int, dz: int, buttons: int) -> None:
        """Where it points now, 0 to FFFFh; the wheel's movement towards the user; buttons as in ps2_mouse."""
        s = self.state
        if not self.in_use:
            return
        flags = sum(flag for button, flag in BUTTONS if buttons & button)
        dz = max(-127, min(dz, 127)) & 0xFFFF_FFFF
        words = s.words
        if s.packets and len(words) >= PACKET and words[-4] == flags and words[-1] == dz == 0:
            del words[-PACKET:]
        elif len(words) > (QUEUE_MAX - 1) * PACKET:
            trace.odd("vmmouse", "the guest does not read: a packet is lost")
            return
        words += (flags, x & 0xFFFF, y & 0xFFFF, dz)
        s.packets = True
        self._nudge()

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state

    # --- the guest's side ---

    def _permitted(self, function: Callable[[Call], None]) -> Callable[[Call], None]:
        def checked(call: Call) -> None:
            if call.cpl and self.state.restrict == Restrict.CPL_0:
                call.eax = call.ebx = NOTHING
            else:
                function(call)

        return checked

    def _status(self, call: Call) -> None:
        s = self.state
        call.eax = len(s.words) | (0 if s.enabled else ERROR << 16)

    def _data(self, call: Call) -> None:
        """The next one to six words, in EAX, EBX, ECX, EDX, ESI and EDI."""
        s = self.state
        count = call.ebx
        if not 0 < count <= min(6, len(s.words)):
            trace.odd("vmmouse", "read of %d words where there are %d", count, len(s.words))
            self._disable()
            call.eax = NOTHING
            return
        words = s.words[:count]
        del s.words[:count]
        s.packets &= len(s.words) >= PACKET
        for register, word in zip(("eax", "ebx", "ecx", "edx", "esi", "edi"), words, strict=False):
            setattr(call, register, word)

    def _command(self, call: Call) -> None:
        s = self.state
        match call.ebx:
            case Request.READ_ID:
                s.enabled, s.absolute, s.packets = True, False, False
                s.words[:] = [VERSION_ID]
            case Request.DISABLE:
                self._disable()
            case Request.RELATIVE | Request.ABSOLUTE:
                s.absolute = call.ebx == Request.ABSOLUTE
            case _:
                trace.odd("vmmouse", "unknown request %Xh", call.ebx)

    def _restrict(self, call: Call) -> None:
        if call.ebx in (Restrict.ANY, Restrict.CPL_0, Restrict.IOPL):
            self.state.restrict = call.ebx

    def _disable(self) -> None:
        s = self.state
        s.enabled = s.absolute = s.packets = False
        s.words.clear()
