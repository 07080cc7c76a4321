"""The PCI transport of virtio devices, seen through the entropy device, the simplest of them."""

import pytest

from ring3.devices.pci import msix
from ring3.devices.pci.config import Command, Reg
from ring3.devices.virtio.pci import (
    LEGACY_BAR,
    MODERN_BAR,
    MSIX_BAR,
    MSIX_CAPABILITY,
    WINDOW_CAPABILITY,
    WINDOW_DATA,
    Common,
    Feature,
    Legacy,
    Page,
    Status,
)
from ring3.devices.virtio.queue import NO_VECTOR
from ring3.devices.virtio.rng import VirtioRng
from ring3.state import load, record
from virtio_driver import MODERN, Driver, LegacyDriver, Wiring


@pytest.fixture
def wiring(clock):
    return Wiring(clock)


@pytest.fixture
def rng(wiring):
    return VirtioRng(wiring.wires, lambda count: bytes([0xAB]) * count)


@pytest.fixture
def driver(rng, wiring):
    return Driver(rng, wiring.ram)


def capabilities(chip):
    """(offset, bytes) of each, along the list."""
    found = []
    at = chip.read_config(0x34, 1)
    while at:
        found.append((at, bytes(chip.read_config(at + n, 1) for n in range(20))))
        at = found[-1][1][1]
    return found


def enable_msix(chip, driver, *, vector=0x41, entry=1):
    chip.write_config(MSIX_CAPABILITY + 2, msix.Control.ENABLE, 2)
    for at, value in ((0, 0xFEE0_3000), (4, 0), (8, vector), (12, 0)):
        driver.msix.write(16 * entry + at, value, 4)
    driver.set(Common.QUEUE_SELECT, 0, 2)
    driver.set(Common.QUEUE_MSIX_VECTOR, entry, 2)


# --- configuration space ---


def test_it_is_a_transitional_device(rng):
    found = [rng.read_config(at, 2) for at in (Reg.VENDOR, Reg.DEVICE, Reg.SUBSYSTEM)]
    assert found == [0x1AF4, 0x1005, 4]


def test_capabilities_lead_to_every_structure(rng):
    kinds = [data[3] if data[0] == 0x09 else -data[0] for _, data in capabilities(rng)]
    assert kinds == [-0x11, 1, 3, 4, 2, 5]
    where = {data[3]: int.from_bytes(data[8:12], "little") for _, data in capabilities(rng)[1:5]}
    assert where == {1: 0x0000, 3: 0x1000, 4: 0x2000, 2: 0x3000}


def test_regions_are_placed_by_the_driver(rng, wiring):
    for bar, base in ((LEGACY_BAR, 0xC000), (MSIX_BAR, 0xFE00_0000), (MODERN_BAR, 0xFE00_4000)):
        rng.write_config(Reg.BAR0 + 4 * bar, base, 4)
    rng.write_config(Reg.COMMAND, Command.IO | Command.MEMORY, 2)
    assert wiring.moves == [(LEGACY_BAR, 0xC000), (MSIX_BAR, 0xFE00_0000), (MODERN_BAR, 0xFE00_4000)]


def test_configuration_space_has_a_window_to_the_regions(rng):
    rng.write_config(WINDOW_CAPABILITY + 4, MODERN_BAR, 1)
    rng.write_config(WINDOW_CAPABILITY + 8, Common.DEVICE_STATUS, 4)
    rng.write_config(WINDOW_CAPABILITY + 12, 1, 4)
    rng.write_config(WINDOW_DATA, Status.ACKNOWLEDGE, 4)
    assert rng.read_config(WINDOW_DATA, 4) == Status.ACKNOWLEDGE
    assert rng.state.status == Status.ACKNOWLEDGE


def test_a_window_that_leads_nowhere_does_nothing(rng):
    rng.write_config(WINDOW_CAPABILITY + 4, 7, 1)
    rng.write_config(WINDOW_CAPABILITY + 12, 4, 4)
    rng.write_config(WINDOW_DATA, 0xFFFF_FFFF, 4)
    assert rng.read_config(WINDOW_DATA, 4) == 0


# --- status and features ---


def test_features_that_are_not_offered_are_refused(rng, driver):
    driver.set(Common.DEVICE_STATUS, 0, 1)
    driver.set(Common.DRIVER_FEATURE_SELECT, 0, 4)
    driver.set(Common.DRIVER_FEATURE, 1 << 5, 4)
    driver.set(Common.DEVICE_STATUS, Status.FEATURES_OK, 1)
    assert not driver.get(Common.DEVICE_STATUS, 1) & Status.FEATURES_OK


def test_the_offer_is_read_in_two_words(rng, driver):
    words = []
    for word in range(3):
        driver.set(Common.DEVICE_FEATURE_SELECT, word, 4)
        words.append(driver.get(Common.DEVICE_FEATURE, 4))
    assert words == [0x3800_0000, 1, 0]


def test_writing_0_to_the_status_resets_the_device(rng, driver):
    driver.send(0, 16)
    driver.set(Common.DEVICE_STATUS, 0, 1)
    driver.set(Common.QUEUE_SELECT, 0, 2)
    assert (driver.get(Common.DEVICE_STATUS, 1), driver.get(Common.QUEUE_ENABLE, 2)) == (0, 0)
    assert not rng.has(MODERN)


def test_a_broken_queue_needs_a_reset_and_says_so(rng, driver, wiring):
    driver.offer(0, 99)
    assert driver.get(Common.DEVICE_STATUS, 1) & Status.NEEDS_RESET
    assert wiring.edges == [True]
    assert driver.take_isr() == 2
    driver.send(0, 16)
    assert driver.used() == []


