"""`ring3 doctor`: what it makes of what a host says."""

import pytest

from ring3.cli.doctor import GIB, Verdict, cpu, kvm, loops, memory, tool
from ring3.cli.main import invoke

CPUINFO = "processor : 0\nmodel name : Example CPU 3000\n\nprocessor : 1\nmodel name : Example CPU 3000\n"


def test_the_cpu_is_named_with_its_threads():
    assert cpu(CPUINFO).found == "Example CPU 3000, 2 threads"


def test_little_memory_is_answered_with_a_smaller_guest():
    finding = memory("MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n")
    assert finding.verdict is Verdict.ABSENT
    assert "--memory" in finding.remedy


def test_enough_memory_needs_no_remedy():
    kib = 4 * GIB >> 10
    assert memory(f"MemTotal: {kib} kB\nMemAvailable: {kib} kB\n").remedy == ""


@pytest.mark.parametrize("path", ["/no/such/kvm", "/dev/null"])
def test_a_device_that_is_not_kvms_is_not_taken_for_it(path):
    finding = kvm(path)
    assert finding.verdict is Verdict.ABSENT
    assert path in finding.found


def test_a_missing_tool_is_answered_with_the_command_that_brings_it():
    assert tool("no-such-tool", "does things", "package").remedy == "apt-get install package"


def test_the_speed_is_what_the_embedded_guest_measured():
    output = ("loops, ns an iteration                integer    memory     calls\r\n"
              "  real mode                               5.11      7.95     15.86  ok\r\n"
              "  64-bit mode, ring 3                     1.19      5.79      9.53  ok\r\n")
    assert loops(output) == "64-bit mode, ring 3: 1.19 integer, 5.79 memory, 9.53 calls (ns an iteration)"


@pytest.mark.guest
def test_doctor_finds_this_host_fit(capsys):
    assert invoke(["doctor"]) == 0
    assert "engine" in capsys.readouterr().out
