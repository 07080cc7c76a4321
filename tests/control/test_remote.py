"""RemoteMachine: the face of a machine, through the socket."""

import threading

import pytest

from ring3 import ConfigError, EngineError, ExitReason, ExpectError, HostError, Result, WaitError
from ring3.control.remote import RemoteMachine


def test_the_screens_text(host, vm):
    host.machine.source.print("login:", row=3)
    assert vm.screen.text().splitlines()[3] == "login:"


def test_the_screens_cells(host, vm):
    host.machine.source.print("A")
    assert vm.screen.cells() == host.machine.screen.cells()


def test_the_screens_picture(host, vm):
    host.machine.source.draw_pixels(2, 1, bytes([1, 2, 3, 0, 4, 5, 6, 0]))
    assert vm.screen.size == (2, 1)
    assert [vm.screen.image().getpixel((x, 0)) for x in (0, 1)] == [(3, 2, 1), (6, 5, 4)]


def test_a_wait_for_what_is_there_returns_at_once(host, vm):
    host.machine.source.print("login:")
    assert vm.screen.wait("login:", timeout_s=0)[0] == "login:"


def test_a_wait_ends_when_the_text_comes(host, vm):
    timer = threading.Timer(0.05, host.machine.source.print, ["debian login:"])
    timer.start()
    assert vm.screen.wait(r"^(\w+) login:", regex=True, timeout_s=30)[1] == "debian"
    timer.join()


def test_a_wait_in_vain_shows_the_screen(host, vm):
    host.machine.source.print("Kernel panic")
    with pytest.raises(WaitError, match=r"(?s)waited 0.05 s.*Kernel panic"):
        vm.screen.wait("login:", timeout_s=0.05)


def test_a_wait_ends_with_the_machine(host, vm):
    threading.Timer(0.05, lambda: (host.end(), host.machine.source.print("x"))).start()
    with pytest.raises(WaitError, match="the machine has ended"):
        vm.screen.wait("login:", timeout_s=30)


def test_keyboard_and_mouse(host, vm):
    vm.keyboard.type("Grüße", "de")
    vm.keyboard.press("enter", "ctrl-alt-del")
    vm.keyboard.key(0x1E, True)
    vm.mouse.move(3, 4)
    vm.mouse.click("right")
    vm.mouse.scroll(-1)
    names = [call[0] for call in host.machine.calls]
    assert names == ["type", "press", "key", "move", "click", "scroll"]
    assert host.machine.calls[0][1:3] == ("Grüße", "de")
    assert vm.keyboard.leds == 2
    assert vm.mouse.absolute


def test_a_long_text_is_typed_in_parts(host, vm):
    vm.keyboard.type("x" * 2500)
    assert [len(call[1]) for call in host.machine.calls] == [1000, 1000, 500]


def test_power(host, vm):
    vm.pause()
    assert vm.paused
    vm.resume()
    assert not vm.paused
    vm.reset()
    assert host.machine.calls == ["reset"]
    assert vm.stats() == {"blocks": 7}


def test_its_description(host, vm):
    assert vm.config.memory == "64M"


def test_errors_are_raised_as_in_the_machines_own_process(host, vm):
    with pytest.raises(ConfigError, match="no such removable drive"):
        vm.insert("cdrom9", "/x.iso")
    with pytest.raises(EngineError, match="a bug"):
        vm.power_off()


def test_a_medium_is_named_by_its_absolute_path(host, vm, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    vm.insert("cdrom0", "x.iso")
    vm.eject("cdrom0", force=True)
    assert host.machine.calls == [("insert", f"{tmp_path}/x.iso", False), ("eject", "cdrom0", True)]


def test_serial_output_is_expected_from_the_first_byte_on(host, vm):
    host.machine.serial[0].write(b"boot\r\nlogin: ")
    assert vm.serial[0].expect(rb"lo(gin)")[1] == b"gin"
    timer = threading.Timer(0.05, host.machine.serial[0].write, [b"Password: "])
    timer.start()
    vm.serial[0].expect("Password", timeout_s=30)
    timer.join()
    assert vm.serial[0].output == b"boot\r\nlogin: Password: "


def test_serial_output_that_does_not_come_shows_what_did(host, vm):
    host.machine.serial[0].write(b"panic")
    with pytest.raises(ExpectError, match=r"(?s)waited 0.05 s.*panic"):
        vm.serial[0].expect("login", timeout_s=0.05)


def test_serial_output_ends_with_the_machine(host, vm):
    threading.Timer(0.05, host.end).start()
    with pytest.raises(ExpectError, match="the machine has ended"):
        vm.serial[0].expect("login", timeout_s=30)


def test_much_serial_output_comes_in_parts(host, vm):
    host.machine.serial[0].write(b"x" * 1_000_000)
    assert len(vm.serial[0].output) == 1_000_000


def test_serial_input_is_typed(host, vm):
    got = bytearray()

    def receive(data):
        got.extend(data)
        return len(data)

    host.machine.serial[0].attach(host.machine.loop, receive)
    vm.serial[0].send("root\n")
    vm.info()
    host.machine._in_loop(lambda: None)
    assert got == b"root\n"


def test_serial_input_that_nobody_reads_is_refused_in_time(host, vm):
    for _ in range(3):
        host.machine.serial[0].send(b"x" * 40_000)
    with pytest.raises(TimeoutError):
        vm.serial[0].send("more", timeout_s=0)


def test_a_port_that_is_connected_elsewhere_is_named(host, vm):
    with pytest.raises(ConfigError, match="serial port 2 is connected elsewhere"):
        vm.serial[1].expect("x")


def test_its_end_is_waited_for(host, vm):
    assert vm.wait(timeout_s=0) is None
    threading.Timer(0.05, host.end, [Result(ExitReason.DEBUG_EXIT, 3)]).start()
    assert vm.wait(timeout_s=30) == Result(ExitReason.DEBUG_EXIT, 3)


def test_a_machine_that_does_not_run_is_named(host):
    host.server.farewell()
    host.directory.socket_file.unlink()
    with pytest.raises(Exception, match="fake does not run: start it: ring3 start fake"):
        RemoteMachine("fake")


def test_stopping_waits_for_the_process(host, vm):
    threading.Timer(0.05, host.server.stop).start()
    vm.stop()
    assert host.machine.calls == ["request_stop"]
    host.server.stop = lambda: None


def test_an_answer_that_never_comes_is_a_host_error(host, vm, monkeypatch):
    hold = threading.Event()
    monkeypatch.setattr(host.machine, "stats", hold.wait)
    monkeypatch.setattr("ring3.control.client.SLACK_S", 0.0)
    with pytest.raises(HostError, match="did not answer within"):
        vm.client.call("machine.stats", within_s=0.05)
    hold.set()
