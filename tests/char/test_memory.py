"""The serial port in memory (ring3.char.memory)."""

import threading

import pytest

from ring3.char.memory import KEPT, ExpectError, MemoryBackend


def test_expect_finds_what_was_written():
    console = MemoryBackend()
    console.write(b"Debian GNU/Linux 12\nlogin: ")
    assert console.expect(r"Linux (\d+)")[1] == b"12"


def test_expect_looks_behind_the_last_match():
    console = MemoryBackend()
    console.write(b"# # ")
    console.expect("# ")
    console.expect("# ")
    with pytest.raises(ExpectError):
        console.expect("# ", timeout_s=0)


def test_expect_waits_for_output_of_another_thread():
    console = MemoryBackend()
    guest = threading.Thread(target=console.write, args=(b"ready",))
    guest.start()
    console.expect("ready")
    guest.join()


def test_a_failed_expect_shows_the_end_of_the_output():
    console = MemoryBackend()
    console.write(b"Kernel panic")
    with pytest.raises(ExpectError, match="Kernel panic"):
        console.expect("login:", timeout_s=0)


def test_expect_fails_at_once_when_the_machine_has_ended():
    console = MemoryBackend()
    console.close()
    with pytest.raises(ExpectError, match="the machine has ended"):
        console.expect("login:")


def test_the_last_output_counts_when_the_machine_has_ended():
    console = MemoryBackend()
    console.write(b"Power down")
    console.close()
    console.expect("Power down")


def test_what_is_sent_reaches_the_device(loop, device):
    console = MemoryBackend()
    console.attach(loop, device.receive)
    console.send("root\n")
    loop.run()
    assert device.got == b"root\n"


def test_a_guest_that_never_stops_writing_is_kept_within_bounds():
    console = MemoryBackend()
    for _ in range(2 * KEPT // 65536):
        console.write(bytes(65536))
    assert len(console.output) <= KEPT * 5 // 4
