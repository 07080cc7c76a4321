"""The smallest kernel: machine code behind a Multiboot 1 header (Multiboot Specification 0.6.96, §3.1).

It is entered at its first byte with paging off in flat 32-bit protected mode, EAX = 2BADB002h, at LOAD.
"""

import struct

LOAD = 0x100000                         # where it is loaded, physical
MAGIC = 0x1BADB002
HAS_ADDRESSES = 1 << 16                 # header flag: the address fields are there
HEADER_SIZE = 32                        # bytes
STACK = 0x1000                          # bytes behind the image, zeroed, for who sets ESP there


def multiboot(code: bytes) -> bytes:
    """A kernel that is `code`; its first instruction lies at `entry()`."""
    end = LOAD + HEADER_SIZE + len(code)
    checksum = -(MAGIC + HAS_ADDRESSES) & 0xFFFFFFFF
    header = struct.pack("<8I", MAGIC, HAS_ADDRESSES, checksum, LOAD, LOAD, end, end + STACK, entry())
    return header + code


def entry() -> int:
    """The address of the code's first byte."""
    return LOAD + HEADER_SIZE
