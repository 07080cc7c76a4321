"""The machine's life, with a Python function for a guest."""

import struct
import sys
import threading

import pytest

import fakes
import ring3
from fakes import Exit, FakeVcpu
from ring3 import ConfigError, EngineError, ExitReason, Machine, Result
from ring3.char.memory import MemoryBackend

pytestmark = pytest.mark.usefixtures("native")

PATIENCE_S = 20
MAGIC, FLAGS, LOAD_AT = 0x1BADB002, 0x10003, 0x100000
HEADER = struct.pack(
    "<8I", MAGIC, FLAGS, -(MAGIC + FLAGS) & 0xFFFFFFFF, LOAD_AT, LOAD_AT, 0, 0, LOAD_AT + 0x20
)
KERNEL = HEADER + b"\xf4" * 32
SOFT_OFF = 0x2000


@pytest.fixture
def native(monkeypatch):
    """`ring3._native` is the fake for the time of a test."""
    monkeypatch.setitem(sys.modules, "ring3._native", fakes)
    monkeypatch.setattr(ring3, "_native", fakes, raising=False)


@pytest.fixture
def play(monkeypatch):
    """play(guest) builds a machine that runs it; guests run once per call of `run`."""
    machines = []

    def build(guest, **settings):
        monkeypatch.setattr(FakeVcpu, "guest", staticmethod(guest))
        machine = Machine(**({"memory": "16M", "kernel": KERNEL} | settings))
        machines.append(machine)
        return machine

    yield build
    for machine in machines:
        machine.stop()


def power_off(vcpu):
    vcpu.outw(0x604, SOFT_OFF)
    return Exit.KICKED


def halt(vcpu):
    return Exit.HALT


def spin(vcpu):
    """Interrupts off, never halting: only a kick ends it."""
    while not vcpu.kicked():
        pass
    return Exit.KICKED


def test_a_power_off_ends_the_machine(play):
    assert play(power_off).run() == Result(ExitReason.POWER_OFF)


def test_a_debug_exit_ends_it_with_the_guests_status(play):
    def guest(vcpu):
        vcpu.outb(0xF4, 1)
        return Exit.KICKED

    result = play(guest, debug_exit="0xf4").run()
    assert (result.reason, result.code) == (ExitReason.DEBUG_EXIT, 3)


def test_a_reset_starts_again(play):
    seen = []

    def guest(vcpu):
        seen.append(vcpu.resets)
        if len(seen) == 2:
            return power_off(vcpu)
        vcpu.outb(0xCF9, 0x06)
        return Exit.KICKED

    assert play(guest).run().reason is ExitReason.POWER_OFF
    assert seen == [1, 2]


def test_a_reset_loads_the_kernel_again(play):
    loaded = []

    def guest(vcpu):
        loaded.append(vcpu.vm.writes.pop(0x100000, None))
        if len(loaded) == 2:
            return power_off(vcpu)
        vcpu.outb(0xCF9, 0x06)
        return Exit.KICKED

    play(guest).run()
    assert loaded == [KERNEL, KERNEL]


def test_a_reset_ends_the_machine_without_reboot(play):
    def guest(vcpu):
        vcpu.outb(0xCF9, 0x06)
        return Exit.KICKED

    assert play(guest, reboot=False).run().reason is ExitReason.RESET


def test_the_reset_button_works_from_outside(play):
    halted_again = threading.Event()

    def guest(vcpu):
        if vcpu.resets == 2:
            halted_again.set()
        return Exit.HALT

    with play(guest) as vm:
        vm.reset()
        assert halted_again.wait(PATIENCE_S)


def test_a_triple_fault_resets(play):
    def guest(vcpu):
        return Exit.SHUTDOWN if vcpu.resets == 1 else power_off(vcpu)

    assert play(guest).run().reason is ExitReason.POWER_OFF


def test_a_triple_fault_stops_with_a_report(play):
    result = play(lambda vcpu: Exit.SHUTDOWN, on_triple_fault="stop").run()
    assert result.reason is ExitReason.TRIPLE_FAULT
    assert "rip" in result.report
    assert "nothing is mapped there" in result.report       # the kernel's entry, which the fake does not map


def test_an_engine_error_is_raised_with_its_report(play):
    machine = play(lambda vcpu: Exit.ERROR)
    with pytest.raises(EngineError, match="block 7: RSP lost") as caught:
        machine.run()
    assert "registers follow" in caught.value.report


def test_a_device_that_raises_ends_the_machine(play):
    def guest(vcpu):
        vcpu.inb(0x3FF)
        return Exit.HALT

    machine = play(guest)

    def broken(offset):
        raise RuntimeError("chip bug")

    machine._vm.ports[0x3FF] = (0x3F8, broken, broken, 1)
    with pytest.raises(EngineError, match="chip bug"):
        machine.run()


@pytest.mark.parametrize("guest", [halt, spin])
def test_a_running_guest_can_be_stopped(play, guest):
    machine = play(guest)
    machine.start()
    machine.stop()
    assert machine.wait().reason is ExitReason.STOPPED


def test_a_machine_that_never_ran_can_be_stopped(play):
    play(halt).stop()


def test_wait_gives_none_when_time_is_up(play):
    with play(halt) as vm:
        assert vm.wait(timeout_s=0.01) is None


def test_a_paused_guest_and_its_clock_stand(play):
    with play(spin) as vm:
        vm.pause()
        before = vm.clock.now()
        assert vm.paused
        assert vm.clock.now() == before
        vm.resume()
        assert not vm.paused


