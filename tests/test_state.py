from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from ring3.errors import CheckpointError
from ring3.state import load, record


@dataclass(slots=True)
class Inner:
    value: int = 0


@dataclass(slots=True)
class State:
    MIGRATIONS: ClassVar = (lambda r: r | {"mcr": 0},)  # v0 → v1: MCR was not kept
    ier: int = 0
    mcr: int = 0
    fifo: bytearray = field(default_factory=bytearray)
    deadline_ns: int | None = None
    enabled: bool = False
    inner: Inner = field(default_factory=Inner)
    table: list[int] = field(default_factory=list)
    many: dict[str, Inner] = field(default_factory=dict)
    pair: tuple[int, bytes] = (0, b"")


def plain(**changes):
    return record(State()) | changes


def test_a_record_is_plain_and_tells_its_version():
    assert record(Inner(5)) == {"version": 0, "value": 5}
    assert record(State())["version"] == 1
    assert record(State())["inner"] == {"version": 0, "value": 0}


def test_a_state_comes_back_as_it_was():
    state = State(3, 1, bytearray(b"ab"), 7, True, Inner(9), [1, 2], {"a": Inner(1)}, (4, b"x"))
    assert load(State, record(state)) == state


def test_a_record_shares_nothing_with_its_state():
    state = State(fifo=bytearray(b"a"))
    saved = record(state)
    state.fifo += b"b"
    state.table.append(1)
    assert (saved["fifo"], saved["table"]) == (b"a", [])


def test_an_older_record_is_migrated():
    old = plain(version=0, ier=3)
    del old["mcr"]
    assert load(State, old) == State(ier=3, mcr=0)


@pytest.mark.parametrize("version", [2, -1, None, True, "1"])
def test_an_unknown_version_is_refused(version):
    with pytest.raises(CheckpointError, match="version"):
        load(State, plain(version=version))


def test_an_unknown_field_is_refused():
    with pytest.raises(CheckpointError, match="lsr"):
        load(State, plain(lsr=0))


def test_a_missing_field_is_refused():
    saved = record(State())
    del saved["ier"]
    with pytest.raises(CheckpointError, match="ier"):
        load(State, saved)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ier", "3"),
        ("ier", True),
        ("ier", None),
        ("fifo", "text"),
        ("deadline_ns", 1.5),
        ("enabled", 1),
        ("inner", 5),
        ("table", 5),
        ("table", [1, None]),
        ("many", {"a": {}}),
        ("many", {1: {"version": 0, "value": 0}}),
        ("pair", [1]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_name(name, value):
    with pytest.raises(CheckpointError, match=f"State.{name}"):
        load(State, plain(**{name: value}))


def test_a_migration_of_a_damaged_record_is_refused():
    @dataclass
    class Renamed:
        MIGRATIONS: ClassVar = (lambda r: {"new": r["old"]},)
        new: int = 0

    with pytest.raises(CheckpointError, match="damaged"):
        load(Renamed, {"version": 0})
