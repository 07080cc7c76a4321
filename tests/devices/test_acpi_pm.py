import pytest

from ring3.clock import NS_PER_S
from ring3.devices.acpi_pm import ACPI_DISABLE, ACPI_ENABLE, AcpiPm, Pm1, PmControl, PmFunction, Reg


@pytest.fixture
def events():
    return []


@pytest.fixture
def pm(clock, irq, events):
    return AcpiPm(clock, irq, lambda: events.append("off"))


def test_timer_counts_3579545_a_second(pm, clock):
    clock.advance(NS_PER_S)
    assert pm.read(Reg.PMTMR, 4) == 3_579_545


def test_timer_wraps_at_24_bits(pm, clock):
    clock.advance((1 << 24) * 88_000 // 315 + 300)
    assert pm.read(Reg.PMTMR, 4) <= 2


def test_timer_can_be_read_by_bytes(pm, clock):
    clock.advance(NS_PER_S)
    assert bytes(pm.read(Reg.PMTMR + n, 1) for n in range(4)) == (3_579_545).to_bytes(4, "little")


def test_soft_off_powers_off(pm, events):
    pm.write(Reg.PMCNTRL, PmControl.SUS_EN, 2)
    assert events == ["off"]
    assert pm.read(Reg.PMCNTRL, 2) == 0  # SUS_EN is write-only


def test_other_sleep_types_do_nothing(pm, events):
    pm.write(Reg.PMCNTRL, PmControl.SUS_EN | 1 << 10, 2)
    assert events == []


def test_smi_port_switches_acpi_mode(pm):
    pm.smi.write(0, ACPI_ENABLE)
    assert pm.read(Reg.PMCNTRL, 2) & PmControl.SCI_EN
    pm.smi.write(0, ACPI_DISABLE)
    assert not pm.read(Reg.PMCNTRL, 2) & PmControl.SCI_EN
    assert pm.smi.read(0) == ACPI_DISABLE


def test_power_button_raises_sci_until_its_status_is_cleared(pm, edges):
    pm.write(Reg.PMCNTRL, PmControl.SCI_EN, 2)
    pm.write(Reg.PMEN, Pm1.PWRBTN, 2)
    pm.press_power_button()
    assert edges == [True]
    assert pm.read(Reg.PMSTS, 2) == Pm1.PWRBTN
    pm.write(Reg.PMSTS, Pm1.PWRBTN, 2)
    assert edges == [True, False]


def test_status_and_enable_can_be_accessed_together(pm):
    pm.press_power_button()
    pm.write(Reg.PMSTS, Pm1.PWRBTN << 16, 4)
    assert pm.read(Reg.PMSTS, 4) == Pm1.PWRBTN << 16 | Pm1.PWRBTN


def test_timer_overflow_raises_sci(pm, clock, edges):
    pm.write(Reg.PMCNTRL, PmControl.SCI_EN, 2)
    pm.write(Reg.PMEN, Pm1.TMROF, 2)
    half_ns = -(-(1 << 23) * 88_000 // 315)
    clock.advance(half_ns - 1)
    assert edges == []
    clock.advance(1)
    assert edges == [True]
    pm.write(Reg.PMSTS, Pm1.TMROF, 2)
    clock.advance(half_ns)
    assert edges == [True, False, True]


def test_overflow_shows_without_being_enabled(pm, clock):
    clock.advance(3 * NS_PER_S)
    assert pm.read(Reg.PMSTS, 2) == Pm1.TMROF


def test_general_purpose_event_raises_sci(pm, edges):
    pm.write(Reg.PMCNTRL, PmControl.SCI_EN, 2)
    pm.raise_gpe(0x0100)
    assert edges == []
    pm.write(Reg.GPEN, 0x0100, 2)
    assert edges == [True]
    pm.write(Reg.GPSTS, 0x0100, 2)
    assert edges == [True, False]


def test_function_places_the_registers():
    moves = []
    function = PmFunction(lambda bar, base: moves.append(base))
    function.place(0x600)
    function.write_config(0x80, 0, 1)
    function.reset()
    assert moves == [0x600, None]


def test_function_restored_places_the_registers_again():
    moves = []
    placed = PmFunction(lambda bar, base: None)
    placed.place(0x600)
    PmFunction(lambda bar, base: moves.append(base)).restore(placed.state)
    assert moves == [0x600]
