"""A terminal in raw mode, and back, whatever ends this process.

`restore` is the normal way back.  For the others (SIGKILL, a crash of the engine) a small process waits on
a pipe that only we hold: when it closes without a word, that process sets the terminal as it was.
"""

import contextlib
import os
import subprocess
import termios

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)       # of termios.tcgetattr

# $1 is the pipe's path, $2 the terminal's settings as `stty -g` wrote them.
GUARD = 'trap "" HUP INT QUIT TERM; read -r _ <"$1" || exec stty "$2"'


class RawTerminal:
    """Keys arrive at once, unechoed and unchanged; newlines on output stay the terminal's business."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._saved: list[object] | None = termios.tcgetattr(fd)
        self._guard = _start_guard(fd)
        raw = termios.tcgetattr(fd)
        raw[IFLAG] &= ~(termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
                        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
        raw[CFLAG] = raw[CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        raw[LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[CC][termios.VMIN], raw[CC][termios.VTIME] = 1, 0
        termios.tcsetattr(fd, termios.TCSADRAIN, raw)

    def restore(self) -> None:
        """The terminal as it was; a second call does nothing."""
        saved, self._saved = self._saved, None
        if saved is None:
            return
        with contextlib.suppress(termios.error):        # the terminal may be gone (SIGHUP)
            termios.tcsetattr(self.fd, termios.TCSADRAIN, saved)    # type: ignore[arg-type]
        if self._guard is not None:
            self._guard.dismiss()


class _Guard:
    def __init__(self, process: "subprocess.Popen[bytes]", pipe: int) -> None:
        self._process = process
        self._pipe = pipe

    def dismiss(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._pipe, b"\n")
        os.close(self._pipe)
        self._process.wait()


def _start_guard(fd: int) -> _Guard | None:
    """None where there is no `stty` or no process to be had: then only `restore` restores."""
    read_end, write_end = os.pipe()
    try:
        settings = subprocess.run(["stty", "-g"], stdin=fd, capture_output=True, check=True, text=True)
        process = subprocess.Popen(
            ["sh", "-c", GUARD, "ring3-terminal", f"/proc/self/fd/{read_end}", settings.stdout.strip()],
            stdin=fd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(read_end,), start_new_session=True)
    except (OSError, subprocess.CalledProcessError):
        os.close(write_end)
        return None
    finally:
        os.close(read_end)
    return _Guard(process, write_end)
