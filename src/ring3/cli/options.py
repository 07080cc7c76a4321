"""The settings of a machine as flags: each field of MachineConfig is one, and there are no others.

Only what the user said is handed on, so that what isn't said keeps what the machine file has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import click

from ring3.config import MachineConfig, settings
from ring3.config.text import several

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Flag:
    help: str
    metavar: str = ""                   # a choice's are its values
    name: str = ""                      # where it isn't the field's


FLAGS = {
    "memory": Flag("1M to 64G.", "SIZE"),
    "cpu": Flag("CPU model; `help` lists them.", "MODEL"),
    "hypervisor": Flag("What CPUID calls it; vmware: guests use their drivers for VMware's interfaces."),
    "firmware": Flag("What starts the machine; auto: the BIOS, where there is a disk, CD or diskette."),
    "boot": Flag("Where the firmware looks for a system: floppy, cdrom, disk, network.", "KIND[,KIND]…"),
    "boot_menu": Flag("The BIOS asks what to boot."),
    "uefi_variables": Flag("File that keeps UEFI's variables; made if it isn't there.", "FILE"),
    "firmware_log": Flag("Where the firmware's log goes, as --serial has it.", "WHERE"),
    "kernel": Flag("Linux bzImage or Multiboot 1 image, started without firmware.", "FILE"),
    "initrd": Flag("Initial RAM disk of the kernel.", "FILE"),
    "append": Flag("The kernel's command line.", "TEXT"),
    "disk": Flag("Disk image; options: bus=ide|scsi|ahci|virtio, mode=persistent|undoable|nonpersistent, "
                 "cache=…, error=report|pause, readonly, format=…; given again: another.",
                 "FILE[,OPTION]…"),
    "cdrom": Flag("CD or DVD image, `empty`, or `none` for no drive; option: bus=ide|scsi|ahci.",
                  "FILE[,OPTION]…"),
    "floppy": Flag("Diskette image, or `empty`; options: readonly, type=1.44M|…", "FILE[,OPTION]…"),
    "display": Flag("Console: browser, vnc, window, terminal or none; options: address=HOST:PORT|unix:PATH, "
                    "password=…, view_only; given again: another.", "KIND[,OPTION]…"),
    "video_memory": Flag("Of the graphics adapter: 1M to 256M, a power of two.", "SIZE"),
    "font": Flag("Font (PSF, BDF, Unifont) that a guest draws text in, for reading it; given again: another.",
                 "FILE"),
    "keyboard": Flag("The layout that the guest is set to, for typed text: us, de, fr, gb, es, ru or jp.",
                     "LAYOUT"),
    "usb": Flag("USB device: tablet or keyboard.", "DEVICE[,DEVICE]"),
    "sound": Flag("Sound card: sb16 or es1371.", "CARD[,CARD]"),
    "audio": Flag("Where sound goes besides the browser console: host, wav:PATH or none.", "WHERE"),
    "serial": Flag("COM1: stdio, pty, file:PATH, socket:PATH, memory or none; given again: COM2 …", "WHERE"),
    "parallel": Flag("LPT1: file:PATH, device:PATH, command:TEXT or none; given again: LPT2, LPT3.", "WHERE"),
    "virtio_console": Flag("Virtio console: where, as --serial has it.", "WHERE"),
    "virtio_rng": Flag("A virtio source of random numbers."),
    "engine": Flag("How guest code is run."),
    "reboot": Flag("What a guest's reset does: start again, or end the machine."),
    "on_triple_fault": Flag("What a triple fault does to the machine.", name="--triple-fault"),
    "debug_exit": Flag("Wire an isa-debug-exit chip, e.g. at 0xf4.", "PORT"),
    "rtc_start_unix_s": Flag("Time of the real-time clock at the start, in seconds since 1970; else the "
                             "host's.", "SECONDS", "--rtc-start"),
}


def machine_options(command: Command) -> Command:
    """Decorates a verb with IMAGE and the flags of a machine."""
    for name, flag in reversed(FLAGS.items()):
        command = option(name, flag)(command)
    return click.argument("image", required=False)(command)


def option(name: str, flag: Flag) -> Callable[[Command], Command]:
    spelled = flag.name or f"--{name.replace('_', '-')}"
    hint, default = get_type_hints(MachineConfig)[name], settings()[name].default
    if hint is bool:
        return click.option(f"{spelled}/--no-{spelled[2:]}", name, default=None, help=flag.help)
    shown = default_shown(default)
    text = f"{flag.help}  [default: {shown}]" if shown else flag.help
    if name == "rtc_start_unix_s":
        return click.option(spelled, name, type=int, metavar=flag.metavar, help=text)
    metavar = flag.metavar or "|".join(map(str, get_args(hint)))
    callback = print_cpus if name == "cpu" else None
    return click.option(spelled, name, metavar=metavar, multiple=hint is Any, help=text, callback=callback)


def default_shown(default: Any) -> str:
    return ",".join(map(str, several(default))) if default else ""


def print_cpus(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """`--cpu help` lists the models and ends."""
    if value == "help" and not context.resilient_parsing:
        from ring3.machine import import_native  # here: it costs more than most verbs

        for name, description in import_native().cpu_models().items():
            click.echo(f"{name:12}{description}")
        context.exit()
    return value


def said(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the command line has; IMAGE is the first disk."""
    given = {name: value for name, value in values.items() if name in FLAGS and value not in (None, ())}
    if values.get("image"):
        given["disk"] = (values["image"], *given.get("disk", ()))
    return given