def test_the_tsc_stands_while_paused(play):
    with play(spin) as vm:
        vm.pause()
        vm.vcpu.tsc_now += 5000
        vm.resume()
    assert vm.vcpu.skipped == 5000


def test_a_paused_machine_can_be_stopped(play):
    with play(halt) as vm:
        vm.pause()
    assert vm.wait().reason is ExitReason.STOPPED


def test_serial_output_can_be_expected(play):
    def guest(vcpu):
        for byte in b"hello\r\n":
            vcpu.outb(0x3F8, byte)
        return power_off(vcpu)

    machine = play(guest)
    machine.start()
    machine.serial[0].expect("hello", PATIENCE_S)
    machine.wait()


def test_serial_input_reaches_the_guest(play):
    echoed = []

    def guest(vcpu):
        vcpu.outb(0x3FB, 0x03)
        while not vcpu.kicked():
            if vcpu.inb(0x3FD) & 1:
                echoed.append(vcpu.inb(0x3F8))
                return power_off(vcpu)
        return Exit.KICKED

    with play(guest) as vm:
        vm.serial[0].send("A")
        assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF
    assert echoed == [0x41]


def test_timers_run_while_the_guest_halts(play):
    def guest(vcpu):
        if vcpu.intr:
            assert vcpu.acknowledge() == 0x08
            return power_off(vcpu)
        vcpu.outb(0x21, 0xFE)
        return Exit.HALT

    with play(guest) as vm:
        assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF


def test_the_power_button_interrupts_the_guest(play):
    ready = threading.Event()

    def guest(vcpu):
        if vcpu.intr:
            return power_off(vcpu)
        vcpu.outb(0xA1, 0xFD)
        vcpu.outb(0x21, 0xFB)
        vcpu.outb(0xB2, 0xF1)
        vcpu.outw(0x602, 0x0100)
        ready.set()
        return Exit.HALT

    with play(guest) as vm:
        assert ready.wait(PATIENCE_S)
        vm.power_off()
        assert vm.wait(PATIENCE_S).reason is ExitReason.POWER_OFF


def test_the_cpu_starts_at_the_kernels_entry(play):
    machine = play(halt)
    assert machine.vcpu.register_values["rip"] == 0x100020
    assert machine.vcpu.register_values["rax"] == 0x2BADB002


def test_the_8259s_reach_the_cpu_through_lint0(play):
    apic = play(halt).vcpu.local_apic
    assert apic[0x350] == 0x700
    assert apic[0x0F0] & 0x100


def test_the_rom_has_the_acpi_root_pointer_and_an_alias_below_4_gib(play):
    roms = play(halt)._vm.roms
    assert roms[0xF0000].startswith(b"RSD PTR ")
    assert roms[0xFFFF0000] == roms[0xF0000]


def test_guest_memory_can_be_read_and_written(play):
    machine = play(halt)
    machine.memory.write(0x5000, b"abc")
    assert machine.memory.read(0x5000, 3) == b"abc"


def test_a_backend_of_the_users_own_is_used(play):
    console = MemoryBackend()
    assert play(halt, serial=console).serial == [console]


def test_auto_means_translate(play):
    assert play(halt).vcpu.engine == "translate"
    assert play(halt, engine="interp").vcpu.engine == "interp"


# --- what a user can get wrong ---


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"kernel": "/nowhere/vmlinuz"}, "^kernel: /nowhere/vmlinuz: No such file"),
        ({"kernel": "/"}, "^kernel: /: Is a directory"),
        ({"kernel": "a\0b"}, "^kernel: "),
        ({"kernel": "/dev/zero"}, "^kernel: /dev/zero is no regular file"),
        ({"kernel": KERNEL, "initrd": "/nowhere/initrd"}, "^initrd: /nowhere/initrd: No such file"),
        ({"kernel": b""}, "^kernel kernel is empty"),
        ({"kernel": KERNEL, "cpu": "z80"}, "^cpu: 'z80' is no CPU model: give one of max"),
        ({"kernel": KERNEL, "serial": "modem"}, "^serial 'modem'"),
        ({"kernel": KERNEL, "memory": "2M", "initrd": bytes(4 << 20)}, "raise --memory"),
    ],
)
def test_a_users_mistake_is_one_line(settings, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        Machine(**settings)
    assert "\n" not in str(caught.value)


def test_a_truncated_initrd_ends_the_machine_with_the_reason(play):
    import gzip

    machine = play(halt, initrd=gzip.compress(b"x" * 1000)[:-1])
    with pytest.raises(ConfigError, match=r"^initrd initrd is truncated"):
        machine.run()


def test_a_kernel_that_vanishes_before_a_reset_ends_the_machine(play, tmp_path):
    kernel = tmp_path / "kernel"
    kernel.write_bytes(KERNEL)

    def guest(vcpu):
        kernel.unlink()
        vcpu.outb(0xCF9, 0x06)
        return Exit.KICKED

    with pytest.raises(ConfigError, match="No such file"):
        play(guest, kernel=str(kernel)).run()


def test_a_machine_starts_once(play):
    machine = play(power_off)
    machine.run()
    with pytest.raises(ConfigError, match="build a new one"):
        machine.start()


def test_a_config_and_settings_exclude_each_other():
    from ring3 import MachineConfig

    with pytest.raises(ConfigError, match="not both"):
        Machine(MachineConfig(kernel=KERNEL), memory="1G")
