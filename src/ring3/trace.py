"""Trace points: one line for each guest access that a chip answers only because it must.

Off by default, and then a trace point costs one call and one comparison.  A chip says

    trace.odd("uart", "read of unmapped offset %d", offset)

and whoever wants the lines (`ring3 run --trace`, a test) calls `enable` with a function taking them.
"""

from collections.abc import Callable

Sink = Callable[[str], None]

_sink: Sink | None = None


def enable(sink: Sink) -> None:
    """Every trace line goes to `sink` from now on."""
    global _sink
    _sink = sink


def disable() -> None:
    global _sink
    _sink = None


def odd(chip: str, text: str, *values: object) -> None:
    """A guest did to `chip` what `text` says; `values` are formatted in with % only if anyone listens."""
    if _sink is not None:
        _sink(f"{chip}: {text % values if values else text}")


def names(register: type, value: int) -> str:
    """The bits of `value` by their names in a class of masks: names(Lsr, 0x61) == "DR|THRE|TEMT"."""
    return "|".join(name for name, bit in vars(register).items() if not name.startswith("_") and value & bit)
