import pytest

from ring3.devices.pic import I8259Pair, Icw4, Ocw2, Ocw3


def initialize(chip, base, icw4=0x01):
    chip.write(0, 0x11)
    chip.write(1, base)
    chip.write(1, 0x04)
    chip.write(1, icw4)


@pytest.fixture
def pic(edges):
    pair = I8259Pair(edges.append)
    initialize(pair.primary, 0x20)
    initialize(pair.secondary, 0x28)
    return pair


def eoi(*chips):
    for chip in chips:
        chip.write(0, Ocw2.EOI)


def test_a_rising_line_raises_intr_and_gives_its_vector(pic, edges):
    pic.line[4].set(True)
    assert edges == [True]
    assert pic.acknowledge() == 0x24
    assert edges == [True, False]


def test_secondary_interrupts_come_through_the_cascade(pic):
    pic.line[12].set(True)
    assert pic.acknowledge() == 0x2C
    assert (pic.primary.state.isr, pic.secondary.state.isr) == (0x04, 0x10)


def test_masked_line_waits_until_unmasked(pic, edges):
    pic.primary.write(1, 0x10)
    pic.line[4].set(True)
    assert edges == []
    pic.primary.write(1, 0x00)
    assert edges == [True]


def test_a_masked_line_is_deaf_once_its_edge_is_latched(pic):
    pic.primary.write(1, 0x01)
    assert pic.line[0].heard
    pic.line[0].set(True)
    assert not pic.line[0].heard
    assert pic.line[1].heard
    pic.primary.write(1, 0x00)
    assert pic.line[0].heard


def test_an_edge_is_acknowledged_once(pic, edges):
    pic.line[4].set(True)
    pic.acknowledge()
    eoi(pic.primary)
    assert edges == [True, False]
    pic.line[4].set(False)
    pic.line[4].set(True)
    assert edges == [True, False, True]


def test_a_level_interrupts_again_after_eoi(pic, edges):
    pic.elcr.write(0, 0x20)
    pic.line[5].set(True)
    pic.acknowledge()
    eoi(pic.primary)
    assert edges == [True, False, True]
    pic.line[5].set(False)
    assert edges[-1] is False


def test_elcr_keeps_system_interrupts_edge_triggered(pic):
    pic.elcr.write(0, 0xFF)
    pic.elcr.write(1, 0xFF)
    assert (pic.elcr.read(0), pic.elcr.read(1)) == (0xF8, 0xDE)


def test_in_service_blocks_lower_and_lets_higher_through(pic, edges):
    pic.line[3].set(True)
    pic.acknowledge()
    pic.line[6].set(True)
    assert edges == [True, False]
    pic.line[1].set(True)
    assert pic.acknowledge() == 0x21
    eoi(pic.primary)
    eoi(pic.primary)
    assert pic.acknowledge() == 0x26


def test_request_gone_before_acknowledge_is_spurious_7(pic):
    pic.line[4].set(True)
    pic.line[4].set(False)
    assert pic.acknowledge() == 0x27
    assert pic.primary.state.isr == 0


def test_spurious_15_leaves_the_primary_in_service(pic):
    pic.line[9].set(True)
    pic.secondary.state.imr = 0xFF  # masked between INT and INTA
    assert pic.acknowledge() == 0x2F
    assert (pic.primary.state.isr, pic.secondary.state.isr) == (0x04, 0)


def test_second_secondary_request_follows_after_both_eois(pic, edges):
    pic.line[12].set(True)
    pic.acknowledge()
    pic.line[8].set(True)
    eoi(pic.secondary, pic.primary)
    assert edges[-1] is True
    assert pic.acknowledge() == 0x28


def test_specific_eoi_ends_the_named_level(pic):
    pic.line[3].set(True)
    pic.acknowledge()
    pic.line[1].set(True)
    pic.acknowledge()
    pic.primary.write(0, Ocw2.EOI | Ocw2.SL | 3)
    assert pic.primary.state.isr == 0x02


def test_automatic_eoi_leaves_nothing_in_service(pic):
    initialize(pic.primary, 0x20, 0x01 | Icw4.AEOI)
    pic.line[4].set(True)
    pic.acknowledge()
    assert pic.primary.state.isr == 0


