"""The firmware that a configuration asks for: images of the host, and the file of UEFI's variables."""

from collections.abc import Mapping
from typing import Any

from ring3.boards import pc
from ring3.config import MachineConfig
from ring3.disk import Image, open_image
from ring3.errors import ConfigError
from ring3.firmware import find


class Roms:
    """`settings` are those of the board; `close` gives the variables' file back."""

    def __init__(self, config: MachineConfig, saved: Mapping[str, Any] | None = None) -> None:
        """`saved`: the images that a restored machine had, "rom" and "option_roms"."""
        self._variables: Image | None = None
        self.settings: dict[str, Any] = {}
        if saved is not None and config.starts_with != "uefi":
            self.settings = dict(saved)
        elif config.starts_with == "bios":
            vga = find.seabios(find.VGA_BIOS)
            self.settings = {"rom": find.seabios(find.BIOS), "option_roms": {pc.VGA_ROM: vga}}
        elif config.starts_with == "kernel" and find.present(find.VGA_BIOS):
            # Not run, but the screen's font is in it.
            self.settings = {"option_roms": {pc.VGA_ROM: find.seabios(find.VGA_BIOS)}}
        elif config.starts_with == "uefi":
            self.settings = {"rom": find.ovmf(find.OVMF), "flash": self._flash(config.uefi_variables)}
            self.settings |= saved or {}

    def close(self) -> None:
        if self._variables is not None:
            self._variables.close()

    def _flash(self, path: str) -> pc.Flash:
        """Contents from the file, which starts as the firmware's own."""
        empty = find.ovmf(find.OVMF_VARIABLES)
        if not path:
            return pc.Flash(empty, lambda offset, data: None)
        create(path, empty)
        image = open_image(path, format="raw", setting="uefi_variables")
        if image.size_bytes != len(empty):
            size = image.size_bytes
            image.close()
            raise ConfigError(
                f"uefi_variables: {path} has {size} bytes, but this firmware's variables have {len(empty)}: "
                "give another name, and it is made"
            )
        self._variables = image
        return pc.Flash(image.read(0, len(empty)), image.write)


def create(path: str, contents: bytes) -> None:
    """A new file, unless there is one."""
    try:
        with open(path, "xb") as file:
            file.write(contents)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(
            f"uefi_variables: {path}: {error.strerror}: give a path that can be written"
        ) from error
    except ValueError as error:         # a NUL in the path
        raise ConfigError(f"uefi_variables: {path!r} is no path ({error})") from error
