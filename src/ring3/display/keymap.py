"""Keys: names, layouts, and what others call them (X keysyms, QEMU's extended key events).

A key is its code in set 1 (make code), with prefix E0h as E0xxh: 1Eh is A on a US keyboard, E04Bh Left;
Pause is E11Dh and Print Screen E037h.  A code is a place on the keyboard; what it means is up to the layout
that the guest is set to.  So a layout here says which strokes make a character in such a guest, dead keys
and AltGr included, as the layouts of that name of Linux and of Windows agree.

`"us,ru"` is a guest with several layouts, the first one active, that Alt+Shift goes through in turn: the way
to type text of two alphabets.
"""

import difflib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ring3.errors import ConfigError

ENTER, TAB, SPACE, BACKSPACE, ESC = 0x1C, 0x0F, 0x39, 0x0E, 0x01
LEFT_SHIFT, RIGHT_SHIFT, LEFT_CTRL, RIGHT_CTRL = 0x2A, 0x36, 0x1D, 0xE01D
LEFT_ALT, ALTGR, CAPS_LOCK, NUM_LOCK = 0x38, 0xE038, 0x3A, 0x45
PAUSE, PRINT_SCREEN, SYS_REQ, CTRL_BREAK = 0xE11D, 0xE037, 0x54, 0xE046
SHIFTS = (LEFT_SHIFT, RIGHT_SHIFT)
MODIFIERS = (*SHIFTS, LEFT_CTRL, RIGHT_CTRL, LEFT_ALT, ALTGR, 0xE05B, 0xE05C, CAPS_LOCK, NUM_LOCK, 0x46)

NAMES = {
    "esc": ESC, "escape": ESC, "backspace": BACKSPACE, "tab": TAB, "enter": ENTER, "return": ENTER,
    "space": SPACE, "minus": 0x0C, "equal": 0x0D, "lbracket": 0x1A, "rbracket": 0x1B, "semicolon": 0x27,
    "apostrophe": 0x28, "grave": 0x29, "backslash": 0x2B, "comma": 0x33, "period": 0x34, "slash": 0x35,
    "less": 0x56,
    "ctrl": LEFT_CTRL, "control": LEFT_CTRL, "lctrl": LEFT_CTRL, "rctrl": RIGHT_CTRL, "shift": LEFT_SHIFT,
    "lshift": LEFT_SHIFT, "rshift": RIGHT_SHIFT, "alt": LEFT_ALT, "lalt": LEFT_ALT, "ralt": ALTGR,
    "altgr": ALTGR, "win": 0xE05B, "lwin": 0xE05B, "super": 0xE05B, "meta": 0xE05B, "rwin": 0xE05C,
    "menu": 0xE05D,
    "capslock": CAPS_LOCK, "numlock": NUM_LOCK, "scrolllock": 0x46,
    "up": 0xE048, "down": 0xE050, "left": 0xE04B, "right": 0xE04D, "home": 0xE047, "end": 0xE04F,
    "pgup": 0xE049, "pageup": 0xE049, "pgdn": 0xE051, "pagedown": 0xE051, "ins": 0xE052, "insert": 0xE052,
    "del": 0xE053, "delete": 0xE053,
    "prtsc": PRINT_SCREEN, "print": PRINT_SCREEN, "printscreen": PRINT_SCREEN, "sysrq": PRINT_SCREEN,
    "pause": PAUSE, "break": CTRL_BREAK,
    **{f"f{n}": 0x3A + n for n in range(1, 11)}, "f11": 0x57, "f12": 0x58,
    "kp7": 0x47, "kp8": 0x48, "kp9": 0x49, "kpminus": 0x4A, "kp4": 0x4B, "kp5": 0x4C, "kp6": 0x4D,
    "kpplus": 0x4E, "kp1": 0x4F, "kp2": 0x50, "kp3": 0x51, "kp0": 0x52, "kpdot": 0x53,
    "kpmultiply": 0x37, "kpdivide": 0xE035, "kpenter": 0xE01C,
    "yen": 0x7D, "ro": 0x73, "henkan": 0x79, "muhenkan": 0x7B, "kana": 0x70, "hankaku": 0x29,
    "mute": 0xE020, "volumedown": 0xE02E, "volumeup": 0xE030, "play": 0xE022, "stop": 0xE024,
    "next": 0xE019, "previous": 0xE010, "power": 0xE05E, "sleep": 0xE05F, "wake": 0xE063,
}  # fmt: skip

