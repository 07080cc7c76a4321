"""A user's terminal, without I/O: screens to escape sequences (ECMA-48, xterm's colours), its keys to ours.

`Canvas` knows what the terminal shows and writes only what differs.  `KeyParser` takes what the terminal
sends; a lone Escape is told from the start of a sequence by `flush`, which whoever reads calls after a pause.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ring3.display import glyphs
from ring3.display.screen import TextCells

Colours = Literal["16", "256", "true"]

CSI = "\x1b["
ENTER_SCREEN = "\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[0m\x1b[2J"     # other screen, no cursor, marked pastes
LEAVE_SCREEN = "\x1b[?2004l\x1b[0m\x1b[?25h\x1b[?1049l"
HALF_BLOCK = "▀"
PASTE_START, PASTE_END = b"\x1b[200~", b"\x1b[201~"
PASTE_MAX = 1 << 16                     # bytes of a paste taken
SEQUENCE_MAX = 32                       # bytes of a key's sequence

# The VGA's palette as the BIOS sets it, in the order of attributes.
PALETTE = (0x000000, 0x0000AA, 0x00AA00, 0x00AAAA, 0xAA0000, 0xAA00AA, 0xAA5500, 0xAAAAAA,
           0x555555, 0x5555FF, 0x55FF55, 0x55FFFF, 0xFF5555, 0xFF55FF, 0xFFFF55, 0xFFFFFF)
# Attributes have blue in bit 0 and red in bit 2, terminals the other way round.
ANSI = tuple(colour & 0b1010 | (colour & 1) << 2 | colour >> 2 & 1 for colour in range(16))
BLINK = 0x80


def colours_of(environ: Mapping[str, str]) -> Colours:
    """What the terminal can show, as it says."""
    if environ.get("COLORTERM") in ("truecolor", "24bit"):
        return "true"
    return "256" if "256color" in environ.get("TERM", "") or "direct" in environ.get("TERM", "") else "16"


# --- what is shown ---


@dataclass(frozen=True, slots=True)
class Cell:
    character: str
    style: str                          # SGR parameters


BLANK = Cell(" ", "0")


class Canvas:
    """The terminal's screen: `draw_…` gives the bytes that bring it up to date."""

    def __init__(self, columns: int, rows: int, colours: Colours) -> None:
        self.columns, self.rows = columns, rows
        self._colours = colours
        self._shown: list[list[Cell]] = [[BLANK] * columns for _ in range(rows)]
        self._cursor: tuple[int, int] | None = None
        self._styles: dict[int, str] = {}

    def resize(self, columns: int, rows: int) -> str:
        """The terminal has another size: it is blank, then."""
        self.columns, self.rows = columns, rows
        self._shown = [[BLANK] * columns for _ in range(rows)]
        self._cursor = None
        return f"{CSI}0m{CSI}2J{CSI}?25l"

    def draw_text(self, screen: TextCells, message: str = "") -> str:
        """A text screen; of one that is larger, the part with the cursor."""
        left, top = self._corner(screen)
        rows = [self._text_row(screen, top + row, left) for row in range(self.rows)]
        cursor = None
        if screen.cursor is not None:
            column, row = screen.cursor[0] - left, screen.cursor[1] - top
            if 0 <= column < self.columns and 0 <= row < self.rows:
                cursor = (column, row)
        return self._show(rows, cursor, message)

    def draw_pixels(self, pixels: bytes, width: int, height: int, message: str = "") -> str:
        """A picture of at most `columns` by twice `rows` pixels (RGB, 3 bytes each), in the middle."""
        left = (self.columns - width) // 2
        top = (self.rows - (height + 1) // 2) // 2
        rows = [[BLANK] * self.columns for _ in range(self.rows)]
        for y in range(0, height, 2):
            row = rows[top + y // 2]
            for x in range(width):
                at = 3 * (y * width + x)
                below = at + 3 * width
                upper = int.from_bytes(pixels[at : at + 3], "big")
                lower = int.from_bytes(pixels[below : below + 3], "big") if y + 1 < height else 0
                row[left + x] = Cell(HALF_BLOCK, f"{self._colour(upper, 38)};{self._colour(lower, 48)}")
        return self._show(rows, None, message)

    # --- text ---

    def _corner(self, screen: TextCells) -> tuple[int, int]:
        """Which of the guest's cells is at the upper left: as little scrolled as shows the cursor."""
        column, row = screen.cursor or (0, 0)
        return (max(0, min(column + 1, screen.columns) - self.columns),
                max(0, min(row + 1, screen.rows) - self.rows))

    def _text_row(self, screen: TextCells, row: int, left: int) -> list[Cell]:
        if row >= screen.rows:
            return [BLANK] * self.columns
        start, end = row * screen.columns + left, (row + 1) * screen.columns
        characters = glyphs.unicode(screen.codes[start:end][: self.columns])
        attributes = screen.attributes[start:end]
        cells = [Cell(character, self._style(attribute))
                 for character, attribute in zip(characters, attributes, strict=False)]
        return cells + [BLANK] * (self.columns - len(cells))

    def _style(self, attribute: int) -> str:
        if attribute not in self._styles:
            self._styles[attribute] = self._make_style(attribute)
        return self._styles[attribute]

    def _make_style(self, attribute: int) -> str:
        """SGR of an attribute byte: bits 3:0 the character, 6:4 behind it, 7 blinks."""
        front, back = attribute & 0x0F, attribute >> 4 & 0x07
        blink = ";5" if attribute & BLINK else ""
        if self._colours == "true":
            return f"0;{self._colour(PALETTE[front], 38)};{self._colour(PALETTE[back], 48)}{blink}"
        ansi = ANSI[front]
        return f"0;{30 + ansi if ansi < 8 else 82 + ansi};{40 + ANSI[back]}{blink}"

    # --- colours ---

    def _colour(self, rgb: int, kind: int) -> str:
        """SGR of a colour; `kind` 38 of what is in front, 48 of what is behind."""
        red, green, blue = rgb >> 16, rgb >> 8 & 0xFF, rgb & 0xFF
        match self._colours:
            case "true":
                return f"{kind};2;{red};{green};{blue}"
            case "256":
                cube = 16 + 36 * _sixth(red) + 6 * _sixth(green) + _sixth(blue)
                return f"{kind};5;{cube}"
        most = max(red, green, blue)
        bright = most > 0xC0
        limit = max(most // 2, 0x40)
        ansi = (red > limit) | (green > limit) << 1 | (blue > limit) << 2
        return str(kind - 8 + ansi + (60 if bright else 0))

    # --- differences ---

    def _show(self, rows: list[list[Cell]], cursor: tuple[int, int] | None, message: str) -> str:
        if message:
            text = message[: self.columns].ljust(self.columns)
            rows[-1] = [Cell(character, "0;7") for character in text]
        out = []
        style = ""
        for y, (old, new) in enumerate(zip(self._shown, rows, strict=True)):
            if old == new:
                continue
            for x, end in _changes(old, new):
                out.append(f"{CSI}{y + 1};{x + 1}H")
                for cell in new[x:end]:
                    if cell.style != style:
                        style = cell.style
                        out.append(f"{CSI}{style}m")
                    out.append(cell.character)
        self._shown = rows
        if not out and cursor == self._cursor:
            return ""
        hidden = f"{CSI}0m{CSI}?25l" if cursor is None else f"{CSI}0m"
        self._cursor = cursor
        return "".join(out) + (hidden if cursor is None
                               else f"{hidden}{CSI}{cursor[1] + 1};{cursor[0] + 1}H{CSI}?25h")


def _sixth(value: int) -> int:
    return min((value + 25) // 51, 5)


def _changes(old: Sequence[Cell], new: Sequence[Cell]) -> Iterator[tuple[int, int]]:
    """Where a row differs: start and end of each run; few equal cells between are written again."""
    start = end = -1
    for x, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if start >= 0 and x - end > 6:
            yield start, end
            start = -1
        if start < 0:
            start = x
        end = x + 1
    if start >= 0:
        yield start, end


# --- what is typed ---


@dataclass(frozen=True)
class Chord:
    """Keys to press, as ring3.display.keymap.chord names them."""

    keys: str


@dataclass(frozen=True)
class Text:
    """Characters to type."""

    text: str


Action = Chord | Text

FINALS = {b"A": "up", b"B": "down", b"C": "right", b"D": "left", b"E": "kp5", b"F": "end", b"H": "home",
          b"P": "f1", b"Q": "f2", b"R": "f3", b"S": "f4", b"Z": "shift-tab", b"M": "kpenter"}
NUMBERS = {1: "home", 2: "ins", 3: "del", 4: "end", 5: "pgup", 6: "pgdn", 7: "home", 8: "end",
           **{10 + n: f"f{n}" for n in range(1, 6)}, **{11 + n: f"f{n}" for n in range(6, 11)},
           23: "f11", 24: "f12"}
LINUX_CONSOLE = {b"A": "f1", b"B": "f2", b"C": "f3", b"D": "f4", b"E": "f5"}       # after ESC [ [
CONTROLS = {0x00: "ctrl-space", 0x08: "ctrl-backspace", 0x09: "tab", 0x0D: "enter", 0x1B: "esc",
            0x1C: "ctrl-backslash", 0x1D: "ctrl-rbracket", 0x1E: "ctrl-shift-6", 0x1F: "ctrl-shift-minus",
            0x7F: "backspace"}


class KeyParser:
    def __init__(self) -> None:
        self._buffer = b""
        self._paste: bytearray | None = None

    @property
    def pending(self) -> bool:
        """The start of a sequence is here; without more it is what `flush` says."""
        return bool(self._buffer) and self._paste is None

    def feed(self, data: bytes) -> list[Action]:
        self._buffer += data
        actions: list[Action] = []
        while self._buffer:
            if self._paste is not None:
                if not self._take_paste(actions):
                    break
                continue
            length, action = self._next(self._buffer)
            if not length:
                break
            if self._buffer[:length] == PASTE_START:
                self._paste = bytearray()
            elif action is not None:
                actions.append(action)
            self._buffer = self._buffer[length:]
        return _joined(actions)

    def flush(self) -> list[Action]:
        """Nothing followed: an Escape was just that, other bytes were no key."""
        buffer, self._buffer = self._buffer, b""
        return [Chord("esc")] if buffer[:1] == b"\x1b" else []

    def _take_paste(self, actions: list[Action]) -> bool:
        """What lies between the marks; False when the end isn't here."""
        assert self._paste is not None
        body, mark, rest = self._buffer.partition(PASTE_END)
        if not mark:                    # the mark itself may be cut in two
            keep = len(PASTE_END) - 1
            body, rest = self._buffer[:-keep], self._buffer[-keep:]
        self._paste += body[: max(0, PASTE_MAX - len(self._paste))]
        self._buffer = rest
        if not mark:
            return False
        actions.append(Text(self._paste.decode(errors="ignore").replace("\r\n", "\n").replace("\r", "\n")))
        self._paste = None
        return True

    def _next(self, data: bytes) -> tuple[int, Action | None]:
        """The first key: its bytes' number (0: not all here) and what it is (None: no key we know)."""
        if data[0] != 0x1B:
            return self._character(data)
        if len(data) < 2:
            return 0, None
        if data[1:2] == b"[":
            return self._control_sequence(data)
        if data[1:2] == b"O":
            if len(data) < 3:
                return 0, None
            name = FINALS.get(data[2:3])
            return 3, Chord(name) if name else None
        length, action = self._next(data[1:])
        return (1 + length, _with_alt(action)) if length else (0, None)

    def _character(self, data: bytes) -> tuple[int, Action | None]:
        first = data[0]
        if first < 0x20 or first == 0x7F:
            return 1, Chord(CONTROLS.get(first) or f"ctrl-{chr(first + 0x60)}")
        length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        if len(data) < length:
            return 0, None
        text = data[:length].decode(errors="ignore")
        return (length, Text(text)) if text else (1, None)

    def _control_sequence(self, data: bytes) -> tuple[int, Action | None]:
        if data[2:3] == b"[":
            if len(data) < 4:
                return 0, None
            name = LINUX_CONSOLE.get(data[3:4])
            return 4, Chord(name) if name else None
        for at in range(2, min(len(data), SEQUENCE_MAX)):
            if 0x40 <= data[at] <= 0x7E:
                return at + 1, _key_of(data[2:at], data[at : at + 1])
        return (SEQUENCE_MAX, None) if len(data) >= SEQUENCE_MAX else (0, None)


def _key_of(parameters: bytes, final: bytes) -> Action | None:
    """CSI number ; modifiers final."""
    numbers = [int(part) if part.isdigit() else 0 for part in parameters.split(b";")]
    name = NUMBERS.get(numbers[0]) if final == b"~" else FINALS.get(final)
    if name is None:
        return None
    held = numbers[1] - 1 if len(numbers) > 1 else 0
    modifiers = [name for bit, name in ((4, "ctrl"), (2, "alt"), (1, "shift"), (8, "win")) if held & bit]
    return Chord("-".join([*modifiers, name]))


def _with_alt(action: Action | None) -> Action | None:
    match action:
        case Chord(keys):
            return Chord(f"alt-{keys}")
        case Text(text) if text != " ":
            return Chord(f"alt-{text}")
        case Text():
            return Chord("alt-space")
    return None


def _joined(actions: list[Action]) -> list[Action]:
    """Characters one after the other are one text."""
    joined: list[Action] = []
    for action in actions:
        if isinstance(action, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + action.text)
        else:
            joined.append(action)
    return joined
