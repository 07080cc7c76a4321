"""The machine file, the flags and the Python object say the same."""

import dataclasses
from pathlib import Path

import click
import pytest

from ring3.cli.options import FLAGS, machine_options, said
from ring3.config import CdromConfig, DiskConfig, DisplayConfig, FloppyConfig, MachineConfig, configure, toml
from ring3.errors import ConfigError

MACHINES = {
    "default": {},
    "disks": {"disk": ("a.img", DiskConfig("b.img", bus="scsi", readonly=True))},
    "comma": {"disk": DiskConfig("a,b=c.img", format="raw")},
    "cd": {"cdrom": ("x.iso", CdromConfig(bus="ahci")), "floppy": FloppyConfig("dos.img", type="720K")},
    "no cd": {"cdrom": "none"},
    "consoles": {"display": ("browser", DisplayConfig("vnc", "127.0.0.1:5901", "se,cret", view_only=True))},
    "kernel": {"kernel": "vmlinuz", "initrd": "initrd.gz", "append": 'console=ttyS0 a="b c"'},
    "firmware": {"firmware": "uefi", "uefi_variables": "vars", "firmware_log": "file:firmware.log"},
    "lines": {"serial": ("stdio", "file:com2.log"), "parallel": "command:lpr -P x"},
    "numbers": {"memory": "1G", "rtc_start_unix_s": 946684800, "debug_exit": 0xF4, "virtio_rng": True},
    "behaviour": {"reboot": False, "on_triple_fault": "stop", "boot": "cdrom,disk", "keyboard": "de"},
}


@pytest.mark.parametrize("values", MACHINES.values(), ids=MACHINES)
def test_a_machine_file_says_what_the_object_says(values):
    config = configure(values)
    written = toml.dumps(config)
    read = toml.loads(written)
    assert toml.values(read) == toml.values(config)
    for name in ("disks", "cdroms", "floppies", "displays", "memory_bytes", "serial_ports", "boot_order"):
        assert getattr(read, name) == getattr(config, name)


@pytest.mark.parametrize("values", MACHINES.values(), ids=MACHINES)
def test_the_flags_say_what_the_object_says(values):
    config = configure(values)
    read = configure(said(parsed(flags(config))))
    assert toml.values(read) == {name: _typed(name, value) for name, value in toml.values(config).items()}


def flags(config: MachineConfig) -> list[str]:
    arguments = []
    for name, value in toml.values(config).items():
        flag = FLAGS[name].name or f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            arguments.append(flag if value else f"--no-{flag[2:]}")
        else:
            for each in value if isinstance(value, list) else [value]:
                arguments += [flag, str(each)]
    return arguments


def parsed(arguments: list[str]) -> dict[str, object]:
    return dict(machine_options(click.command()(lambda **_: None)).make_context("run", arguments).params)


def _typed(name: str, value: object) -> object:
    return str(value) if name == "debug_exit" else value


def test_every_setting_is_a_flag():
    assert set(FLAGS) == {field.name for field in dataclasses.fields(MachineConfig)}


def test_only_what_is_no_default_is_written():
    assert toml.dumps(MachineConfig(memory="1G")) == 'memory = "1G"\n'


def test_everything_is_written_when_asked_for():
    written = toml.dumps(MachineConfig(), everything=True)
    assert 'memory = "512M"' in written
    assert 'display = "auto"' in written
    assert toml.values(toml.loads(written)) == {}


def test_a_drive_may_be_a_table():
    config = toml.loads('[[disk]]\npath = "a.img"\nbus = "virtio"\n')
    assert config.disks == (DiskConfig("a.img", bus="virtio"),)


def test_relative_paths_are_the_files_directorys(tmp_path):
    (tmp_path / "machine.toml").write_text(
        'disk = "a.img,bus=scsi"\ncdrom = "empty"\nserial = ["file:com1", "stdio"]\n'
        'audio = "wav:a.wav"\nfirmware_log = "file:firmware.log"\n')
    config = toml.load(tmp_path / "machine.toml")
    assert config.disks == (DiskConfig(f"{tmp_path}/a.img", bus="scsi"),)
    assert config.cdroms == (CdromConfig(),)
    assert config.serial_ports == [f"file:{tmp_path}/com1", "stdio"]
    assert config.audio == f"wav:{tmp_path}/a.wav"
    assert config.firmware_log == f"file:{tmp_path}/firmware.log"


def test_paths_in_the_files_directory_are_written_relative():
    config = configure({"disk": ("/vm/a.img", "/else/b.img")})
    assert toml.dumps(config, Path("/vm")) == 'disk = ["a.img", "/else/b.img"]\n'


@pytest.mark.parametrize(("source", "says"), [
    ("memroy = '1G'", "memroy: no such setting; there is memory"),
    ("memory = ", "no TOML"),
    ("memory = 1.5", "memory"),
    ("memory = [1]", "memory"),
    ("append = 5", "append"),
    ("disk = 5", "disk"),
    ("disk = ['a.img', 7]", "disk"),
    ("disk = 'a.img,buss=ide'", "buss; there is bus"),
    ("disk = 'a.img,bus=usb'", "'usb' is none of ide, scsi, ahci, virtio"),
    ("disk = 'a.img,readonly=perhaps'", "give on or off"),
    ("disk = 'a.img,bus'", "give a value"),
    ("disk = ''", "no path"),
    ("disk = 'empty'", "can't be empty"),
    ("disk = ['a', 'b', 'c', 'd', 'e']", "at most 4"),
    ("[[disk]]\nbus = 'ide'", "give its path"),
    ("[[disk]]\npath = 'a'\nbusses = 'ide'", "busses; there is bus"),
    ("floppy = ['a', 'b', 'c']", "at most 2"),
    ("cdrom = 'x.iso,bus=virtio'", "is none of ide, scsi, ahci"),
    ("display = 'hologram'", "is none of auto, browser"),
    ("display = 'window,password=x'", "has no options"),
    ("boot = 'tape'", "'tape' is none of floppy, cdrom"),
    ("usb = ['mouse']", "none of tablet, keyboard"),
    ("sound = 'gus'", "none of sb16, es1371"),
    ("audio = 'mp3'", "host, wav:PATH, none"),
    ("serial = [1]", "neither text"),
    ("parallel = ['none', 'none', 'none', 'none']", "at most 3"),
    ("video_memory = '33M'", "power of two"),
    ("reboot = 'yes'", "neither true nor false"),
    ("rtc_start_unix_s = -1", "no time"),
    ("rtc_start_unix_s = 1979-05-27", "no time"),
    ("debug_exit = [1]", "no I/O port"),
    ("kernel = 'a'\nfirmware = 'bios'", "give one of the two"),
    ("kernel = 3", "no path"),
])
def test_a_mistake_in_a_machine_file_is_named_with_the_file(source, says):
    with pytest.raises(ConfigError) as caught:
        toml.loads(source, "x.toml")
    assert str(caught.value).startswith("x.toml: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_cannot_be_written():
    class Backend:
        def write(self, data: bytes) -> None:
            pass

    with pytest.raises(ConfigError, match="serial: an object"):
        toml.dumps(MachineConfig(serial=Backend()))
