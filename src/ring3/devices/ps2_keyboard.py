"""IBM enhanced keyboard with a PS/2 plug: scan code sets 1, 2 and 3.

IBM, "PS/2 Hardware Interface Technical Reference", 1991, "Keyboard (101/102-Key)".  Command names are
IBM's.

The host names a key by its code in set 1, which is also what most of the world's key tables use: 1Eh is A,
and keys with the prefix E0h are E000h plus their code (E04Bh is Left); PAUSE has a name of its own.

A key held down repeats at the typematic rate, on the machine's clock, so whoever presses it need not: a
second press of a key that is down does nothing.  The delay counts from when the system has taken the make
code, and what it doesn't take isn't repeated, so a slow guest doesn't see keys twice that were short.

Not modelled: key types of set 3 (acknowledged; every key makes, breaks and repeats), and the shifts that a
keyboard invents around its navigation keys under Num Lock.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import NS_PER_S, Clock, Timer

FIFO_DEPTH = 16  # bytes of scan codes
PAUSE = 0xE11D
PRINT_SCREEN = 0xE037
SYS_REQ = 0x54
BREAK = 0xE046
CTRLS, ALTS = {0x1D, 0xE01D}, {0x38, 0xE038}
UNREPEATED = (PAUSE, BREAK)

IDENTITY = b"\xab\x83"
OVERRUN = {1: 0xFF, 2: 0x00, 3: 0x00}
DEFAULT_TYPEMATIC = 0x2B  # 10.9 a second after 500 ms


class Reply:
    BAT_OK, ECHO, ACK, RESEND = 0xAA, 0xEE, 0xFA, 0xFE


class Command:
    LEDS, ECHO, SCAN_CODE_SET, IDENTIFY, TYPEMATIC = 0xED, 0xEE, 0xF0, 0xF2, 0xF3
    ENABLE, DISABLE, DEFAULTS, RESEND, RESET = 0xF4, 0xF5, 0xF6, 0xFE, 0xFF
    ALL_KEYS = range(0xF7, 0xFB)  # types for set 3
    ONE_KEY = range(0xFB, 0xFE)


# Set 1 code of each set 2 code, as the 8042 translates.  Two keys of set 2 lie beyond: 83h (F7), 84h (SysRq).
_SET_1_OF_SET_2 = bytes.fromhex(
    "ff 43 41 3f 3d 3b 3c 58 64 44 42 40 3e 0f 29 59 "
    "65 38 2a 70 1d 10 02 5a 66 71 2c 1f 1e 11 03 5b "
    "67 2e 2d 20 12 05 04 5c 68 39 2f 21 14 13 06 5d "
    "69 31 30 23 22 15 07 5e 6a 72 32 24 16 08 09 5f "
    "6b 33 25 17 18 0b 0a 60 6c 34 35 26 27 19 0c 61 "
    "6d 73 28 74 1a 0d 62 6e 3a 36 1c 1b 75 2b 63 76 "
    "55 56 77 78 79 7a 0e 7b 7c 4f 7d 4b 47 7e 7f 6f "
    "52 53 50 4c 4d 48 01 45 57 4e 51 4a 37 49 46 54"
)
TRANSLATION = _SET_1_OF_SET_2 + b"\x80\x81\x82\x41\x54" + bytes(range(0x85, 0x100))

_SET_2 = {one: two for two, one in enumerate(_SET_1_OF_SET_2)} | {0x41: 0x83, 0x54: 0x84}

# Set 3 by set 1's plain codes in order from 01h, then the keys with prefix E0h and a few beyond.
_SET_3_PLAIN = bytes.fromhex(
    "08 16 1e 26 25 2e 36 3d 3e 46 45 4e 55 66 0d "  # Esc 1 … 0 - = Backspace Tab
    "15 1d 24 2d 2c 35 3c 43 44 4d 54 5b 5a 11 "  # Q … P [ ] Enter LCtrl
    "1c 1b 23 2b 34 33 3b 42 4b 4c 52 0e 12 5c "  # A … L ; ' ` LShift \
    "1a 22 21 2a 32 31 3a 41 49 4a 59 "  # Z … M , . / RShift
    "7e 19 29 14 07 0f 17 1f 27 2f 37 3f 47 4f "  # KP* LAlt Space Caps F1 … F10
    "76 5f 6c 75 7d 84 6b 73 74 7c 69 72 7a 70 71"  # Num Scroll KP7 8 9 - 4 5 6 + 1 2 3 0 .
)
_SET_3 = dict(enumerate(_SET_3_PLAIN, 1)) | {
    0x56: 0x13, 0x57: 0x56, 0x58: 0x5E, SYS_REQ: 0x57, PRINT_SCREEN: 0x57, PAUSE: 0x62,
    0xE01C: 0x79, 0xE01D: 0x58, 0xE035: 0x77, 0xE038: 0x39, 0xE047: 0x6E, 0xE048: 0x63, 0xE049: 0x6F,
    0xE04B: 0x61, 0xE04D: 0x6A, 0xE04F: 0x65, 0xE050: 0x60, 0xE051: 0x6D, 0xE052: 0x67, 0xE053: 0x64,
    0xE05B: 0x8B, 0xE05C: 0x8C, 0xE05D: 0x8D,
}  # fmt: skip


def scan_code(scan_code_set: int, key: int, pressed: bool) -> bytes:
    """What the keyboard sends for a key; nothing for one it doesn't have."""
    if scan_code_set == 3:
        three = _SET_3.get(key)
        return b"" if three is None else bytes((three,) if pressed else (0xF0, three))
    if key == PAUSE:  # no break code: the make code holds it
        make = ((0x1D, True), (0x45, True), (0x1D, False), (0x45, False))
        halves = [_code(scan_code_set, code, down) for code, down in make] if pressed else [b""] * 4
        prefix = b"\xe1" if pressed else b""
        return prefix + halves[0] + halves[1] + prefix + halves[2] + halves[3]
    if key == PRINT_SCREEN:  # a shift is wrapped around it
        shift, star = (b"\xe0" + _code(scan_code_set, code, pressed) for code in (0x2A, 0x37))
        return shift + star if pressed else star + shift
    prefix = b"\xe0" if key >> 8 == 0xE0 else b""
    code = key & 0xFF
    if (key > 0xFF and not prefix) or not 0 < code < 0x80:
        return b""
    return prefix + _code(scan_code_set, code, pressed)


