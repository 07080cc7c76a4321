import pytest

from ring3.devices.i8042 import BYTE_NS, I8042, Command, Config, Status
from ring3.devices.ps2_keyboard import PAUSE
from ring3.irq import IrqLine

A = 0x1E


@pytest.fixture
def events():
    return []


@pytest.fixture
def mouse_edges():
    return []


@pytest.fixture
def ps2(clock, irq, mouse_edges, events):
    mouse_irq = IrqLine(mouse_edges.append)
    return I8042(clock, irq, mouse_irq, lambda: events.append("reset"), lambda on: events.append(("a20", on)))


@pytest.fixture
def translated(ps2):
    """As a PC's firmware leaves it."""
    configure(ps2, Config.INT | Config.INT2 | Config.SYS | Config.XLATE)
    return ps2


def configure(ps2, value):
    ps2.command.write(0, 0x60)
    ps2.data.write(0, value)


def drain(ps2, clock):
    """All bytes that come within a tenth of a second, at the pace of a driver that takes them at once."""
    values = []
    for _ in range(200):
        if ps2.command.read(0) & Status.OBF:
            values.append(ps2.data.read(0))
        clock.advance(BYTE_NS)
    return values


def ask(ps2, *command):
    ps2.command.write(0, command[0])
    for value in command[1:]:
        ps2.data.write(0, value)
    assert ps2.command.read(0) & Status.OBF
    return ps2.data.read(0)


def test_self_test_passes_and_sets_the_system_flag(ps2):
    assert ask(ps2, Command.SELF_TEST) == 0x55
    assert ps2.command.read(0) & Status.SYS


def test_interface_tests_pass(ps2):
    assert ask(ps2, Command.TEST_KEYBOARD) == 0
    assert ask(ps2, Command.TEST_AUX) == 0


def test_command_byte_reads_back(ps2):
    configure(ps2, 0x47)
    assert ask(ps2, 0x20) == 0x47


def test_controller_memory_reads_back(ps2):
    ps2.command.write(0, 0x7F)
    ps2.data.write(0, 0xA5)
    assert ask(ps2, 0x3F) == 0xA5


def test_disabling_the_devices_shows_in_the_command_byte(ps2):
    ps2.command.write(0, Command.DISABLE_KEYBOARD)
    ps2.command.write(0, Command.DISABLE_AUX)
    assert ask(ps2, 0x20) == Config.DISABLE | Config.DISABLE2
    ps2.command.write(0, Command.ENABLE_KEYBOARD)
    ps2.command.write(0, Command.ENABLE_AUX)
    assert ask(ps2, 0x20) == 0


def test_status_tells_command_from_data(ps2):
    ps2.command.write(0, Command.ENABLE_AUX)
    assert ps2.command.read(0) & Status.A2
    ps2.data.write(0, 0xEE)
    assert not ps2.command.read(0) & Status.A2


def test_a_key_makes_and_breaks_in_set_1_when_translated(translated, clock):
    translated.keyboard.key(A, True)
    translated.keyboard.key(A, False)
    assert drain(translated, clock) == [0x1E, 0x9E]


def test_a_key_makes_and_breaks_in_set_2_when_not(ps2, clock):
    ps2.keyboard.key(A, True)
    ps2.keyboard.key(A, False)
    assert drain(ps2, clock) == [0x1C, 0xF0, 0x1C]


def test_prefixed_keys_and_pause_translate(translated, clock):
    translated.keyboard.key(0xE04B, True)
    translated.keyboard.key(0xE04B, False)
    translated.keyboard.key(PAUSE, True)
    assert drain(translated, clock) == [0xE0, 0x4B, 0xE0, 0xCB, 0xE1, 0x1D, 0x45, 0xE1, 0x9D, 0xC5]


def test_a_byte_interrupts_until_read(translated, edges):
    translated.keyboard.key(A, True)
    assert edges == [True]
    translated.data.read(0)
    assert edges == [True, False]


def test_a_byte_read_twice_is_the_same(translated):
    translated.keyboard.key(A, True)
    translated.keyboard.key(A, False)
    assert translated.data.read(0) == translated.data.read(0) == 0x1E


def test_the_next_byte_takes_its_time_and_makes_its_own_edge(translated, clock, edges):
    translated.keyboard.key(A, True)
    translated.keyboard.key(A, False)
    translated.data.read(0)
    clock.advance(BYTE_NS - 1)
    assert edges == [True, False]
    clock.advance(1)
    assert edges == [True, False, True]


def test_disabled_keyboard_keeps_its_codes(translated, clock):
    translated.command.write(0, Command.DISABLE_KEYBOARD)
    translated.keyboard.key(A, True)
    assert not translated.command.read(0) & Status.OBF
    translated.command.write(0, Command.ENABLE_KEYBOARD)
    assert drain(translated, clock) == [0x1E]


def test_full_keyboard_reports_one_overrun(ps2, clock):
    ps2.command.write(0, Command.DISABLE_KEYBOARD)
    for n in range(30):
        ps2.keyboard.key(A, n % 2 == 0)
    ps2.command.write(0, Command.ENABLE_KEYBOARD)
    assert drain(ps2, clock) == [0x1C, 0xF0, 0x1C] * 5 + [0x1C, 0x00]


