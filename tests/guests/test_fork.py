"""Copies of a running machine, by the verbs."""

import pytest

from ring3.control import home, spawn

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]


def test_copies_run_on_from_where_the_machine_was_and_it_runs_on(own_home):
    parent = spawn.start("first", memory="16M", display="none", serial="memory")
    machines = [parent]
    try:
        parent.serial[0].expect("Keys are echoed", timeout_s=60)
        machines += parent.fork(2)
        assert [each.name for each in machines] == ["first", "first-fork", "first-fork-2"]
        for each in machines:
            each.serial[0].send("xyz")
            each.serial[0].expect("xyz")
        assert home.named("first").saved() == []
    finally:
        for each in machines:
            each.stop()
            each.close()
    assert home.machines() == []        # all were made for one run
