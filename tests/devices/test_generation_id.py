"""The generation ID: where the guest reads it, and when it is another one."""

import itertools

from ring3.devices.generation_id import GenerationId, State


class Rig:
    def __init__(self):
        self.shown = []
        self.events = 0
        numbers = itertools.count(1)
        self.chip = GenerationId(self.shown.append, self._changed, lambda n: bytes([next(numbers)]) * n)

    def _changed(self):
        self.events += 1
        assert self.shown[-1] == bytes(self.chip.state.guid)     # the guest reads the new one


def test_there_is_one_from_the_start_without_an_event():
    rig = Rig()
    assert (rig.shown, rig.events) == ([b"\1" * 16], 0)


def test_a_new_one_is_shown_and_told():
    rig = Rig()
    rig.chip.renew()
    assert (rig.shown[-1], rig.events) == (b"\2" * 16, 1)


def test_a_reset_does_not_change_it():
    rig = Rig()
    rig.chip.reset()
    assert rig.shown == [b"\1" * 16]


def test_a_restored_one_is_shown():
    rig = Rig()
    rig.chip.restore(State(bytearray(b"\7" * 16)))
    assert (rig.shown[-1], rig.events) == (b"\7" * 16, 0)