def with_modifiers(key: int, held: Collection[int]) -> int:
    """Keys that are another one with Ctrl or Alt: Break and SysRq."""
    if key == PAUSE and CTRLS.intersection(held):
        return BREAK
    if key == PRINT_SCREEN and ALTS.intersection(held):
        return SYS_REQ
    return key


def _code(scan_code_set: int, code: int, pressed: bool) -> bytes:
    if scan_code_set == 1:
        return bytes((code if pressed else code | 0x80,))
    two = _SET_2.get(code)
    if two is None:
        return b""
    return bytes((two,) if pressed else (0xF0, two))


@dataclass(slots=True)
class State:
    """All that the guest can observe, as after power-on; also part of the 8042's checkpoint record."""

    scanning: bool = True
    scan_code_set: int = 2
    leds: int = 0  # 1 Scroll Lock, 2 Num Lock, 4 Caps Lock
    typematic: int = DEFAULT_TYPEMATIC
    expecting: int = 0  # the command whose parameter comes next
    last_sent: int = 0
    replies: bytearray = field(default_factory=bytearray)  # go before scan codes
    codes: bytearray = field(default_factory=bytearray)
    held: list[tuple[int, int]] = field(default_factory=list)  # keys down, and the keys they were sent as
    repeating: int = 0  # the key that repeats next, at `repeat_ns`; 0: none
    repeated: bool = False
    repeat_ns: int = 0


