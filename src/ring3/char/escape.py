"""The escape key of a terminal: Ctrl-], then one key.  Bytes in, events out; no I/O.

Everything but Ctrl-] goes to the guest untouched, Ctrl-C included.
"""

import enum

ESCAPE = 0x1D                           # Ctrl-], as telnet has it
MENU = "Ctrl-]: q quit | r reset | p pause or resume | ] send Ctrl-] | h help | any other key: back"
HELP = """\
q  quit: the machine is switched off as by pulling its plug
r  reset: the machine's reset button
p  pause the machine, or let it run on
]  send Ctrl-] to the machine (Ctrl-] again does it, too)
h  this help"""


class Command(enum.Enum):
    MENU = "menu"                       # the escape key itself: show what may follow
    HELP = "help"
    QUIT = "quit"
    RESET = "reset"
    PAUSE = "pause"


KEYS = {ord("q"): Command.QUIT, ord("r"): Command.RESET, ord("p"): Command.PAUSE,
        ord("h"): Command.HELP, ord("?"): Command.HELP}


class EscapeFilter:
    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes | Command]:
        """What the terminal sent, as bytes for the guest and commands for us, in order."""
        events: list[bytes | Command] = []
        plain = bytearray()

        def put(event: bytes | Command | None) -> None:
            if plain:
                events.append(bytes(plain))
                plain.clear()
            if event:
                events.append(event)

        for byte in data:
            if self._escaped:
                self._escaped = False
                if byte in (ESCAPE, ord("]")):
                    plain.append(ESCAPE)
                else:
                    put(KEYS.get(byte | 0x20 if 0x41 <= byte <= 0x5A else byte))
            elif byte == ESCAPE:
                self._escaped = True
                put(Command.MENU)
            else:
                plain.append(byte)
        put(None)
        return events
