"""What the user said, checked in one place."""

import pytest

from ring3.config import GIB, MIB, MachineConfig, configure
from ring3.config import machine as config
from ring3.errors import ConfigError


@pytest.fixture(autouse=True)
def host_with_16_gib(monkeypatch):
    monkeypatch.setattr(config, "host_memory", lambda: 16 * GIB)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("2G", 2 * GIB),
        ("512MiB", 512 * MIB),
        ("1024K", MIB),
        (" 64 MB ", 64 * MIB),
        ("1048576B", MIB),
        (2 * MIB, 2 * MIB),
    ],
)
def test_memory_sizes(text, size):
    assert MachineConfig(memory=text).memory_bytes == size


@pytest.mark.parametrize(
    "text", ["", "0", "512", "M", "-1G", "1.5G", "1T", "lots", "99999999999999999999M", True, None]
)
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match=r"^memory: .*512M"):
        MachineConfig(memory=text)


@pytest.mark.parametrize("size", [0, "0M", "512K", "65G", -MIB])
def test_memory_outside_1_mib_to_64_gib_is_refused(size):
    with pytest.raises(ConfigError, match=r"^memory: .*(1M and 64G|no size)"):
        MachineConfig(memory=size)


def test_memory_of_broken_pages_is_refused():
    with pytest.raises(ConfigError, match="whole number of 4 KiB pages"):
        MachineConfig(memory=MIB + 1)


def test_more_memory_than_the_host_has_is_refused():
    with pytest.raises(ConfigError, match=r"^memory: 17G is more than this host's 16G"):
        MachineConfig(memory="17G")


def test_an_unknown_setting_names_the_nearest():
    with pytest.raises(ConfigError, match=r"^kernal: no such setting; there is kernel$"):
        configure({"kernal": "vmlinuz"})


@pytest.mark.parametrize(
    ("setting", "value"),
    [("engine", "kvm"), ("firmware", "efi"), ("keyboard", "xx"), ("on_triple_fault", "explode")],
)
def test_a_choice_that_is_none_lists_those_there_are(setting, value):
    with pytest.raises(ConfigError, match=rf"^{setting}: '{value}' is none of "):
        configure({setting: value})


def test_an_initrd_needs_a_kernel():
    with pytest.raises(ConfigError, match=r"^initrd: .*--kernel"):
        MachineConfig(initrd="initrd.gz")


def test_one_serial_port_may_be_said_plainly():
    assert MachineConfig(serial="stdio").serial_ports == ["stdio"]
    assert MachineConfig(serial=["stdio", "none"]).serial_ports == ["stdio", "none"]


def test_two_ports_on_stdio_are_refused():
    with pytest.raises(ConfigError, match="only one port"):
        MachineConfig(serial=["stdio", "stdio"])


def test_five_serial_ports_are_refused():
    with pytest.raises(ConfigError, match="at most 4"):
        MachineConfig(serial=["none"] * 5)


@pytest.mark.parametrize(("value", "port"), [("0xf4", 0xF4), (0x501, 0x501), (None, None)])
def test_debug_exit_ports(value, port):
    assert MachineConfig(debug_exit=value).debug_exit_port == port


@pytest.mark.parametrize("value", ["f4", "0x10000", -1])
def test_a_debug_exit_port_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match=r"^debug_exit: .*0xf4"):
        MachineConfig(debug_exit=value)