class Ps2Keyboard:
    """The far end of the plug: the controller calls `command` and `take`, and hears of data by `on_data`."""

    def __init__(self, clock: Clock, on_data: Callable[[], None], busy: Callable[[], bool]) -> None:
        """`busy`: the controller holds a byte of ours that the system has not read."""
        self._clock = clock
        self._busy = busy
        self._on_data = on_data
        self._repeat = Timer(clock, self._repeat_due)
        self.state = State()

    # --- the host's side ---

    in_use = True

    @property
    def pending(self) -> bool:
        """There are scan codes that the system has not read."""
        return bool(self.state.codes) or self._busy()

    @property
    def leds(self) -> int:
        """1 Scroll Lock, 2 Num Lock, 4 Caps Lock."""
        return self.state.leds

    def key(self, key: int, pressed: bool) -> None:
        """A key goes down or comes up."""
        s = self.state
        sent_as = next((sent_as for held, sent_as in s.held if held == key), None)
        if pressed == (sent_as is not None) or not scan_code(1, key, True):
            return
        if pressed:
            sent_as = with_modifiers(key, {held for held, _ in s.held})
            s.held.append((key, sent_as))
            s.repeating = sent_as if s.scanning and sent_as not in UNREPEATED else 0
            s.repeated = False
        elif sent_as is not None:
            s.held.remove((key, sent_as))
            s.repeating = 0 if s.repeating == sent_as else s.repeating
        if s.scanning and sent_as is not None:
            self._send(sent_as, pressed)
        self._plan_repeat()

    def restore(self, state: State) -> None:
        self.state = state
        self._arm()

    # --- the controller's side ---

    def take(self) -> int | None:
        """The next byte the keyboard sends, if any."""
        s = self.state
        source = s.replies or s.codes
        if not source:
            return None
        s.last_sent = source.pop(0)
        return s.last_sent

    def taken(self) -> None:
        """The system has read a byte of ours from the controller."""
        if not self.state.repeated:
            self._plan_repeat()

    def has_data(self) -> bool:
        return bool(self.state.replies or self.state.codes)

    def command(self, value: int) -> None:
        """A byte from the system: a command or a parameter.  It ends whatever was being answered."""
        s = self.state
        s.replies.clear()
        expecting, s.expecting = s.expecting, 0
        if expecting and value < Command.LEDS:
            self._parameter(expecting, value)
        else:
            self._command(value)
        self._on_data()

    # --- scan codes ---

    def _send(self, key: int, pressed: bool) -> None:
        """What no longer fits into the FIFO becomes one overrun code."""
        s = self.state
        code = scan_code(s.scan_code_set, key, pressed)
        if len(s.codes) + len(code) <= FIFO_DEPTH:
            s.codes += code
        elif s.codes[-1] != OVERRUN[s.scan_code_set]:
            s.codes.append(OVERRUN[s.scan_code_set])
        self._on_data()

    def _repeat_due(self) -> None:
        s = self.state
        if s.repeating and s.scanning and not self.pending:
            s.repeated = True
            self._send(s.repeating, True)
        self._plan_repeat()

    def _plan_repeat(self) -> None:
        """Typematic rate and delay, in 240ths of a second and quarters."""
        s = self.state
        period = 8 + (s.typematic & 7) << (s.typematic >> 3 & 3)
        delay_ns = (s.typematic >> 5) * 250_000_000 + 250_000_000
        s.repeat_ns = self._clock.now() + (period * NS_PER_S // 240 if s.repeated else delay_ns)
        self._arm()

    def _arm(self) -> None:
        if self.state.repeating:
            self._repeat.arm(self.state.repeat_ns)
        else:
            self._repeat.cancel()

    # --- what the commands do ---

    def _parameter(self, command: int, value: int) -> None:
        s = self.state
        s.replies.append(Reply.ACK)
        if command == Command.LEDS:
            s.leds = value & 7
        elif command == Command.TYPEMATIC:
            s.typematic = value & 0x7F
        elif command in Command.ONE_KEY:  # any number of keys may follow
            s.expecting = command
        elif value == 0:
            s.replies.append(s.scan_code_set)
        elif value <= 3:
            s.scan_code_set = value
            s.codes.clear()
        else:
            s.replies[:] = bytes((Reply.RESEND,))

    def _command(self, value: int) -> None:
        s = self.state
        s.replies.append(Reply.ACK)
        match value:
            case Command.LEDS | Command.SCAN_CODE_SET | Command.TYPEMATIC:
                s.expecting = value
            case Command.ECHO:
                s.replies[:] = bytes((Reply.ECHO,))
            case Command.IDENTIFY:
                s.replies += IDENTITY
            case Command.ENABLE:
                s.codes.clear()
                s.scanning = True
            case Command.DISABLE:
                self._set_defaults(scanning=False)
            case Command.DEFAULTS:
                self._set_defaults(scanning=True)
            case Command.RESEND:
                s.replies[:] = bytes((s.last_sent,))
            case Command.RESET:
                self._set_defaults(scanning=True)
                s.leds = 0
                s.replies.append(Reply.BAT_OK)
            case _ if value in Command.ALL_KEYS:
                pass
            case _ if value in Command.ONE_KEY:
                s.expecting = value
            case _:
                trace.odd("ps2_keyboard", "unknown command %02Xh", value)
                s.replies[:] = bytes((Reply.RESEND,))

    def _set_defaults(self, scanning: bool) -> None:
        s = self.state
        s.scanning = scanning
        s.scan_code_set = 2
        s.typematic = DEFAULT_TYPEMATIC
        s.codes.clear()
        s.repeating = 0
        self._arm()
