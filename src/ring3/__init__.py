"""Ring3 runs unmodified x86 operating systems in an ordinary process, without KVM.

Everything here is imported when it is first used, so `import ring3` is cheap and works without the native
module; building a Machine without it says how to get it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ring3.char.memory import ExpectError, MemoryBackend
    from ring3.config import CdromConfig, DiskConfig, DisplayConfig, FloppyConfig, MachineConfig
    from ring3.control.remote import RemoteMachine, connect
    from ring3.control.spawn import start
    from ring3.display.screen import WaitError
    from ring3.errors import ConfigError, EngineError, HostError, ImageError, VmError
    from ring3.machine import Machine
    from ring3.result import ExitReason, Result

__version__ = "0.1.0"

__all__ = [
    "CdromConfig",
    "ConfigError",
    "DiskConfig",
    "DisplayConfig",
    "EngineError",
    "ExitReason",
    "ExpectError",
    "FloppyConfig",
    "HostError",
    "ImageError",
    "Machine",
    "MachineConfig",
    "MemoryBackend",
    "RemoteMachine",
    "Result",
    "VmError",
    "WaitError",
    "connect",
    "start",
]

_HOMES = {
    "CdromConfig": "config",
    "ConfigError": "errors",
    "DiskConfig": "config",
    "DisplayConfig": "config",
    "EngineError": "errors",
    "ExitReason": "result",
    "ExpectError": "char.memory",
    "FloppyConfig": "config",
    "HostError": "errors",
    "ImageError": "errors",
    "Machine": "machine",
    "MachineConfig": "config",
    "MemoryBackend": "char.memory",
    "RemoteMachine": "control.remote",
    "Result": "result",
    "VmError": "errors",
    "WaitError": "display.screen",
    "connect": "control.remote",
    "start": "control.spawn",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'ring3' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ring3.{_HOMES[name]}"), name)
