"""Processes for machines in the background (ring3.control.host), as whoever starts one has them.

A new process takes longest to import what a machine needs.  The command line, which has to import things of
its own first, starts one `ahead`, and tells it later which machine it is, or that there is none.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator


class HostProcess:
    """It imports, waits for an order, and answers it with a report (both of ring3.control.home)."""

    def __init__(self) -> None:
        self._report, write_end = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ring3.control.host", str(write_end)],
                stdin=subprocess.PIPE, pass_fds=(write_end,), start_new_session=True)
        except BaseException:
            os.close(self._report)
            raise
        finally:
            os.close(write_end)

    def carry_out(self, order: bytes) -> bytes:
        """The report, once the machine runs or cannot; b"": the process ended before."""
        assert self._process.stdin is not None
        with os.fdopen(self._report, "rb") as report:
            with contextlib.suppress(BrokenPipeError), self._process.stdin as orders:
                orders.write(order)
            return report.readline()

    def release(self) -> None:
        """It is on its own now."""
        self._process.returncode = 0    # no warning that nobody waited for it

    def wait(self) -> None:
        self._process.wait()

    def drop(self) -> None:
        """There is no order."""
        os.close(self._report)
        self._process.kill()            # it may still be importing
        self._process.communicate()


_ahead: list[HostProcess] = []


@contextlib.contextmanager
def ahead(name: str) -> Iterator[None]:
    """Starts one that `take` gives out inside, unless the machine of that name runs already."""
    with contextlib.suppress(OSError):  # who wants one will hear of it
        _ahead.append(HostProcess())
    try:
        if _runs(name):
            _drop()
        yield
    finally:
        _drop()


def _runs(name: str) -> bool:
    from ring3.config.places import machines_path  # here: meanwhile the process imports, too
    from ring3.control import lock

    with contextlib.suppress(OSError, ValueError):
        return lock.held(machines_path() / name / lock.NAME)
    return False


def _drop() -> None:
    while _ahead:
        _ahead.pop().drop()


def take() -> HostProcess:
    return _ahead.pop() if _ahead else HostProcess()