# The keys with characters, by rows from the left: the one left of 1, then digits; and so on.  In the third
# row the key next to Enter (2Bh) comes last; the fourth begins between Shift and Z (56h), and ends with two
# that only Japanese keyboards have.
PLACES = (
    (0x29, *range(0x02, 0x0E)),
    tuple(range(0x10, 0x1C)),
    (*range(0x1E, 0x29), 0x2B),
    (0x56, *range(0x2C, 0x36), 0x73, 0x7D),
)

# Each layout has four levels (plain, Shift, AltGr, Shift+AltGr) of up to four rows; a space is a key
# without meaning there, a combining character a dead key.
GRAVE, ACUTE, CIRCUMFLEX, DIAERESIS = "\u0300", "\u0301", "\u0302", "\u0308"
LAYOUTS = {
    "us": (
        ("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'\\", " zxcvbnm,./"),
        ("~!@#$%^&*()_+", "QWERTYUIOP{}", 'ASDFGHJKL:"|', " ZXCVBNM<>?"),
    ),
    "gb": (
        ("`1234567890-=", "qwertyuiop[]", "asdfghjkl;'#", "\\zxcvbnm,./"),
        ('¬!"£$%^&*()_+', "QWERTYUIOP{}", "ASDFGHJKL:@~", "|ZXCVBNM<>?"),
        ("¦   €",),
    ),
    "de": (
        (CIRCUMFLEX + "1234567890ß" + ACUTE, "qwertzuiopü+", "asdfghjklöä#", "<yxcvbnm,.-"),
        ('°!"§$%&/()=?' + GRAVE, "QWERTZUIOPÜ*", "ASDFGHJKLÖÄ'", ">YXCVBNM;:_"),
        ("  ²³   {[]}\\", "@ €        ~", "", "|      µ"),
    ),
    "fr": (
        ("²&é\"'(-è_çà)=", "azertyuiop" + CIRCUMFLEX + "$", "qsdfghjklmù*", "<wxcvbn,;:!"),
        (" 1234567890°+", "AZERTYUIOP" + DIAERESIS + "£", "QSDFGHJKLM%µ", ">WXCVBN?./§"),
        ("  ~#{[|`\\^@]}", "  €        ¤"),
    ),
    "es": (
        ("º1234567890'¡", "qwertyuiop" + GRAVE + "+", "asdfghjklñ" + ACUTE + "ç", "<zxcvbnm,.-"),
        ('ª!"·$%&/()=?¿', "QWERTYUIOP" + CIRCUMFLEX + "*", "ASDFGHJKLÑ" + DIAERESIS + "Ç", ">ZXCVBNM;:_"),
        ("\\|@#~€¬", "  €       []", "          {}"),
    ),
    "ru": (
        ("ё1234567890-=", "йцукенгшщзхъ", "фывапролджэ\\", " ячсмитьбю."),
        ('Ё!"№;%:?*()_+', "ЙЦУКЕНГШЩЗХЪ", "ФЫВАПРОЛДЖЭ/", " ЯЧСМИТЬБЮ,"),
        ("        ₽",),
    ),
    "jp": (
        (" 1234567890-^", "qwertyuiop@[", "asdfghjkl;:]", " zxcvbnm,./\\¥"),
        (" !\"#$%&'() =~", "QWERTYUIOP`{", "ASDFGHJKL+*}", " ZXCVBNM<>?_|"),
    ),
}  # fmt: skip

# What a dead key and the space bar make.
SPACING = {"`": GRAVE, "´": ACUTE, "^": CIRCUMFLEX, "¨": DIAERESIS}
CONTROLS = {"\n": ENTER, "\r": ENTER, "\t": TAB, "\b": BACKSPACE, "\x1b": ESC, "\x7f": 0xE053, " ": SPACE}


@dataclass(frozen=True, slots=True)
class Stroke:
    """One key with the modifiers it wants; `shift` None: as it happens to be."""

    code: int
    shift: bool | None = None
    altgr: bool = False
    letter: bool = False                # Caps Lock turns its Shift around


# --- text ---