def test_a_queue_takes_no_size_that_is_not_a_power_of_two_within_its_limit(rng, driver):
    driver.set(Common.DEVICE_STATUS, 0, 1)
    driver.set(Common.QUEUE_SELECT, 0, 2)
    for size in (3, 16, 0):
        driver.set(Common.QUEUE_SIZE, size, 2)
    assert driver.get(Common.QUEUE_SIZE, 2) == 8


def test_a_queue_that_is_not_there_has_size_0(rng, driver):
    driver.set(Common.QUEUE_SELECT, 1, 2)
    driver.set(Common.QUEUE_ENABLE, 1, 2)
    assert (driver.get(Common.QUEUE_SIZE, 2), driver.get(Common.QUEUE_ENABLE, 2)) == (0, 0)


def test_nothing_is_taken_before_driver_ok(rng, driver):
    driver.set(Common.DEVICE_STATUS, Status.FEATURES_OK, 1)
    driver.send(0, 16)
    assert driver.used() == []
    driver.set(Common.DEVICE_STATUS, Status.FEATURES_OK | Status.DRIVER_OK, 1)
    assert driver.used() == [(0, 16)]


# --- interrupts ---


def test_a_used_buffer_raises_intx_until_the_isr_is_read(driver, wiring):
    driver.send(0, 16)
    assert wiring.edges == [True]
    assert (driver.take_isr(), driver.take_isr()) == (1, 0)
    assert wiring.edges == [True, False]


def test_intx_can_be_turned_off_in_the_command_register(rng, driver, wiring):
    rng.write_config(Reg.COMMAND, Command.MEMORY | Command.INTX_OFF, 2)
    driver.send(0, 16)
    assert wiring.edges == []
    assert rng.read_config(Reg.STATUS, 2) & 0x08


def test_with_msix_a_message_goes_out_instead(rng, driver, wiring):
    enable_msix(rng, driver)
    driver.send(0, 16)
    assert (wiring.messages, wiring.edges) == ([(0x41, 0, 3, False, False)], [])


def test_a_masked_vector_waits(rng, driver, wiring):
    enable_msix(rng, driver)
    driver.msix.write(16 + 12, 1, 4)
    driver.send(0, 16)
    assert (wiring.messages, driver.msix.read(msix.PENDING, 4)) == ([], 2)
    driver.msix.write(16 + 12, 0, 4)
    assert (wiring.messages, driver.msix.read(msix.PENDING, 4)) == ([(0x41, 0, 3, False, False)], 0)


def test_the_function_mask_holds_every_vector(rng, driver, wiring):
    enable_msix(rng, driver)
    rng.write_config(MSIX_CAPABILITY + 2, msix.Control.ENABLE | msix.Control.MASK_ALL, 2)
    driver.send(0, 16)
    assert wiring.messages == []
    rng.write_config(MSIX_CAPABILITY + 2, msix.Control.ENABLE, 2)
    assert len(wiring.messages) == 1


def test_a_message_to_memory_is_a_write(rng, driver, wiring):
    enable_msix(rng, driver, vector=0x1234_5678)
    driver.msix.write(16, 0x800, 4)
    driver.send(0, 16)
    assert (wiring.messages, wiring.ram.read(0x800, 4)) == ([], b"\x78\x56\x34\x12")


def test_a_vector_that_is_not_there_reads_back_as_none(rng, driver):
    driver.set(Common.QUEUE_SELECT, 0, 2)
    driver.set(Common.QUEUE_MSIX_VECTOR, 2, 2)
    assert driver.get(Common.QUEUE_MSIX_VECTOR, 2) == NO_VECTOR


# --- the legacy interface ---


def test_a_legacy_driver_gets_its_buffers(rng, wiring):
    driver = LegacyDriver(rng, wiring.ram)
    (address,) = driver.send(0, 5)
    assert (driver.used(), wiring.ram.read(address, 6)) == ([(0, 5)], b"\xab" * 5 + b"\0")
    assert driver.legacy.read(Legacy.ISR, 1) == 1


def test_a_legacy_driver_sees_32_features(rng, wiring):
    driver = LegacyDriver(rng, wiring.ram, features=0xFFFF_FFFF)
    assert driver.legacy.read(Legacy.DRIVER_FEATURES, 4) == 0x3800_0000
    assert not rng.has(Feature.VERSION_1)


def test_a_legacy_queue_at_page_0_is_none(rng, wiring):
    driver = LegacyDriver(rng, wiring.ram)
    driver.legacy.write(Legacy.QUEUE_ADDRESS, 0, 4)
    driver.send(0, 5)
    assert driver.used() == []


# --- checkpoints ---


def test_a_restored_device_goes_on_where_it_was(rng, driver, wiring, clock):
    driver.send(0, 16)
    driver.offer(0, driver.chain(0, 16)[0], notify=False)
    twin = VirtioRng(wiring.wires, bytes)
    twin.restore(load(type(rng.state), record(rng.state)))
    assert [head for head, _ in driver.used()] == [0, 1]


def test_notifications_come_through_the_doorbell_of_the_queue(rng, driver):
    driver.offer(0, driver.chain(0, 4)[0], notify=False)
    driver.modern.write(Page.NOTIFY * 0x1000 + 4, 0, 2)
    assert driver.used() == []
    driver.notify(0)
    assert driver.used() == [(0, 4)]
