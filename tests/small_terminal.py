"""A terminal that knows just what ring3.display.ansi writes: for tests on a pseudo-terminal."""

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import termios


class SmallTerminal:
    """The other side of a pty: what the console writes, as rows of text."""

    SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")

    def __init__(self, columns=80, rows=25):
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        self.resize(columns, rows)
        self.cursor_shown = True
        self.other_screen = False
        self.style = "0"
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.rest = ""

    def resize(self, columns, rows):
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.columns, self.height = columns, rows
        self.clear()

    def clear(self):
        self.rows = [[" "] * self.columns for _ in range(self.height)]
        self.styles = {}
        self.x = self.y = 0

    def read(self):
        data = b""
        while select.select([self.master], [], [], 0)[0]:
            data += os.read(self.master, 65536)
        text, at = self.rest + self.decoder.decode(data), 0
        while at < len(text):
            match = self.SEQUENCE.match(text, at)
            if text[at] == "\x1b" and not match:
                break                   # the rest of it comes with the next bytes
            if match:
                self.obey(*match.groups())
                at = match.end()
            else:
                self.rows[self.y][self.x] = text[at]
                self.styles[self.x, self.y] = self.style
                self.x = min(self.x + 1, self.columns - 1)
                at += 1
        self.rest = text[at:]
        return self

    def obey(self, parameters, final):
        match final:
            case "H":
                self.y, self.x = (int(part) - 1 for part in parameters.split(";"))
            case "m":
                self.style = parameters
            case "J":
                self.clear()
            case "h" | "l" if parameters == "?25":
                self.cursor_shown = final == "h"
            case "h" | "l" if parameters == "?1049":
                self.other_screen = final == "h"

    @property
    def text(self):
        return [("".join(row)).rstrip() for row in self.rows]

    def type(self, data):
        os.write(self.master, data)

    def close(self):
        os.close(self.master)
        os.close(self.slave)
