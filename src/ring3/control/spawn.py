"""Starts a machine in a background process, and waits until it runs or says why it doesn't."""

import os
import subprocess
import sys

import msgspec

from ring3.config import MachineConfig, toml
from ring3.control.home import Directory
from ring3.control.host import Report
from ring3.errors import ConfigError, EngineError, HostError

KINDS = {"config": ConfigError, "engine": EngineError}


def start(directory: Directory, config: MachineConfig) -> int:
    """The pid of the process in which the machine runs now."""
    if directory.running:
        raise ConfigError(f"{directory.name} runs already")
    check_terminal(config)
    read_end, write_end = os.pipe()
    try:
        log = directory.open_log()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "ring3.control.host", str(directory.path), str(write_end)],
                stdin=subprocess.PIPE, stdout=log, stderr=log, pass_fds=(write_end,), start_new_session=True)
        finally:
            os.close(log)
            os.close(write_end)
        assert process.stdin is not None
        with process.stdin:
            process.stdin.write(toml.dumps(config).encode())
        with os.fdopen(read_end, "rb", closefd=False) as pipe:
            line = pipe.readline()
    except OSError as error:
        raise HostError(f"{directory.name} cannot be started: {error.strerror}") from error
    finally:
        os.close(read_end)
    if not line:
        process.wait()
        raise HostError(f"{directory.name} ended before it ran: see {directory.log_file}")
    report = msgspec.json.decode(line, type=Report)
    if report.error:
        process.wait()
        raise KINDS.get(report.kind, HostError)(report.error)
    process.returncode = 0              # it is on its own now: no warning that nobody waited for it
    return process.pid


def check_terminal(config: MachineConfig) -> None:
    """A machine in the background has no terminal."""
    if "stdio" in config.serial_ports:
        raise ConfigError("serial: in the background there is no stdio: give memory, then ring3 serial NAME")
    if any(display.kind == "terminal" for display in config.displays):
        raise ConfigError("display: in the background there is no terminal: use ring3 attach NAME")
