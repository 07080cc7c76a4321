from ring3.irq import IrqLine, SharedLine, fan_out


def test_only_changes_are_heard():
    edges = []
    line = IrqLine(edges.append)
    for level in (False, True, True, False):
        line.set(level)
    assert edges == [True, False]


def test_an_unconnected_line_keeps_its_level():
    line = IrqLine()
    line.set(True)
    assert line.level


def test_a_shared_line_is_asserted_while_any_driver_asserts_it():
    edges = []
    shared = SharedLine(IrqLine(edges.append))
    first, second = shared.input(), shared.input()
    first.set(True)
    second.set(True)
    first.set(False)
    assert edges == [True]
    second.set(False)
    assert edges == [True, False]


def test_fan_out_reaches_every_receiver():
    ends = [IrqLine(), IrqLine()]
    fan_out(*ends).set(True)
    assert [end.level for end in ends] == [True, True]


def test_a_driver_learns_whether_its_pulses_matter():
    line, learned = IrqLine(), []
    line.on_heard = lambda: learned.append(line.heard)
    for heard in (True, False, False, True):
        line.hear(heard)
    assert learned == [False, True]


def test_pulses_matter_while_one_receiver_hears_them():
    first, second = IrqLine(), IrqLine()
    driver = SharedLine(fan_out(first, second)).input()
    first.hear(False)
    assert driver.heard
    second.hear(False)
    assert not driver.heard
    first.hear(True)
    assert driver.heard
