"""When the VGA's beam is where: CRT controller timings and input status 1 (IBM VGA/XGA TR, "CRT controller").

The beam's place follows from the clock; there is no state.  Lines and frames start together at time 0, and a
mode set moves the beam, as it does on hardware.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ring3.clock import NS_PER_S

DOT_CLOCKS_HZ = (25_175_000, 28_322_000)


class Status:
    """Input status register 1."""

    DISPLAY_OFF, VERTICAL_RETRACE = 0x01, 0x08


@dataclass(frozen=True, slots=True)
class Timing:
    """Lengths in ns and lines."""

    line_ns: int
    display_ns: int                     # of each line
    lines: int                          # of a frame
    display_lines: int
    retrace_start: int                  # line
    retrace_lines: int

    @property
    def frame_ns(self) -> int:
        return self.line_ns * self.lines

    def status(self, now_ns: int) -> int:
        lines, in_line_ns = divmod(now_ns, self.line_ns)
        line = lines % self.lines
        value = 0
        if line >= self.display_lines or in_line_ns >= self.display_ns:
            value |= Status.DISPLAY_OFF
        if 0 <= line - self.retrace_start < self.retrace_lines:
            value |= Status.VERTICAL_RETRACE
        return value


def timing(crtc: Sequence[int], clocking_mode: int, misc_output: int) -> Timing:
    """From CRTC registers, the sequencer's clocking mode and the clock select of miscellaneous output."""
    dots = 8 if clocking_mode & 0x01 else 9
    if clocking_mode & 0x08:
        dots *= 2
    hz = DOT_CLOCKS_HZ[misc_output >> 2 & 1]
    overflow = crtc[7]
    total = (crtc[6] | (overflow & 1) << 8 | (overflow & 0x20) << 4) + 2
    display = (crtc[0x12] | (overflow & 2) << 7 | (overflow & 0x40) << 3) + 1
    start = crtc[0x10] | (overflow & 4) << 6 | (overflow & 0x80) << 2
    # The end register has the low four bits of the line after the last.
    length = (crtc[0x11] - start) & 15 or 16
    return Timing(
        line_ns=max(dots * (crtc[0] + 5) * NS_PER_S // hz, 1),
        display_ns=dots * (crtc[1] + 1) * NS_PER_S // hz,
        lines=total,
        display_lines=min(display, total),
        retrace_start=start,
        retrace_lines=length,
    )