def key_events(text: str, layout: str = "us") -> list[tuple[int, bool]]:
    """What happens on a keyboard when someone types `text`: (code, pressed) in order."""
    groups = layout.split(",")
    tables = [_table(name) for name in groups]
    events: list[tuple[int, bool]] = []
    active = shift = altgr = 0

    def hold(key: int, held: int, wanted: bool) -> int:
        if held != wanted:
            events.append((key, wanted))
        return wanted

    for character in text.replace("\r\n", "\n"):
        group, strokes = _strokes(character, tables, active, layout)
        if group != active:
            shift, altgr = hold(LEFT_SHIFT, shift, False), hold(ALTGR, altgr, False)
            events += _switch(group - active, len(groups))
            active = group
        for stroke in strokes:
            if stroke.shift is not None:
                shift = hold(LEFT_SHIFT, shift, stroke.shift)
            altgr = hold(ALTGR, altgr, stroke.altgr)
            events += [(stroke.code, True), (stroke.code, False)]
    hold(LEFT_SHIFT, shift, False)
    hold(ALTGR, altgr, False)
    return events + _switch(-active, len(groups))


def _strokes(
    character: str, tables: list[dict[str, Stroke]], active: int, layout: str
) -> tuple[int, tuple[Stroke, ...]]:
    """The group of layouts and the strokes in it; the active one if it will do."""
    if character in CONTROLS:
        return active, (Stroke(CONTROLS[character], False),)
    for group in sorted(range(len(tables)), key=lambda group: group != active):
        strokes = _of_character(character, tables[group])
        if strokes:
            return group, strokes
    able = [name for name in LAYOUTS if _of_character(character, _table(name))]
    other = next((name for name in able if name not in layout.split(",")), None)
    both = f"{layout},{other}"
    remedy = f"have the guest use {both} and say layout {both}" if other else "leave it out"
    raise ConfigError(f"{character!r} (U+{ord(character):04X}) is not on a {layout} keyboard: {remedy}")


def _of_character(character: str, table: dict[str, Stroke]) -> tuple[Stroke, ...]:
    if character in table:
        return (table[character],)
    if character in SPACING and SPACING[character] in table:
        return table[SPACING[character]], Stroke(SPACE, False)
    base, dead = unicodedata.normalize("NFD", character)[:1], unicodedata.normalize("NFD", character)[1:]
    if dead in table and base in table:
        return table[dead], table[base]
    return ()


def _switch(steps: int, groups: int) -> list[tuple[int, bool]]:
    chord = [(LEFT_ALT, True), (LEFT_SHIFT, True), (LEFT_SHIFT, False), (LEFT_ALT, False)]
    return chord * (steps % groups)


@cache
def _table(layout: str) -> dict[str, Stroke]:
    """Each character of a layout by its easiest stroke."""
    if layout not in LAYOUTS:
        raise ConfigError(f"layout: {_unknown(layout, 'keyboard layout', LAYOUTS)}")
    table: dict[str, Stroke] = {}
    for level, rows in enumerate(LAYOUTS[layout]):
        for places, row in zip(PLACES, rows, strict=False):
            for code, character in zip(places, row, strict=False):
                if character != " ":
                    letter = character.isalpha() and character.lower() != character.upper()
                    table.setdefault(character, Stroke(code, bool(level & 1), level > 1, letter))
    return table


def check_layout(layout: str) -> None:
    """A ConfigError unless `layout` is one, or several with commas between."""
    for name in layout.split(","):
        _table(name)


# --- names ---


def chord(name: str, layout: str = "us") -> list[int]:
    """The keys of "ctrl-alt-del", in the order they go down; a single character is the key that makes it."""
    parts = name.split("-") if len(name) > 1 else [name]
    if parts[-2:] == ["", ""]:          # "ctrl--"
        parts[-2:] = ["-"]
    codes = []
    for part in parts:
        for code in _key(part, name, layout):
            if code not in codes:
                codes.append(code)
    return codes


def _key(part: str, name: str, layout: str) -> list[int]:
    if len(part) == 1:
        for table in [_table(each) for each in (*layout.split(","), "us")]:
            stroke = table.get(part) or table.get(SPACING.get(part, ""))
            if stroke is not None:
                shift, altgr = [LEFT_SHIFT] * bool(stroke.shift), [ALTGR] * stroke.altgr
                return [*shift, *altgr, stroke.code]
    code = NAMES.get(part.lower().replace("_", "").replace(" ", ""))
    if code is None:
        whole = f" (in {name!r})" if part != name else ""
        raise ConfigError(_unknown(part, "key", NAMES) + whole)
    return [code]


