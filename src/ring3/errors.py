"""The exceptions Ring3 raises: each says whose fault it is.

VmError
├── ConfigError        the description of the machine cannot be built
├── ImageError         a disk image is damaged, locked or of unknown format
├── HostError          the host refused: no /dev/kvm, no space, permission (the OSError is its cause)
├── CheckpointError    a saved machine does not fit this machine
└── EngineError        we are wrong; carries the state needed for a report

A guest can never cause one: its odd accesses are answered as hardware would, and traced (trace.py).
"""


class VmError(Exception):
    """The root: `except VmError` catches all that Ring3 raises on purpose."""


class ConfigError(VmError):
    """A user's mistake: one line that names the setting and the remedy."""


class ImageError(VmError):
    """A disk image is damaged, locked or of unknown format."""


class HostError(VmError):
    """The host refused; raise it `from` the OSError that says why."""


class CheckpointError(VmError):
    """A saved machine does not fit this machine, or its record is damaged."""


class EngineError(VmError):
    """We are wrong.  `report` is what a bug report needs: registers, the block, the last exits."""

    def __init__(self, message: str, report: str = "") -> None:
        super().__init__(message)
        self.report = report
