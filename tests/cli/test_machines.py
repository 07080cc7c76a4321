"""Machines in the background, as scripts use them: real processes, with the embedded guest."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ring3
from ring3.control import home

pytestmark = pytest.mark.guest

GREETING = "All tests passed"


def ring3_command(*arguments, status=0, **options):
    """Runs `ring3 …`, which must end with that status; returns what it printed."""
    process = subprocess.run([sys.executable, "-m", "ring3", *map(str, arguments)], capture_output=True,
                             text=True, check=False, timeout=50, stdin=subprocess.DEVNULL, **options)
    assert process.returncode == status, process.stderr
    assert "Traceback" not in process.stderr
    return process.stdout if status == 0 else process.stderr


def machines():
    return {machine["name"]: machine for machine in json.loads(ring3_command("ps", "--json"))}


@pytest.fixture(autouse=True)
def nothing_left_running():
    yield
    for directory in home.machines():
        state = directory.state()
        if directory.running and state is not None:
            os.kill(state.pid, signal.SIGKILL)


def test_a_machine_lives_in_the_background():
    ring3_command("new", "a", "--memory", "64M")
    assert machines()["a"]["state"] == "stopped"
    ring3_command("start", "a")
    found = machines()["a"]
    assert found["state"] == "running"
    assert found["memory_bytes"] == 64 << 20
    os.kill(found["pid"], 0)
    ring3_command("pause", "a")
    assert machines()["a"]["state"] == "paused"
    ring3_command("resume", "a")
    ring3_command("stop", "a", "--force")
    found = machines()["a"]
    assert found["state"] == "stopped"
    assert found["ending"]["reason"] == "stopped"
    ring3_command("rm", "a")
    assert machines() == {}


def test_start_without_new_makes_a_machine_for_this_once():
    ring3_command("start", "a", "--append", "once")
    while home.named("a").running:
        pass
    assert not home.named("a").path.exists()


def test_a_guest_that_powers_off_ends_the_process():
    ring3_command("new", "a", "--append", "once")
    ring3_command("start", "a")
    directory = home.named("a")
    try:
        with ring3.connect("a") as vm:
            assert vm.wait(timeout_s=40).reason is ring3.ExitReason.POWER_OFF
    except ring3.VmError:
        pass                                        # it was faster
    while directory.running:
        pass
    assert directory.state().ending.reason == "power off"


def test_two_machines_run_at_once():
    for name in "ab":
        ring3_command("start", name, "--memory", "32M")
    assert [machine["state"] for machine in machines().values()] == ["running", "running"]
    with ring3.connect("a") as a, ring3.connect("b") as b:
        for vm in (a, b):
            vm.serial[0].expect(GREETING, timeout_s=50)
        a.serial[0].send("only this")
        a.serial[0].expect("only this")
        a.stop()
        assert b.info()["state"] == "running"
        assert b"only this" not in b.serial[0].output
        b.stop()
    assert machines() == {}


def test_a_killed_machine_starts_again_without_a_hand():
    ring3_command("new", "a")
    ring3_command("start", "a")
    os.kill(machines()["a"]["pid"], signal.SIGKILL)
    while home.named("a").running:
        pass
    assert machines()["a"]["state"] == "killed"
    assert "a does not run: start it: ring3 start a" in ring3_command("pause", "a", status=1)
    ring3_command("start", "a")
    assert machines()["a"]["state"] == "running"
    ring3_command("stop", "a", "--force")


def test_sigterm_ends_a_background_machine():
    ring3_command("start", "a")
    with home.named("a").connect() as connection:
        os.kill(machines()["a"]["pid"], signal.SIGTERM)
        assert connection.recv(1) == b""
    assert machines() == {}


def test_a_machine_that_cannot_start_says_why_and_is_gone():
    error = ring3_command("start", "a", "--kernel", "/no/such/vmlinuz", status=2)
    assert error == "ring3: kernel: /no/such/vmlinuz: No such file or directory: " \
                    "give the path of a readable file\n"
    assert machines() == {}


def test_a_description_that_is_wrong_is_named():
    ring3_command("new", "a")
    home.named("a").config_file.write_text("memroy = '1G'\n")
    assert "memroy: no such setting; there is memory" in ring3_command("start", "a", status=2)
    assert "memroy" in ring3_command("config", "a", status=2)


def test_starting_twice_is_a_mistake():
    ring3_command("start", "a")
    assert "a runs already" in ring3_command("start", "a", status=2)
    assert "a runs: stop it first" in ring3_command("rm", "a", status=2)


def test_of_two_that_start_one_machine_one_wins():
    ring3_command("new", "a")
    statuses = []

    def start():
        process = subprocess.run([sys.executable, "-m", "ring3", "start", "a"], check=False,
                                 stderr=subprocess.DEVNULL)
        statuses.append(process.returncode)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [0, 2]
    assert machines()["a"]["state"] == "running"


def test_config_prints_what_new_was_told(tmp_path):
    ring3_command("new", "a", "disk.img", "--memory", "1G", "--cdrom", "x.iso,bus=ahci", cwd=tmp_path)
    assert ring3_command("config", "a") == (
        f'memory = "1G"\ndisk = "{tmp_path}/disk.img"\ncdrom = "{tmp_path}/x.iso,bus=ahci"\n')
    assert 'keyboard = "us"' in ring3_command("config", "a", "--all")


def test_options_of_start_are_for_that_run_only():
    ring3_command("new", "a", "--memory", "64M")
    ring3_command("start", "a", "--memory", "32M")
    assert machines()["a"]["memory_bytes"] == 32 << 20
    assert ring3_command("config", "a") == 'memory = "64M"\n'


def test_logs_have_the_starts_and_the_errors():
    ring3_command("new", "a", "--cpu", "i986")
    ring3_command("start", "a", status=2)
    log = ring3_command("logs", "a")
    assert "process" in log
    assert "i986" in log


def test_serial_through_pipes():
    ring3_command("start", "a")
    with subprocess.Popen([sys.executable, "-m", "ring3", "serial", "a"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        while GREETING.encode() not in process.stdout.readline():
            pass
        process.stdin.write(b"hello\nq")            # q powers the guest off
        process.stdin.flush()
        rest, _ = process.communicate(timeout=40)
    assert b"hello" in rest
    assert process.returncode == 0


def test_a_foreground_machine_can_be_reached_by_name(tmp_path):
    with subprocess.Popen([sys.executable, "-m", "ring3", "run", "--name", "front"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        while GREETING.encode() not in process.stdout.readline():
            pass
        assert machines()["front"]["state"] == "running"
        ring3_command("stop", "front", "--force")
        process.communicate()
        assert process.returncode == 0
    assert machines() == {}


def test_runs_of_one_image_have_different_names():
    with ring3_run() as first, ring3_run() as second:
        assert set(machines()) == {"guest", "guest-2"}
        for process in (first, second):
            process.communicate(b"q")
    assert machines() == {}


def ring3_run():
    process = subprocess.Popen([sys.executable, "-m", "ring3", "run"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    while b"Keys are echoed" not in process.stdout.readline():
        pass
    return process


def test_a_home_that_cannot_be_written_does_not_keep_run_from_running(tmp_path):
    (tmp_path / "file").write_text("")
    process = subprocess.run([sys.executable, "-m", "ring3", "run", "--append", "once"], check=False,
                             capture_output=True, text=True, stdin=subprocess.DEVNULL,
                             env=os.environ | {"RING3_HOME": str(tmp_path / "file")})
    assert process.returncode == 0
    assert "other commands can't reach this machine" in process.stderr


def test_a_machine_that_shuts_down_too_slowly_is_left_running():
    ring3_command("start", "a")                     # the embedded guest knows no power button
    error = ring3_command("stop", "a", "--timeout", "0.1", status=1)
    assert "a is not off after 0.1 s: ring3 stop a --force" in error
    assert machines()["a"]["state"] == "running"


def test_garbage_on_the_control_socket_does_not_stop_the_guest():
    ring3_command("start", "a")
    with home.named("a").connect() as hostile, contextlib.suppress(BrokenPipeError):
        hostile.sendall(b"\x00" * 100 + b"\n" + b"x" * (2 << 20))
    with ring3.connect("a") as vm:
        vm.serial[0].expect(GREETING, timeout_s=50)


def test_a_copied_directory_is_another_machine(own_home):
    ring3_command("new", "a", "--append", "once")
    subprocess.run(["cp", "-a", own_home / "machines/a", own_home / "machines/b"], check=True)
    assert set(machines()) == {"a", "b"}
    assert ring3_command("config", "b") == 'append = "once"\n'


@pytest.mark.parametrize(("arguments", "says"), [
    (("pause", "nobody"), "no machine is called nobody; there are none: ring3 new NAME makes one"),
    (("start", "a/b"), "no machine's name"),
    (("new", ".."), "no machine's name"),
    (("new", "a", "--memory", "0"), "memory"),
    (("rm",), "NAME"),
    (("mouse", "a", "x", "1"), "x"),
    (("strat", "a"), "did you mean start"),
    (("start", "a", "--serial", "stdio"), "in the background there is no stdio"),
    (("start", "a", "--display", "terminal"), "in the background there is no terminal"),
    (("wait", "a", "text", "--timeout", "-1"), "--timeout"),
])
def test_mistakes_are_one_line(arguments, says):
    error = ring3_command(*arguments, status=2)
    assert says in error
    assert error.count("\n") == 1


def test_every_verb_is_documented():
    document = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text()
    from ring3.cli.main import VERBS

    assert {verb for verb in VERBS if f"ring3 {verb}" not in document} == set()
