"""What `ring3 run --stats` prints: the counters of `Machine.stats()`, readable.

Names carry their unit (`ns_running`, `code_bytes`), and groups are dictionaries; nothing here knows a
counter by name, so a new one in the engine shows up by itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

INDENT = 2
SCALES = (("G", 10**9), ("M", 10**6), ("k", 10**3))
BINARY_SCALES = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def report(stats: Mapping[str, Any]) -> str:
    rows = list(_rows(stats, 0))
    width = max((len(name) for name, _ in rows), default=0) + INDENT
    return "\n".join(f"{name:{width}}{value:>12}".rstrip() for name, value in rows)


def _rows(stats: Mapping[str, Any], indent: int) -> Iterator[tuple[str, str]]:
    for key, value in stats.items():
        name = " " * indent + key.replace("_", " ")
        if isinstance(value, Mapping):
            if value:
                yield name, ""
                yield from _rows(value, indent + INDENT)
        elif isinstance(value, list | tuple):
            for number, item in enumerate(value):
                yield f"{name} {number}", "" if isinstance(item, Mapping) else quantity(key, item)
                if isinstance(item, Mapping):
                    yield from _rows(item, indent + INDENT)
        else:
            yield " " * indent + _without_unit(key.replace("_", " ")), quantity(key, value)


def _without_unit(name: str) -> str:
    return name.removeprefix("ns ").removesuffix(" ns").removesuffix(" bytes")


def quantity(key: str, value: Any) -> str:
    """A number with the unit that its name gives it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if key.startswith("ns_") or key.endswith("_ns"):
        return f"{value / 1e9:.3f} s" if value >= 1e8 else f"{value / 1e6:.3f} ms"
    if key.endswith("_bytes"):
        return _scaled(value, BINARY_SCALES, " B")
    return _scaled(value, SCALES, "") if value >= 10**5 else f"{value:g}"


def _scaled(value: float, scales: tuple[tuple[str, int], ...], unit: str) -> str:
    for name, factor in scales:
        if value >= factor:
            return f"{value / factor:.2f} {name}"
    return f"{value}{unit}"
