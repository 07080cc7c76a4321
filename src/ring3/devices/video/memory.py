"""What a video chip's memory can do: it lies among the guest's RAM, and native code serves its fast paths."""

from typing import Protocol

from ring3.devices.video.picture import Picture

WINDOW_BYTES = 0x2_0000                 # of the VGA's window


class VideoMemory(Protocol):
    """Offsets and lengths in bytes; what reaches beyond `size_bytes` is a ValueError, our bug."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes: ...

    def write(self, offset: int, data: bytes) -> None: ...

    def clear(self, offset: int, length: int) -> None: ...

    # --- where the guest sees it ---

    def map_window(self, base: int) -> None:
        """The VGA's data path answers at `base`, WINDOW_BYTES long."""
        ...

    def map_view(self, base: int, size: int, offset: int) -> None:
        """`size` bytes from `offset` on are memory at `base` (replaces the view there)."""
        ...

    def unmap_view(self, base: int) -> None: ...

    def set_registers(
        self, misc_output: int, sequencer: bytes | bytearray, graphics: bytes | bytearray, bank: int
    ) -> None:
        """What the window's data path goes by; `bank`: bytes."""
        ...

    latch: int                          # plane 0 in the lowest byte

    # --- changes ---

    @property
    def changed_fd(self) -> int:
        """An eventfd: readable from the first store after `collect` on."""
        ...

    def signal(self) -> None:
        """As a store would: something else changed."""
        ...

    def collect(self) -> list[tuple[int, int]]:
        """Runs of pages (start, end) stored to since the last time; stores from now on are told again.

        Without the machine lock: it waits until the vCPUs have come round."""
        ...

    def disarm(self) -> None:
        """Nothing is noticed until `collect`, which then returns everything."""
        ...

    # --- what it shows ---

    def pixels(self, picture: Picture, x: int, y: int, width: int, height: int) -> bytes:
        """BGRX, rows packed."""
        ...

    def cells(self, picture: Picture) -> tuple[bytes, bytes]:
        """Codes and attributes of a text picture."""
        ...

    def font(self, picture: Picture, number: int) -> bytes:
        """256 glyphs of 32 bytes, for attribute bit 3 = `number`."""
        ...

    def find_text(
        self, picture: Picture, scale: tuple[int, int], fonts: list[tuple[int, bytes, tuple[int, int]]]
    ) -> tuple[int, int, bytes, int, int] | None:
        """What is drawn in one of the fonts, the first one that fits, else the best.

        Fonts have a height, glyphs, and x and y of their first cell.  The answer has
        columns, rows, codes; how many cells have a glyph, and how many have two colours and so might."""
        ...
