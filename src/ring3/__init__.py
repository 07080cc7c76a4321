"""Ring3 runs unmodified x86 operating systems in an ordinary process, without KVM.

Everything here is imported when it is first used, so `import ring3` is cheap and works without the native
module; building a Machine without it says how to get it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ring3.char.memory import ExpectError, MemoryBackend
    from ring3.config import MachineConfig
    from ring3.errors import ConfigError, EngineError, HostError, VmError
    from ring3.machine import ExitReason, Machine, Result

__all__ = [
    "ConfigError",
    "EngineError",
    "ExitReason",
    "ExpectError",
    "HostError",
    "Machine",
    "MachineConfig",
    "MemoryBackend",
    "Result",
    "VmError",
]

_HOMES = {
    "ConfigError": "errors",
    "EngineError": "errors",
    "ExitReason": "machine",
    "ExpectError": "char.memory",
    "HostError": "errors",
    "Machine": "machine",
    "MachineConfig": "config",
    "MemoryBackend": "char.memory",
    "Result": "machine",
    "VmError": "errors",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'ring3' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ring3.{_HOMES[name]}"), name)