def test_rotation_in_automatic_eoi_makes_the_served_level_lowest(pic):
    initialize(pic.primary, 0x20, 0x01 | Icw4.AEOI)
    pic.primary.write(0, Ocw2.R)
    pic.line[4].set(True)
    pic.acknowledge()
    pic.line[4].set(False)
    pic.line[4].set(True)
    pic.line[5].set(True)
    assert pic.acknowledge() == 0x25


def test_rotate_on_eoi_makes_the_ended_level_lowest(pic):
    pic.line[3].set(True)
    pic.acknowledge()
    pic.primary.write(0, Ocw2.R | Ocw2.EOI)
    assert pic.primary.state.lowest == 3


def test_set_priority_orders_requests(pic):
    pic.primary.write(0, Ocw2.R | Ocw2.SL | 4)  # IR5 is now highest
    pic.line[0].set(True)
    pic.line[5].set(True)
    assert pic.acknowledge() == 0x25
    pic.line[4].set(True)
    pic.primary.write(0, Ocw2.EOI)
    assert pic.acknowledge() == 0x20


def test_special_mask_lets_lower_levels_through(pic, edges):
    pic.line[1].set(True)
    pic.acknowledge()
    pic.line[6].set(True)
    pic.primary.write(1, 0x02)
    assert edges[-1] is False
    pic.primary.write(0, Ocw3.OCW3 | Ocw3.ESMM | Ocw3.SMM)
    assert pic.acknowledge() == 0x26
    pic.primary.write(0, Ocw2.EOI)
    assert pic.primary.state.isr == 0x02


def test_special_fully_nested_mode_lets_a_higher_secondary_request_nest(pic):
    initialize(pic.primary, 0x20, 0x01 | Icw4.SFNM)
    pic.line[12].set(True)
    pic.acknowledge()
    pic.line[8].set(True)
    assert pic.primary.out.level
    assert pic.acknowledge() == 0x28


def test_poll_takes_the_request_like_an_acknowledge(pic):
    pic.line[6].set(True)
    pic.primary.write(0, Ocw3.OCW3 | Ocw3.P)
    assert pic.primary.read(0) == 0x86
    assert pic.primary.state.isr == 0x40
    pic.primary.write(0, Ocw3.OCW3 | Ocw3.P)
    assert pic.primary.read(0) == 0


def test_ocw3_selects_irr_or_isr(pic):
    pic.line[6].set(True)
    assert pic.primary.read(0) == 0x40
    pic.acknowledge()
    pic.primary.write(0, Ocw3.OCW3 | Ocw3.RR | Ocw3.RIS)
    assert pic.primary.read(0) == 0x40
    pic.primary.write(0, Ocw3.OCW3 | Ocw3.RR)
    assert pic.primary.read(0) == 0


def test_icw1_clears_mask_and_edges_but_not_elcr(pic):
    pic.elcr.write(0, 0x20)
    pic.primary.write(1, 0xFF)
    pic.line[4].set(True)
    initialize(pic.primary, 0x40)
    assert pic.primary.read(1) == 0
    assert pic.primary.read(0) == 0
    assert pic.elcr.read(0) == 0x20


def test_icw4_is_expected_only_when_announced(pic):
    pic.primary.write(0, 0x10)
    pic.primary.write(1, 0x08)
    pic.primary.write(1, 0x04)
    pic.primary.write(1, 0xAA)  # already OCW1
    assert pic.primary.read(1) == 0xAA


def test_single_mode_expects_no_icw3(pic):
    pic.primary.write(0, 0x13)
    pic.primary.write(1, 0x08)
    pic.primary.write(1, 0x01)
    pic.primary.write(1, 0xAA)
    assert pic.primary.read(1) == 0xAA


def test_restored_driver_makes_no_second_edge(pic):
    pic.line[4].set(True)
    pic.acknowledge()
    saved = pic.state
    twin = I8259Pair(lambda level: None)
    twin.restore(saved)
    twin.line[4].set(True)
    assert twin.primary.state.latched == 0
