"""Where noVNC and xterm.js are: fetched by scripts/web, or Debian's package `novnc`."""

from pathlib import Path

from ring3.errors import ConfigError

HERE = Path(__file__).parent
PAGE = HERE / "page"
VENDOR = HERE / "vendor"
DEBIAN_NOVNC = Path("/usr/share/novnc")


def novnc() -> Path:
    """The folder with `core/rfb.js`."""
    for folder in (VENDOR / "novnc", DEBIAN_NOVNC):
        if (folder / "core/rfb.js").is_file():
            return folder
    raise ConfigError("display browser: noVNC is missing: run scripts/web, or apt-get install novnc")


def xterm() -> Path | None:
    """The folder with `xterm/` and `xterm-fit/`; None: no serial ports in the browser."""
    return VENDOR if (VENDOR / "xterm/lib/xterm.js").is_file() else None
