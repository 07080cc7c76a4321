"""USB keyboard: boot protocol and report protocol are the same, six keys and the modifiers.

USB-IF, "Device Class Definition for HID", 1.11, appendices B.1 and C; "HID Usage Tables", 1.12, keyboard
page (07h).  The host names keys by their codes in set 1, as with the PS/2 keyboard.
"""

from dataclasses import dataclass, field

from ring3.clock import Clock
from ring3.devices.usb.hid import Hid, HidState

QUEUE_MAX = 32                          # changes of keys
KEYS_MAX = 6
ROLL_OVER = 1                           # what all six read as when there are more
REPORT = 8                              # bytes

MAP = bytes.fromhex(
    "05 01 09 06 a1 01 "                                        # a keyboard of generic desktop
    "05 07 19 e0 29 e7 15 00 25 01 75 01 95 08 81 02 "          # modifiers
    "95 01 75 08 81 01 "                                        # a byte of nothing
    "95 05 75 01 05 08 19 01 29 05 91 02 95 01 75 03 91 01 "    # LEDs
    "95 06 75 08 15 00 26 ff 00 05 07 19 00 29 ff 81 00 "       # six keys
    "c0"
)

MODIFIERS = (0x1D, 0x2A, 0x38, 0xE05B, 0xE01D, 0x36, 0xE038, 0xE05C)    # usages E0h to E7h

# Usages of the keys from set 1's code 01h on, and of those with prefix E0h and a few more.
_PLAIN = bytes.fromhex(
    "29 1e 1f 20 21 22 23 24 25 26 27 2d 2e 2a 2b "     # Esc 1 … 0 - = Backspace Tab
    "14 1a 08 15 17 1c 18 0c 12 13 2f 30 28 00 "        # Q … P [ ] Enter LCtrl
    "04 16 07 09 0a 0b 0d 0e 0f 33 34 35 00 31 "        # A … L ; ' ` LShift \
    "1d 1b 06 19 05 11 10 36 37 38 00 "                 # Z … M , . / RShift
    "55 00 2c 39 3a 3b 3c 3d 3e 3f 40 41 42 43 "        # KP* LAlt Space Caps F1 … F10
    "53 47 5f 60 61 56 5c 5d 5e 57 59 5a 5b 62 63 "     # Num Scroll KP7 8 9 - 4 5 6 + 1 2 3 0 .
    "46 00 64 44 45"                                    # SysRq … < F11 F12
)
USAGES = {code: usage for code, usage in enumerate(_PLAIN, 1) if usage} | {
    code: 0xE0 + n for n, code in enumerate(MODIFIERS)
} | {
    0x70: 0x88, 0x73: 0x87, 0x79: 0x8A, 0x7B: 0x8B, 0x7D: 0x89,
    0xE01C: 0x58, 0xE035: 0x54, 0xE037: 0x46, 0xE11D: 0x48, 0xE046: 0x48, 0xE047: 0x4A, 0xE048: 0x52,
    0xE049: 0x4B, 0xE04B: 0x50, 0xE04D: 0x4F, 0xE04F: 0x4D, 0xE050: 0x51, 0xE051: 0x4E, 0xE052: 0x49,
    0xE053: 0x4C, 0xE05D: 0x65, 0xE05E: 0x66, 0xE020: 0x7F, 0xE02E: 0x81, 0xE030: 0x80,
}  # fmt: skip


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    hid: HidState = field(default_factory=HidState)
    changes: list[tuple[int, bool]] = field(default_factory=list)   # (usage, pressed) not seen by the host
    held: list[int] = field(default_factory=list)                   # usages that the host knows down
    leds: int = 0                       # as HID has them: 1 Num Lock, 2 Caps Lock, 4 Scroll Lock


class UsbKeyboard(Hid):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, (0x0002, "Keyboard"), (1, 1), REPORT, MAP)
        self.state = State(hid=self.hid)

    # --- the host's side ---

    @property
    def pending(self) -> bool:
        return bool(self.state.changes)

    @property
    def leds(self) -> int:
        """1 Scroll Lock, 2 Num Lock, 4 Caps Lock."""
        leds = self.state.leds
        return (leds & 1) << 1 | (leds & 2) << 1 | (leds & 4) >> 2

    def key(self, code: int, pressed: bool) -> None:
        """A key goes down or comes up; what doesn't fit is lost, but never a key coming up."""
        s = self.state
        usage = USAGES.get(code)
        if usage is None or not self.in_use:
            return
        if len(s.changes) < QUEUE_MAX - (KEYS_MAX + len(MODIFIERS) if pressed else 0):
            s.changes.append((usage, pressed))
        self.on_data()

    # --- the bus's side ---

    def next_report(self) -> bytes:
        s = self.state
        if s.changes:
            usage, pressed = s.changes.pop(0)
            if pressed and usage not in s.held:
                s.held.append(usage)
            elif not pressed and usage in s.held:
                s.held.remove(usage)
        modifiers = sum(1 << usage - 0xE0 for usage in s.held if usage >= 0xE0)
        keys = [usage for usage in s.held if usage < 0xE0]
        if len(keys) > KEYS_MAX:
            keys = [ROLL_OVER] * KEYS_MAX
        return bytes((modifiers, 0, *keys)).ljust(REPORT, b"\0")

    def set_report(self, data: bytes) -> None:
        if data:
            self.state.leds = data[0] & 0x1F

    def bus_reset(self) -> None:
        self.restore(State())

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.adopt(state.hid)