def _unknown(name: str, kind: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    some = close[0] if close else ", ".join(list(known)[:8])
    return f"{name!r} is no {kind}; there is {some}"


# --- what others call keys ---


def qemu_code(code: int) -> int | None:
    """The key of a QEMU extended key event: E0xxh comes as xxh + 80h there.  None: there's no such key."""
    special = {SYS_REQ: PRINT_SCREEN, 0xC6: PAUSE, 0xB8 | 0x100: ALTGR}
    if code in special:
        return special[code]
    if 0 < code < 0x80:
        return code
    return 0xE000 | code & 0x7F if 0x80 < code < 0x100 else None


_KEYSYM_NAMES = {
    0xFF08: "backspace", 0xFF09: "tab", 0xFF0A: "enter", 0xFF0D: "enter", 0xFF13: "pause",
    0xFF14: "scrolllock", 0xFF15: "prtsc", 0xFF1B: "esc", 0xFFFF: "del", 0xFE20: "tab",
    0xFF50: "home", 0xFF51: "left", 0xFF52: "up", 0xFF53: "right", 0xFF54: "down", 0xFF55: "pgup",
    0xFF56: "pgdn", 0xFF57: "end", 0xFF61: "prtsc", 0xFF63: "ins", 0xFF67: "menu", 0xFF6B: "break",
    0xFF7F: "numlock", 0xFF8D: "kpenter", 0xFF80: "space", 0xFF89: "tab",
    0xFF95: "kp7", 0xFF96: "kp4", 0xFF97: "kp8", 0xFF98: "kp6", 0xFF99: "kp2", 0xFF9A: "kp9",
    0xFF9B: "kp3", 0xFF9C: "kp1", 0xFF9D: "kp5", 0xFF9E: "kp0", 0xFF9F: "kpdot",
    0xFFAA: "kpmultiply", 0xFFAB: "kpplus", 0xFFAC: "kpdot", 0xFFAD: "kpminus", 0xFFAE: "kpdot",
    0xFFAF: "kpdivide", **{0xFFB0 + n: f"kp{n}" for n in range(10)},
    **{0xFFBD + n: f"f{n}" for n in range(1, 13)},
    0xFFE1: "lshift", 0xFFE2: "rshift", 0xFFE3: "lctrl", 0xFFE4: "rctrl", 0xFFE5: "capslock",
    0xFFE7: "lwin", 0xFFE8: "rwin", 0xFFE9: "lalt", 0xFFEA: "ralt", 0xFFEB: "lwin", 0xFFEC: "rwin",
    0xFE03: "altgr", 0xFF7E: "altgr",
    0xFF22: "muhenkan", 0xFF23: "henkan", 0xFF27: "kana", 0xFF2A: "hankaku",
    0x1008FF11: "volumedown", 0x1008FF12: "mute", 0x1008FF13: "volumeup", 0x1008FF14: "play",
    0x1008FF15: "stop", 0x1008FF16: "previous", 0x1008FF17: "next",
}  # fmt: skip
_DEAD_KEYSYMS = {0xFE50: GRAVE, 0xFE51: ACUTE, 0xFE52: CIRCUMFLEX, 0xFE57: DIAERESIS}
_UNICODE_KEYSYMS = 0x0100_0000


def keysym_stroke(keysym: int, layout: str = "us") -> Stroke | None:
    """The key that an X keysym comes from in a guest of that layout (or of a us one); None: there is none."""
    if keysym in _KEYSYM_NAMES:
        return Stroke(NAMES[_KEYSYM_NAMES[keysym]])
    character = _DEAD_KEYSYMS.get(keysym) or keysym_character(keysym)
    if character is None:
        return None
    if character in CONTROLS:
        return Stroke(CONTROLS[character])
    for name in (*layout.split(","), "us"):
        table = _table(name)
        stroke = table.get(character) or table.get(SPACING.get(character, ""))
        if stroke is not None:
            return stroke
    return None


def keysym_character(keysym: int) -> str | None:
    """The character an X keysym stands for (X11 protocol, appendix A)."""
    if 0x20 <= keysym <= 0x7E or 0xA0 <= keysym <= 0xFF:
        return chr(keysym)
    if _UNICODE_KEYSYMS + 0x100 <= keysym <= _UNICODE_KEYSYMS + 0x10FFFF:
        return chr(keysym - _UNICODE_KEYSYMS)
    if keysym == 0x20AC:
        return "€"
    if keysym == 0x06B0:
        return "№"
    if keysym in (0x06A3, 0x06B3) or 0x06C0 <= keysym <= 0x06FF:        # in the order of KOI8-R
        return bytes((keysym & 0xFF,)).decode("koi8_r")
    return None
