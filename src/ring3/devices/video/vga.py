"""VGA: ports 3B4h–3DFh, and with the Bochs extension (dispi.py) frame buffers of up to 32 bits.

IBM "Personal System/2 and Personal Computer Display Adapter / VGA XGA Technical Reference" (1992), "VGA
function"; register and bit names are its.  The data path between the CPU and the four planes is native
(`rust/engine/src/vga.rs`), and so are pixels (`pixels.rs`); this chip has the registers, and tells both
what they say: the data path at each write, the pixels when somebody looks (`picture`).

While chain 4 makes video memory linear and nothing changes the bytes on their way, the guest has it as
memory at A0000h, at full speed; reads then leave the latches alone.

Not modelled: the vertical interrupt (its bits are stored), light pen, the overscan border, cursor and
display skew, shift register loads every second or fourth clock, the horizontal retrace select, and blanking
inside the display.  Text and graphics blink at the frame rate's 16th and 32nd part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ring3 import trace
from ring3.clock import Clock, Timer
from ring3.devices.face import WideRegisters
from ring3.devices.video.dispi import Dispi
from ring3.devices.video.memory import WINDOW_BYTES, VideoMemory
from ring3.devices.video.picture import NO_SPLIT, Format, Picture
from ring3.devices.video.timing import Timing, timing


class Misc:
    """Miscellaneous output."""

    COLOR, RAM, PAGE_HIGH = 0x01, 0x02, 0x20


class Seq:
    RESET, CLOCKING_MODE, MAP_MASK, CHARACTER_MAP, MEMORY_MODE = range(5)


class Clocking:
    EIGHT_DOTS, HALF_CLOCK, SCREEN_OFF = 0x01, 0x08, 0x20


class MemoryMode:
    EXTENDED, SEQUENTIAL, CHAIN4 = 0x02, 0x04, 0x08


class Gfx:
    """Graphics controller."""

    SET_RESET, ENABLE_SET_RESET, COLOR_COMPARE, DATA_ROTATE, READ_MAP = range(5)
    MODE, MISC, DONT_CARE, BIT_MASK = range(5, 9)


class GfxMode:
    WRITE, READ, ODD_EVEN, INTERLEAVED, COLOR_256 = 0x03, 0x08, 0x10, 0x20, 0x40


class Crtc:
    H_DISPLAY_END = 0x01
    OVERFLOW, PRESET_ROW, MAX_SCAN_LINE, CURSOR_START, CURSOR_END = range(0x07, 0x0C)
    START_HIGH, START_LOW, CURSOR_HIGH, CURSOR_LOW = range(0x0C, 0x10)
    V_RETRACE_END, V_DISPLAY_END, OFFSET, UNDERLINE, MODE, LINE_COMPARE = 0x11, 0x12, 0x13, 0x14, 0x17, 0x18


class CrtcMode:
    NO_A13, NO_A14, ALL_ADDRESS_BITS, BYTES, RUN = 0x01, 0x02, 0x20, 0x40, 0x80


class Attr:
    """Attribute controller, after its 16 palette registers."""

    MODE, OVERSCAN, PLANE_ENABLE, PANNING, COLOR_SELECT = range(0x10, 0x15)
    DISPLAY_ON = 0x20                   # in its index register


class AttrMode:
    GRAPHICS, MONO, LINE_GRAPHICS, BLINK, PAN_FIRST_PART, COLOR_256, COLOR_SELECT = (
        0x01, 0x02, 0x04, 0x08, 0x20, 0x40, 0x80,
    )  # fmt: skip


SEQUENCER_BITS = bytes((0x03, 0x3D, 0x0F, 0x3F, 0x0E))
GRAPHICS_BITS = bytes((0x0F, 0x0F, 0x0F, 0x1F, 0x03, 0x7B, 0x0F, 0x0F, 0xFF))
ATTRIBUTE_BITS = bytes((0x3F,) * 16 + (0xEF, 0x3F, 0x3F, 0x0F, 0x0F))
CRTC_REGISTERS = 25
# Font addresses in plane 2 by number (character map select).
FONTS = (0x0000, 0x4000, 0x8000, 0xC000, 0x2000, 0x6000, 0xA000, 0xE000)

# What the data path is like while the extension has a frame buffer.
LINEAR_SEQUENCER = bytes((3, 1, 15, 0, MemoryMode.EXTENDED | MemoryMode.SEQUENTIAL | MemoryMode.CHAIN4))
LINEAR_GRAPHICS = bytes((0, 0, 0, 0, 0, GfxMode.COLOR_256, 5, 15, 0xFF))

LINEAR_FORMATS = {
    8: Format.LINEAR8,
    15: Format.LINEAR15,
    16: Format.LINEAR16,
    24: Format.LINEAR24,
    32: Format.LINEAR32,
}
OFF_SIZE = (720, 400)                   # of the screen while the CRTC stands
SHORTEST_FRAME_NS = 10_000_000
CURSOR_BLINK_FRAMES = 8                 # on, then as many off; characters take twice as long
SIX_TO_EIGHT = bytes((v & 63) << 2 | (v & 63) >> 4 for v in range(256))


@dataclass(slots=True)
class State:
    """Registers after reset; also the checkpoint record.  Video memory is the guest's RAM's affair."""

    misc_output: int = 0
    feature_control: int = 0
    enable: int = 1                     # 3C3h
    sequencer_index: int = 0
    sequencer: bytearray = field(default_factory=lambda: bytearray(5))
    graphics_index: int = 0
    graphics: bytearray = field(default_factory=lambda: bytearray(9))
    crtc_index: int = 0
    crtc: bytearray = field(default_factory=lambda: bytearray(CRTC_REGISTERS))
    attribute_index: int = 0
    attribute_data_next: bool = False   # the flip-flop of 3C0h
    attribute: bytearray = field(default_factory=lambda: bytearray(21))
    dac: bytearray = field(default_factory=lambda: bytearray(768))  # red, green, blue as written
    dac_mask: int = 0xFF
    dac_read_index: int = 0
    dac_write_index: int = 0
    dac_reading: bool = False
    dac_component: int = 0
    dac_latch: bytearray = field(default_factory=lambda: bytearray(3))
    latch: int = 0                      # as of the last look at `Vga.state`: native code has it


class Vga:
    """Offsets count from 3B0h; `face` makes the wide faces of the groups of ports that are decoded."""

    def __init__(self, clock: Clock, memory: VideoMemory) -> None:
        self.memory = memory
        self._clock = clock
        self._state = State()
        self._view: tuple[int, int, int] | None = None      # base, size, offset of the memory at A0000h
        self._window_base: int | None = None
        self._picture: Picture | None = None                # at the phases of blinking below
        self._phases = (False, False)
        self._timing: Timing | None = None
        self._blink = Timer(clock, self._blinked)
        self.watched = False
        self.changed_at_all = True      # everything may look different; whoever looks clears it
        self.text_font: tuple[int, bytes] | None = None     # height, glyphs: of the last text mode
        self.dispi = Dispi(memory.size_bytes, self._extension_changed)
        self._frame_buffer = False      # the extension has the memory: linear through the window too
        # By offset, because guests write some of these for every byte they draw.
        self._writers = {
            0x10: self._write_attribute,
            0x12: self._write_misc_output,
            0x13: self._write_enable,
            0x14: self._write_sequencer_index,
            0x15: self._write_sequencer,
            0x16: self._write_dac_mask,
            0x17: self._write_dac_read_index,
            0x18: self._write_dac_write_index,
            0x19: self._write_dac,
            0x1E: self._write_graphics_index,
            0x1F: self._write_graphics,
        }

    @property
    def state(self) -> State:
        self._state.latch = self.memory.latch
        return self._state

    # --- ports ---

    def face(self, first: int) -> WideRegisters:
        """The registers from `first` on as a face of their own: 04h for ports 3B4h …."""
        read_byte, write_byte = self._read, self._write

        def read(offset: int, size: int) -> int:
            return read_byte(first + offset) if size == 1 else self.read(first + offset, size)

        def write(offset: int, value: int, size: int) -> None:
            if size == 1:
                write_byte(first + offset, value)
            else:
                self.write(first + offset, value, size)

        return WideRegisters(read, write)

    def read(self, offset: int, size: int) -> int:
        value = self._read(offset)
        for byte in range(1, size):
            value |= self._read(offset + byte) << 8 * byte
        return value

    def write(self, offset: int, value: int, size: int) -> None:
        self._write(offset, value & 0xFF)
        if size == 2:                   # an index and its data, mostly
            self._write(offset + 1, value >> 8)
        elif size == 4:
            self.write(offset + 1, value >> 8 & 0xFFFF, 2)
            self._write(offset + 3, value >> 24)

    def _read(self, offset: int) -> int:
        if not 0x10 <= offset < 0x20:
            return self._read_crtc(offset)
        s = self._state
        match offset:
            case 0x10:
                return s.attribute_index
            case 0x11:
                index = s.attribute_index & 0x1F
                return s.attribute[index] if index < len(s.attribute) else 0
            case 0x12:
                return 0x10             # the display is a colour one (switch sense)
            case 0x13:
                return s.enable
            case 0x14:
                return s.sequencer_index
            case 0x15:
                return s.sequencer[s.sequencer_index] if s.sequencer_index < 5 else 0
            case 0x16:
                return s.dac_mask
            case 0x17:
                return 3 if s.dac_reading else 0
            case 0x18:
                return s.dac_write_index
            case 0x19:
                return self._read_dac()
            case 0x1A:
                return s.feature_control
            case 0x1C:
                return s.misc_output
            case 0x1E:
                return s.graphics_index
            case 0x1F:
                return s.graphics[s.graphics_index] if s.graphics_index < 9 else 0
        return 0xFF

    def _read_crtc(self, offset: int) -> int:
        """3B0h–3BFh or 3D0h–3DFh, whichever miscellaneous output selects."""
        s = self._state
        if self._selected(offset):
            match offset & 0xF:
                case 0xA:               # guests wait for the beam here
                    s.attribute_data_next = False
                    return (self._timing or self.timing()).status(self._clock.now())
                case 0x4:
                    return s.crtc_index
                case 0x5:
                    return s.crtc[s.crtc_index] if s.crtc_index < CRTC_REGISTERS else 0
        return 0xFF

    def _selected(self, offset: int) -> bool:
        return bool(self._state.misc_output & Misc.COLOR) == (offset >= 0x20)

    def _write(self, offset: int, value: int) -> None:
        write = self._writers.get(offset)
        if write is None:
            self._write_crtc_ports(offset, value)
        else:
            write(value)

    def _write_misc_output(self, value: int) -> None:
        self._state.misc_output = value
        self._timing = None
        self._registers_changed()

    def _write_enable(self, value: int) -> None:
        self._state.enable = value & 1

    def _write_sequencer_index(self, value: int) -> None:
        self._state.sequencer_index = value & 7

    def _write_graphics_index(self, value: int) -> None:
        self._state.graphics_index = value & 0xF

    def _write_dac_mask(self, value: int) -> None:
        self._state.dac_mask = value
        self._changed()

    def _write_dac_read_index(self, value: int) -> None:
        s = self._state
        s.dac_read_index, s.dac_reading, s.dac_component = value, True, 0

    def _write_dac_write_index(self, value: int) -> None:
        s = self._state
        s.dac_write_index, s.dac_reading, s.dac_component = value, False, 0

    def _write_crtc_ports(self, offset: int, value: int) -> None:
        s = self._state
        if not self._selected(offset):
            trace.odd("vga", "write of %02Xh to port %Xh, which is not selected", value, 0x3B0 + offset)
            return
        match offset & 0xF:
            case 0x4:
                s.crtc_index = value & 0x1F
            case 0x5:
                self._write_crtc(s.crtc_index, value)
            case 0xA:
                s.feature_control = value & 3
            case _:
                trace.odd("vga", "write of %02Xh to port %Xh, where no register is", value, 0x3B0 + offset)

    # --- registers ---

    def _write_sequencer(self, value: int) -> None:
        s = self._state
        index = s.sequencer_index
        if index < len(SEQUENCER_BITS):
            value &= SEQUENCER_BITS[index]
            if value == s.sequencer[index]:
                return
            s.sequencer[index] = value
            if index in (Seq.MAP_MASK, Seq.MEMORY_MODE):
                self._path_changed()
            if index != Seq.MAP_MASK:
                self._timing = None
                self._changed()

    def _write_graphics(self, value: int) -> None:
        s = self._state
        index = s.graphics_index
        if index >= len(GRAPHICS_BITS):
            return
        value &= GRAPHICS_BITS[index]
        if value == s.graphics[index]:
            return
        if index == Gfx.MISC and value & 1 and self.picture().format == Format.TEXT:
            self._remember_font()
        s.graphics[index] = value
        self._path_changed()
        if index in (Gfx.MODE, Gfx.MISC):
            self._changed()

    def _write_crtc(self, index: int, value: int) -> None:
        s = self._state
        if index >= CRTC_REGISTERS:
            return
        if index <= Crtc.OVERFLOW and s.crtc[Crtc.V_RETRACE_END] & 0x80:     # protected
            if index != Crtc.OVERFLOW:
                return
            value = s.crtc[index] & ~0x10 | value & 0x10                     # but for line compare's bit
        if s.crtc[index] != value:
            s.crtc[index] = value
            self._timing = None
            self._changed()

    def _write_attribute(self, value: int) -> None:
        s = self._state
        s.attribute_data_next = not s.attribute_data_next
        if s.attribute_data_next:
            switched = (s.attribute_index ^ value) & Attr.DISPLAY_ON
            s.attribute_index = value & 0x3F
            if switched:
                self._changed()
            return
        index = s.attribute_index & 0x1F
        if index < len(ATTRIBUTE_BITS):
            s.attribute[index] = value & ATTRIBUTE_BITS[index]
            self._changed()

    def _read_dac(self) -> int:
        s = self._state
        value = s.dac[3 * s.dac_read_index + s.dac_component]
        s.dac_component += 1
        if s.dac_component == 3:
            s.dac_component = 0
            s.dac_read_index = (s.dac_read_index + 1) & 0xFF
        return value

    def _write_dac(self, value: int) -> None:
        s = self._state
        s.dac_latch[s.dac_component] = value if self.dispi.dac_8bit else value & 0x3F
        s.dac_component += 1
        if s.dac_component == 3:
            s.dac_component = 0
            at = 3 * s.dac_write_index
            s.dac_write_index = (s.dac_write_index + 1) & 0xFF
            if s.dac[at : at + 3] != s.dac_latch:
                s.dac[at : at + 3] = s.dac_latch
                self._changed()

    # --- consequences ---

    def _changed(self) -> None:
        """The picture is another one."""
        self._picture = None
        if not self.changed_at_all:
            self.changed_at_all = True
            self.memory.signal()
        if self.watched and self._blink.deadline_ns is None:
            self._arm_blink()

    def _registers_changed(self) -> None:
        self._path_changed()
        self._changed()

    def _extension_changed(self, clear: bool) -> None:
        if clear:
            self.memory.clear(0, self.dispi.visible_bytes)
        self._frame_buffer = self.dispi.enabled and self.dispi.depth >= 8
        self._registers_changed()

    def _path_changed(self) -> None:
        """Tells native code how the CPU reaches video memory."""
        s = self._state
        sequencer = LINEAR_SEQUENCER if self._frame_buffer else s.sequencer
        graphics = LINEAR_GRAPHICS if self._frame_buffer else s.graphics
        self.memory.set_registers(s.misc_output, sequencer, graphics, self.dispi.bank_bytes)
        if self._view is not None or sequencer[Seq.MEMORY_MODE] & MemoryMode.CHAIN4:
            self._move_view(self._linear_bytes(sequencer, graphics))

    def _linear_bytes(self, sequencer: Sequence[int], graphics: Sequence[int]) -> int:
        """How much of the window is plain memory now."""
        path = (sequencer[Seq.MAP_MASK], graphics[Gfx.ENABLE_SET_RESET], graphics[Gfx.DATA_ROTATE])
        mode = graphics[Gfx.MODE] & (GfxMode.WRITE | GfxMode.READ)
        plain = path == (15, 0, 0) and mode == 0 and graphics[Gfx.BIT_MASK] == 0xFF
        if not plain or not sequencer[Seq.MEMORY_MODE] & MemoryMode.CHAIN4:
            return 0
        if not self._state.misc_output & Misc.RAM:
            return 0
        return (WINDOW_BYTES, WINDOW_BYTES // 2, 0, 0)[graphics[Gfx.MISC] >> 2 & 3]

    def _move_view(self, size: int) -> None:
        base = self._window_base
        size = min(size, self.memory.size_bytes - self.dispi.bank_bytes)
        view = (base, size, self.dispi.bank_bytes) if size and base is not None else None
        if view == self._view:
            return
        if view is None and self._view is not None:
            self.memory.unmap_view(self._view[0])
        elif view is not None:
            self.memory.map_view(*view)
        self._view = view

    def timing(self) -> Timing:
        if self._timing is None:
            s = self._state
            self._timing = timing(s.crtc, s.sequencer[Seq.CLOCKING_MODE], s.misc_output)
        return self._timing

    # --- the board's side ---

    def map_window(self, base: int) -> None:
        """The window's place in memory: A0000h on a PC."""
        self._window_base = base
        self.memory.map_window(base)
        self._path_changed()

    def reset(self) -> None:
        self.restore(State())

    def restore(self, state: State) -> None:
        self._state = state
        self.memory.latch = state.latch
        self._timing = None
        self._registers_changed()

    # --- the screen's side ---

    def picture(self) -> Picture:
        """What the registers say, blinking as of now."""
        phases = self._phase(CURSOR_BLINK_FRAMES), self._phase(2 * CURSOR_BLINK_FRAMES)
        if self._picture is None or phases != self._phases:
            self._phases = phases
            self._picture = self._make_picture()
        return self._picture

    def _make_picture(self) -> Picture:
        s = self._state
        if self.dispi.enabled:
            return self._extension_picture()
        if s.sequencer[Seq.RESET] != 3 or not s.crtc[Crtc.MODE] & CrtcMode.RUN:
            return Picture(Format.BLANK, *OFF_SIZE)
        crtc, clocking = s.crtc, s.sequencer[Seq.CLOCKING_MODE]
        text = not s.graphics[Gfx.MISC] & 1
        cell_width = 9 if text and not clocking & Clocking.EIGHT_DOTS else 8
        double_dots = bool(clocking & Clocking.HALF_CLOCK)
        width = (crtc[Crtc.H_DISPLAY_END] + 1) * cell_width << double_dots
        height = _line_number(crtc, Crtc.V_DISPLAY_END, 1, 6) + 1
        if clocking & Clocking.SCREEN_OFF or not s.attribute_index & Attr.DISPLAY_ON:
            return Picture(Format.BLANK, width, height)
        split = crtc[Crtc.LINE_COMPARE] | (crtc[Crtc.OVERFLOW] & 0x10) << 4
        split |= (crtc[Crtc.MAX_SCAN_LINE] & 0x40) << 3
        mode, attribute_mode = crtc[Crtc.MODE], s.attribute[Attr.MODE]
        cursor_off = not text or crtc[Crtc.CURSOR_START] & 0x20 or self._phases[0]
        return Picture(
            format=self._format(text),
            width=width,
            height=height,
            start=crtc[Crtc.START_HIGH] << 8 | crtc[Crtc.START_LOW],
            pitch=2 * crtc[Crtc.OFFSET],
            address_shift=self._address_shift(),
            wrap_bit=15 if mode & CrtcMode.ALL_ADDRESS_BITS else 13,
            row_scan_bits=~mode & (CrtcMode.NO_A13 | CrtcMode.NO_A14),
            row_lines=(crtc[Crtc.MAX_SCAN_LINE] & 0x1F) + 1,
            double_scan=bool(crtc[Crtc.MAX_SCAN_LINE] & 0x80),
            preset_row=crtc[Crtc.PRESET_ROW] & 0x1F,
            line_compare=split if split < height else NO_SPLIT,
            pan=self._pan(cell_width),
            byte_pan=crtc[Crtc.PRESET_ROW] >> 5 & 3,
            split_unpanned=bool(attribute_mode & AttrMode.PAN_FIRST_PART),
            double_dots=double_dots,
            cell_width=cell_width,
            fonts=_fonts(s.sequencer[Seq.CHARACTER_MAP]),
            cursor=None if cursor_off else crtc[Crtc.CURSOR_HIGH] << 8 | crtc[Crtc.CURSOR_LOW],
            cursor_lines=(crtc[Crtc.CURSOR_START] & 0x1F, crtc[Crtc.CURSOR_END] & 0x1F),
            blink=bool(attribute_mode & AttrMode.BLINK),
            blink_hides=self._phases[1],
            underline=crtc[Crtc.UNDERLINE] & 0x1F,
            line_graphics=bool(attribute_mode & AttrMode.LINE_GRAPHICS),
            palette=self._palette(text),
        )

    def _extension_picture(self) -> Picture:
        dispi = self.dispi
        width, height = dispi.size
        x, y = dispi.offset
        if dispi.depth == 4:
            return Picture(
                Format.PLANAR,
                width,
                height,
                start=(y * dispi.virtual_width + x) // 8,
                pitch=dispi.virtual_width // 8,
                address_mask=self.memory.size_bytes // 4 - 1,
                pan=x & 7,
                palette=self._palette(text=False),
            )
        return Picture(
            LINEAR_FORMATS[dispi.depth],
            width,
            height,
            start=y * dispi.pitch_bytes + x * dispi.depth_bits_stored // 8,
            pitch=dispi.pitch_bytes,
            palette=self._colors(range(256)),
        )

    def _format(self, text: bool) -> int:
        mode = self._state.graphics[Gfx.MODE]
        if text:
            return Format.TEXT
        if mode & GfxMode.COLOR_256:
            return Format.CHAINED
        return Format.INTERLEAVED if mode & GfxMode.INTERLEAVED else Format.PLANAR

    def _address_shift(self) -> int:
        s = self._state
        if s.sequencer[Seq.MEMORY_MODE] & MemoryMode.CHAIN4:
            return 0                    # video memory is linear then: see rust/engine/src/vga.rs
        if s.crtc[Crtc.UNDERLINE] & 0x40:
            return 2
        return 0 if s.crtc[Crtc.MODE] & CrtcMode.BYTES else 1

    def _pan(self, cell_width: int) -> int:
        value = self._state.attribute[Attr.PANNING]
        if cell_width == 9:
            return 0 if value >= 8 else value + 1
        return value & 7

    def _palette(self, text: bool) -> bytes:
        """Colours of the 16 attributes, or all 256 of modes that have them."""
        s = self._state
        mode = s.attribute[Attr.MODE]
        if not text and s.graphics[Gfx.MODE] & GfxMode.COLOR_256 and not self.dispi.enabled:
            return self._colors(range(256))
        planes, select = s.attribute[Attr.PLANE_ENABLE] & 15, s.attribute[Attr.COLOR_SELECT]
        hides_bright = not text and mode & AttrMode.BLINK and self._phases[1]
        indexes = []
        for attribute in range(16):
            color = s.attribute[attribute & planes & (7 if hides_bright else 15)]
            if mode & AttrMode.COLOR_SELECT:
                color = color & 0x0F | (select & 3) << 4
            indexes.append(color | (select & 0x0C) << 4)
        return self._colors(indexes)

    def _colors(self, indexes: Iterable[int]) -> bytes:
        """DAC entries as BGRX."""
        s = self._state
        dac = bytes(s.dac) if self.dispi.dac_8bit else s.dac.translate(SIX_TO_EIGHT)
        out = bytearray()
        for index in indexes:
            at = 3 * (index & s.dac_mask)
            out += bytes((dac[at + 2], dac[at + 1], dac[at], 0))
        return bytes(out)

    def _remember_font(self) -> None:
        """The guest's own font, before graphics overwrite it."""
        picture = self.picture()
        glyphs, height = self.memory.font(picture, 0), picture.row_lines
        rows = (glyphs[at : at + height] for at in range(0, len(glyphs), 32))
        self.text_font = height, b"".join(rows)

    # --- blinking ---

    def _phase(self, frames: int) -> bool:
        """Whether what is shown for so many frames, and hidden for as many, is hidden now."""
        return bool(self._clock.now() // (self._blink_frame_ns() * frames) & 1)

    def _blink_frame_ns(self) -> int:
        """Within what a monitor would sync to, whatever the guest programs: we wake up for it."""
        return max(self.timing().frame_ns, SHORTEST_FRAME_NS)

    def watch(self, watched: bool) -> None:
        """Whether blinking is to be told as a change."""
        self.watched = watched
        self._arm_blink()

    def _arm_blink(self) -> None:
        if not self.watched or not self._blinks():
            self._blink.cancel()
            return
        period_ns = self._blink_frame_ns() * CURSOR_BLINK_FRAMES
        self._blink.arm((self._clock.now() // period_ns + 1) * period_ns)

    def _blinked(self) -> None:
        """The cursor or characters look different from now on."""
        if self._blinks():
            self.memory.signal()
        self._arm_blink()

    def _blinks(self) -> bool:
        s = self._state
        text = not s.graphics[Gfx.MISC] & 1
        cursor = text and not s.crtc[Crtc.CURSOR_START] & 0x20
        return not self.dispi.enabled and (cursor or bool(s.attribute[Attr.MODE] & AttrMode.BLINK))


def _line_number(crtc: bytearray, register: int, bit8: int, bit9: int) -> int:
    overflow = crtc[Crtc.OVERFLOW]
    return crtc[register] | (overflow >> bit8 & 1) << 8 | (overflow >> bit9 & 1) << 9


def _fonts(character_map: int) -> tuple[int, int]:
    """Addresses for attribute bit 3 clear (map B) and set (map A)."""
    b = character_map & 3 | character_map >> 2 & 4
    a = character_map >> 2 & 3 | character_map >> 3 & 4
    return FONTS[b], FONTS[a]