def test_keyboard_reset_passes_its_self_test(ps2, clock):
    ps2.data.write(0, 0xFF)
    assert drain(ps2, clock) == [0xFA, 0xAA]


def test_keyboard_identifies_itself(translated, clock):
    translated.data.write(0, 0xF2)
    assert drain(translated, clock) == [0xFA, 0xAB, 0x41]


def test_untranslated_identity(ps2, clock):
    ps2.data.write(0, 0xF2)
    assert drain(ps2, clock) == [0xFA, 0xAB, 0x83]


def test_leds(ps2, clock):
    ps2.data.write(0, 0xED)
    assert drain(ps2, clock) == [0xFA]
    ps2.data.write(0, 0x04)
    assert drain(ps2, clock) == [0xFA]
    assert ps2.keyboard.leds == 4


def test_scan_code_sets(ps2, clock):
    for number, codes in ((1, [0x1E, 0x9E]), (3, [0x1C, 0xF0, 0x1C]), (2, [0x1C, 0xF0, 0x1C])):
        ps2.data.write(0, 0xF0)
        ps2.data.write(0, number)
        drain(ps2, clock)
        ps2.data.write(0, 0xF0)
        ps2.data.write(0, 0)
        assert drain(ps2, clock)[-1] == number
        ps2.keyboard.key(A, True)
        ps2.keyboard.key(A, False)
        assert drain(ps2, clock) == codes


def test_disabled_scanning_sends_nothing(ps2, clock):
    ps2.data.write(0, 0xF5)
    drain(ps2, clock)
    ps2.keyboard.key(A, True)
    ps2.keyboard.key(A, False)
    assert drain(ps2, clock) == []
    ps2.data.write(0, 0xF4)
    drain(ps2, clock)
    ps2.keyboard.key(A, True)
    assert drain(ps2, clock) == [0x1C]


def test_echo_resend_and_unknown_commands(ps2, clock):
    ps2.data.write(0, 0xEE)
    assert drain(ps2, clock) == [0xEE]
    ps2.data.write(0, 0xFE)
    assert drain(ps2, clock) == [0xEE]
    ps2.data.write(0, 0xEF)
    assert drain(ps2, clock) == [0xFE]


def test_a_command_instead_of_a_parameter_is_a_command(ps2, clock):
    ps2.data.write(0, 0xED)
    ps2.data.write(0, 0xF2)
    assert drain(ps2, clock)[-2:] == [0xAB, 0x83]


def test_a20_by_output_port_and_by_command(ps2, events):
    ps2.command.write(0, Command.WRITE_OUTPUT)
    ps2.data.write(0, 0xDD)
    assert not ask(ps2, Command.READ_OUTPUT) & 0x02
    ps2.command.write(0, Command.ENABLE_A20)
    assert ask(ps2, Command.READ_OUTPUT) & 0x02
    assert events == [("a20", False), ("a20", True)]


def test_pulsing_the_reset_line_resets(ps2, events):
    ps2.command.write(0, 0xFF)
    assert events == []
    ps2.command.write(0, 0xFE)
    assert events == ["reset"]


def test_output_port_without_bit_0_resets(ps2, events):
    ps2.command.write(0, Command.WRITE_OUTPUT)
    ps2.data.write(0, 0x02)
    assert events[-1] == "reset"


def test_bytes_can_be_put_into_the_output_buffer(ps2):
    assert ask(ps2, Command.WRITE_OBF, 0x12) == 0x12
    ps2.command.write(0, Command.WRITE_AUX_OBF)
    ps2.data.write(0, 0x34)
    assert ps2.command.read(0) & Status.AUX_OBF
    assert ps2.data.read(0) == 0x34


def to_mouse(ps2, clock, *values):
    answers = []
    for value in values:
        ps2.command.write(0, Command.WRITE_AUX)
        ps2.data.write(0, value)
        answers += drain(ps2, clock)
    return answers


def test_mouse_reset_and_identity(ps2, clock):
    assert to_mouse(ps2, clock, 0xFF) == [0xFA, 0xAA, 0x00]
    assert to_mouse(ps2, clock, 0xF2) == [0xFA, 0x00]


def test_mouse_packet_has_signs_and_buttons(ps2, clock):
    to_mouse(ps2, clock, 0xF4)
    ps2.mouse.move(-5, 3, 0, 0x01)
    assert drain(ps2, clock) == [0x08 | 0x10 | 0x01, 0xFB, 0x03]


def test_mouse_interrupts_on_its_own_line(translated, clock, edges, mouse_edges):
    to_mouse(translated, clock, 0xF4)
    mouse_edges.clear()
    translated.mouse.move(1, 0, 0, 0)
    assert translated.command.read(0) & Status.AUX_OBF
    assert (edges, mouse_edges) == ([], [True])


def test_mouse_is_silent_until_enabled(ps2, clock):
    ps2.mouse.move(1, 1, 0, 0)
    assert drain(ps2, clock) == []


