import pytest

from ring3.devices.reset import PortA, ResetControl


@pytest.fixture
def events():
    return []


@pytest.fixture
def port_a(events):
    return PortA(a20=lambda on: events.append(f"a20 {on}"), init=lambda: events.append("init"))


@pytest.fixture
def control(events):
    return ResetControl(hard_reset=lambda: events.append("hard"), init=lambda: events.append("init"))


def test_port_92h_switches_a20(port_a, events):
    port_a.write(0, 0x02)
    port_a.write(0, 0x00)
    assert events == ["a20 True", "a20 False"]


def test_port_92h_restarts_the_cpu_on_the_rise_of_bit_0(port_a, events):
    port_a.write(0, 0x03)
    port_a.write(0, 0x03)
    assert events.count("init") == 1
    assert port_a.read(0) == 0x03


def test_cf9h_resets_the_machine_on_the_rise_of_bit_2(control, events):
    control.write(0, 0x02)
    assert events == []
    control.write(0, 0x06)
    assert events == ["hard"]


def test_cf9h_without_bit_1_restarts_the_cpu_alone(control, events):
    control.write(0, 0x04)
    assert events == ["init"]
    assert control.read(0) == 0
