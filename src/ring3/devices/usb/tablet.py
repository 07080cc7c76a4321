"""USB tablet: a pointer that reports where it is, with three buttons, two more, and a wheel.

USB-IF, "HID Usage Tables", 1.12: generic desktop page (01h), button page (09h).
"""

from dataclasses import dataclass, field

from ring3.clock import Clock
from ring3.devices.usb.hid import Hid, HidState

QUEUE_MAX = 32                          # reports
AXIS_MAX = 0x7FFF
REPORT = 6                              # bytes

MAP = bytes.fromhex(
    "05 01 09 02 a1 01 09 01 a1 00 "                        # a mouse of generic desktop, a pointer
    "05 09 19 01 29 05 15 00 25 01 95 05 75 01 81 02 "      # buttons 1 to 5
    "95 01 75 03 81 01 "                                    # three bits of nothing
    "05 01 09 30 09 31 15 00 26 ff 7f 35 00 46 ff 7f 75 10 95 02 81 02 "    # X and Y, absolute
    "05 01 09 38 15 81 25 7f 35 00 45 00 75 08 95 01 81 06 "                # wheel, relative
    "c0 c0"
)


@dataclass(slots=True)
class State:
    """All that the guest can observe, at its reset value; this is also the checkpoint record."""

    hid: HidState = field(default_factory=HidState)
    reports: list[bytes] = field(default_factory=list)      # not seen by the host yet
    last: bytes = bytes(REPORT)


class UsbTablet(Hid):
    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, (0x0001, "Tablet"), (0, 0), REPORT, MAP)
        self.state = State(hid=self.hid)

    # --- the host's side ---

    @property
    def pending(self) -> bool:
        return bool(self.state.reports)

    def point(self, x: int, y: int, dz: int, buttons: int) -> None:
        """Where it points, 0 to FFFFh; the wheel's movement towards the user; buttons as of PS/2 mice.

        Movement not seen yet gives way to later movement; clicks are kept, as long as there is room.
        """
        s = self.state
        if not self.in_use:
            return
        wheel = max(-127, min(-dz, 127)) & 0xFF             # HID counts away from the user
        axes = (x >> 1 & AXIS_MAX).to_bytes(2, "little") + (y >> 1 & AXIS_MAX).to_bytes(2, "little")
        report = bytes((buttons & 0x1F,)) + axes + bytes((wheel,))
        if s.reports and s.reports[-1][0] == report[0] and not s.reports[-1][5] and not wheel:
            s.reports[-1] = report
        elif len(s.reports) < QUEUE_MAX:
            s.reports.append(report)
        self.on_data()

    # --- the bus's side ---

    def next_report(self) -> bytes:
        s = self.state
        if not s.reports:
            return s.last[:5] + b"\0"
        s.last = s.reports.pop(0)
        return s.last

    def bus_reset(self) -> None:
        self.restore(State())

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self.state = state
        self.adopt(state.hid)