def test_mouse_movement_adds_up_and_is_not_lost(ps2, clock):
    to_mouse(ps2, clock, 0xF4)
    ps2.command.write(0, Command.DISABLE_AUX)
    for _ in range(3):
        ps2.mouse.move(100, 0, 0, 0)
    ps2.command.write(0, Command.ENABLE_AUX)
    assert drain(ps2, clock) == [0x08, 255, 0, 0x08, 45, 0]


@pytest.mark.parametrize(("rates", "number", "tail"), [((200, 100, 80), 3, 0xFF), ((200, 200, 80), 4, 0x1F)])
def test_mouse_turns_into_one_with_a_wheel(ps2, clock, rates, number, tail):
    for rate in rates:
        to_mouse(ps2, clock, 0xF3, rate)
    assert to_mouse(ps2, clock, 0xF2) == [0xFA, number]
    to_mouse(ps2, clock, 0xF4)
    ps2.mouse.move(0, 0, -1, 0x08)
    assert drain(ps2, clock) == [0x08, 0, 0, tail]


def test_mouse_status_request(ps2, clock):
    to_mouse(ps2, clock, 0xE8, 3, 0xF3, 40, 0xE7, 0xF4)
    ps2.mouse.move(0, 0, 0, 0x01)
    drain(ps2, clock)
    assert to_mouse(ps2, clock, 0xE9) == [0xFA, 0x20 | 0x10 | 0x04, 3, 40]


def test_mouse_in_remote_mode_answers_when_asked(ps2, clock):
    to_mouse(ps2, clock, 0xF0, 0xF4)
    ps2.mouse.move(7, 0, 0, 0)
    assert drain(ps2, clock) == []
    assert to_mouse(ps2, clock, 0xEB) == [0xFA, 0x08, 7, 0]


def test_mouse_in_wrap_mode_echoes(ps2, clock):
    to_mouse(ps2, clock, 0xEE)
    assert to_mouse(ps2, clock, 0x12, 0xF2) == [0x12, 0xF2]
    assert to_mouse(ps2, clock, 0xEC) == [0xFA]
    assert to_mouse(ps2, clock, 0xF2) == [0xFA, 0x00]


# --- what a keyboard does by itself ---


def take(ps2):
    """What is there now, without letting time pass."""
    return ps2.data.read(0) if ps2.command.read(0) & Status.OBF else None


def test_a_key_held_down_repeats_after_the_delay_at_the_rate(translated, clock):
    translated.keyboard.key(A, True)
    assert take(translated) == 0x1E
    clock.advance(499_000_000)
    assert take(translated) is None
    clock.advance(10_000_000)
    assert take(translated) == 0x1E
    clock.advance(92_000_000)           # 10.9 a second
    assert take(translated) == 0x1E


def test_typematic_rate_and_delay_are_the_systems(ps2, clock):
    for value in (0xF3, 0x00):          # 30 a second after 250 ms
        ps2.data.write(0, value)
        drain(ps2, clock)
    ps2.keyboard.key(A, True)
    take(ps2)
    clock.advance(252_000_000)
    assert take(ps2) == 0x1C
    clock.advance(34_000_000)
    assert take(ps2) == 0x1C


def test_the_delay_counts_from_when_the_system_took_the_key(translated, clock):
    translated.keyboard.key(A, True)
    clock.advance(2_000_000_000)
    assert take(translated) == 0x1E
    clock.advance(400_000_000)
    translated.keyboard.key(A, False)
    clock.advance(1_000_000)
    assert take(translated) == 0x9E


def test_a_key_that_came_up_does_not_repeat(translated, clock):
    translated.keyboard.key(A, True)
    translated.keyboard.key(A, False)
    clock.advance(2_000_000_000)
    assert drain(translated, clock) == [0x1E, 0x9E]


def test_the_last_key_pressed_is_the_one_that_repeats(translated, clock):
    translated.keyboard.key(0x2A, True)
    translated.keyboard.key(A, True)
    assert take(translated) == 0x2A
    clock.advance(1_000_000)
    assert take(translated) == A
    clock.advance(510_000_000)
    assert take(translated) == A


def test_pressing_a_key_that_is_down_does_nothing(translated, clock):
    translated.keyboard.key(A, True)
    translated.keyboard.key(A, True)
    assert drain(translated, clock) == [0x1E]


def test_print_screen_with_alt_is_sysrq(translated, clock):
    translated.keyboard.key(0x38, True)
    translated.keyboard.key(0xE037, True)
    translated.keyboard.key(0x38, False)
    translated.keyboard.key(0xE037, False)
    assert drain(translated, clock) == [0x38, 0x54, 0xB8, 0xD4]


def test_pause_with_ctrl_is_break(translated, clock):
    translated.keyboard.key(0x1D, True)
    translated.keyboard.key(PAUSE, True)
    assert drain(translated, clock) == [0x1D, 0xE0, 0x46]


def test_a_nudged_mouse_sends_an_empty_packet(ps2, clock):
    to_mouse(ps2, clock, 0xF4)
    ps2.mouse.nudge()
    assert drain(ps2, clock) == [0x08, 0, 0]
