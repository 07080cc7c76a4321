"""Processes for copies of a machine, in milliseconds: each is a fork of one that has imported everything.

As a program, `python -m ring3.control.zygote FD`, it imports what its machine's process has, builds a machine
and forgets it, and forks.  It never holds a guest, a thread or a lock.  Its child waits for an order on the
socket FD, becomes the copy's process, and meanwhile the next child is there; if it has time, with a machine
that only lacks the copy's state.  An order is a byte, and descriptors: a file with the Order, a pipe for the
Report (ring3.control.host), and the files of the copy's RAM.  All of it ends with the machine's process, but
for the copies.
"""

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ring3.checkpoint.contents import Contents
from ring3.checkpoint.machine import Moment
from ring3.config import toml
from ring3.control import home, host
from ring3.control.home import Report
from ring3.control.remote import RemoteMachine
from ring3.errors import HostError, VmError
from ring3.machine import Machine, config_of_copy

DESCRIPTORS_MAX = 250                   # of one message (SCM_MAX_FD of Linux is 253)
IDLE_S = 0.02                           # without an order, before a machine is built for the next
AT_ONCE = 4                             # copies that are being started


class Order(msgspec.Struct):
    """A copy to be made."""

    name: str                           # that its name begins with
    contents: Contents
    path: str                           # Moment.path
    extents: list[tuple[int, int, int, int]]    # of RAM: offset, bytes, number of the file, offset in it


class Rehearsal(msgspec.Struct):
    """What a zygote does before there are orders, so that copies need not do it, or not for once."""

    modules: list[str]                  # that the machine's process has imported
    contents: Contents                  # of a copy that is built, but for its RAM
    path: str


class Zygote:
    """The side of the machine's process."""

    def __init__(self, moment: Moment, log: int) -> None:
        """`log`: a descriptor for what it has to say."""
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        modules = [name for name in sys.modules if name != "__main__"]
        with far:
            process = subprocess.Popen(
                [sys.executable, "-m", "ring3.control.zygote", str(far.fileno())], stdin=subprocess.PIPE,
                stdout=log, stderr=log, pass_fds=(far.fileno(),), start_new_session=True)
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(msgspec.msgpack.encode(Rehearsal(modules, moment.contents, str(moment.path))))
        self._process = process

    def copies(self, moment: Moment, name: str, count: int) -> list[str]:
        """Copies that run, each with a directory and a process of its own; returns their names."""
        files = list(dict.fromkeys(fd for _, _, fd, _ in moment.extents))
        numbers = {fd: number for number, fd in enumerate(files)}
        extents = [(start, length, numbers[fd], offset) for start, length, fd, offset in moment.extents]
        order = msgspec.msgpack.encode(Order(name, moment.contents, str(moment.path), extents))
        names: list[str] = []
        pipes: list[int] = []
        with contextlib.ExitStack() as stack:
            paper = os.memfd_create("ring3-order", os.MFD_CLOEXEC)
            stack.callback(os.close, paper)
            with open(paper, "wb", closefd=False) as file:
                file.write(order)
            try:
                while len(names) < count:
                    while len(pipes) < min(AT_ONCE, count - len(names)):
                        pipes.append(self._send([paper], files))
                    names.append(self._made(pipes.pop(0)))
            except BaseException:
                for pipe in pipes:
                    with contextlib.suppress(VmError):
                        names.append(self._made(pipe))
                for each in names:
                    with contextlib.suppress(VmError):
                        RemoteMachine(each).stop()
                raise
        return sorted(names, key=lambda each: (len(each), each))

    def _send(self, papers: list[int], files: Sequence[int]) -> int:
        """Returns the pipe that the report comes from."""
        read_end, write_end = os.pipe()
        try:
            socket.send_fds(self._socket, [b"1"], [*papers, write_end, *files])
        except OSError as error:
            os.close(read_end)
            raise HostError(f"the copy cannot be started: {error.strerror}: see the machine's log") from error
        finally:
            os.close(write_end)
        return read_end

    def _made(self, pipe: int) -> str:
        with open(pipe, "rb") as file:
            line = file.readline()
        if not line:
            raise HostError("the copy ended before it ran: see the machine's log")
        report = msgspec.json.decode(line, type=Report)
        if report.error:
            raise home.error_of(report)
        return report.name

    def close(self) -> None:
        self._socket.close()
        self._process.kill()            # it may still be importing
        self._process.wait()


# --- the program ---


def rehearse(rehearsal: Rehearsal) -> Machine | None:
    try:
        moment = Moment(rehearsal.contents, Path(rehearsal.path), [], None)
        config = config_of_copy(moment)
        toml.dumps(config)
        return Machine(config, saved=moment)
    except VmError:                     # it will be told of a copy that is wanted
        return None


class Ready:
    """A machine that is built before there is an order for it."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._contents = rehearsal.contents
        self._machine = rehearse(rehearsal)

    def for_order(self, contents: Contents) -> Machine | None:
        """None where only a new machine will do."""
        if self._machine is None or not built_alike(self._contents, contents):
            self.close()
            return None
        return self._machine

    def close(self) -> None:
        if self._machine is not None:
            self._machine.stop()


def built_alike(one: Contents, other: Contents) -> bool:
    """One machine can have the state of both.  Not with media: layers of its disks would be others."""
    def build(contents: Contents) -> tuple[object, ...]:
        return (contents.config, contents.kernel, contents.initrd, contents.initrd_path,
                contents.memory_bytes, contents.video_bytes, contents.rom, contents.option_roms)

    return not one.media and not other.media and build(one) == build(other)


def main(fd: str) -> int:
    orders = socket.socket(fileno=int(fd))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)       # nobody waits for the copies
    rehearsal = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Rehearsal)
    for name in rehearsal.modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    rehearsed = rehearse(rehearsal)
    if rehearsed is not None:
        rehearsed.stop()
    del rehearsed
    gc.collect()
    gc.freeze()                         # the copies share it
    while True:
        read_end, write_end = os.pipe()
        if os.fork() == 0:
            os.close(read_end)
            has_time = not select.select([orders], [], [], IDLE_S)[0]
            return become_copy(orders, write_end, Ready(rehearsal) if has_time else None)
        os.close(write_end)
        with open(read_end, "rb") as taken:
            if not taken.read():
                return 0                # there will be no more orders


def become_copy(orders: socket.socket, taken: int, ready: Ready | None) -> int:
    message, descriptors, *_ = socket.recv_fds(orders, 1, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC)
    if not message:
        return 0
    orders.close()
    os.setsid()
    for number in (signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    paper, pipe, *files = descriptors
    data = os.pread(paper, os.fstat(paper).st_size, 0)      # its position is shared with other copies
    os.close(paper)
    order = msgspec.msgpack.decode(data, type=Order)
    extents = [(start, length, files[number], offset) for start, length, number, offset in order.extents]
    moment = Moment(order.contents, Path(order.path), extents, Files(files))
    teller = host.Teller(pipe)
    next_one = contextlib.ExitStack()
    next_one.callback(os.close, taken)
    next_one.callback(os.write, taken, message)

    def tell(report: Report) -> None:
        teller(report)
        next_one.close()                # not before: the host's processors have enough to do

    machine = ready.for_order(order.contents) if ready is not None else None
    return host.run_copy(moment, order.name, tell, machine)


class Files:
    """Closes descriptors when nobody needs them any more."""

    def __init__(self, descriptors: list[int]) -> None:
        self._descriptors = descriptors

    def __del__(self) -> None:
        for each in self._descriptors:
            os.close(each)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
