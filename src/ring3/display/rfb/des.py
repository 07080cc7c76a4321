"""DES (FIPS 46-3), for VNC authentication alone (RFC 6143, §7.2.2): encryption of 8-byte blocks.

It is no protection on a network that others read; RFB has no better one that all viewers know.
Tables number bits from 1 at the left, as the standard prints them.
"""

BLOCK = 8                               # bytes

_IP = (58, 50, 42, 34, 26, 18, 10, 2, 60, 52, 44, 36, 28, 20, 12, 4,
       62, 54, 46, 38, 30, 22, 14, 6, 64, 56, 48, 40, 32, 24, 16, 8,
       57, 49, 41, 33, 25, 17, 9, 1, 59, 51, 43, 35, 27, 19, 11, 3,
       61, 53, 45, 37, 29, 21, 13, 5, 63, 55, 47, 39, 31, 23, 15, 7)
_FP = tuple(_IP.index(bit) + 1 for bit in range(1, 65))
_E = tuple((4 * group + bit - 1) % 32 + 1 for group in range(8) for bit in range(6))
_P = (16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10,
      2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25)
_PC1 = (57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18,
        10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
        63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22,
        14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4)
_PC2 = (14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19,
        12, 4, 26, 8, 16, 7, 27, 20, 13, 2, 41, 52, 31, 37,
        47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53,
        46, 42, 50, 36, 29, 32)
_SHIFTS = (1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1)

# Each S-box as 64 hexadecimal digits: four rows of 16.
_S = (
    "e4d12fb83a6c5907" "0f74e2d1a6cb9538" "41e8d62bfc973a50" "fc8249175b3ea06d",
    "f18e6b34972dc05a" "3d47f28ec01a69b5" "0e7ba4d158c6932f" "d8a13f42b67c05e9",
    "a09e63f51dc7b428" "d709346a285ecbf1" "d6498f30b12c5ae7" "1ad069874fe3b52c",
    "7de3069a1285bc4f" "d8b56f03472c1ae9" "a690cb7df13e5284" "3f06a1d8945bc72e",
    "2c417ab6853fd0e9" "eb2c47d150fa3986" "421bad78f9c5630e" "b8c71e2d6f09a453",
    "c1af92680d34e75b" "af427c9561de0b38" "9ef528c3704a1db6" "432c95fabe17608d",
    "4b2ef08d3c975a61" "d0b7491ae35c2f86" "14bdc37eaf680592" "6bd814a7950fe23c",
    "d2846fb1a93e50c7" "1fd8a374c56b0e92" "7b419ce206adf358" "21e74a8dfc90356b",
)


def encrypt(key: bytes, data: bytes) -> bytes:
    """Blocks one by one (ECB); bit 0 of each byte of the key isn't used."""
    subkeys = _subkeys(int.from_bytes(key, "big"))
    blocks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
    return b"".join(_block(int.from_bytes(block, "big"), subkeys).to_bytes(BLOCK, "big") for block in blocks)


def vnc_response(password: str, challenge: bytes) -> bytes:
    """What a viewer answers to the challenge: the password's first 8 bytes are the key, each bit-reversed."""
    key = password.encode("latin-1", "replace")[:BLOCK].ljust(BLOCK, b"\0")
    return encrypt(bytes(int(f"{byte:08b}"[::-1], 2) for byte in key), challenge)


def _permute(value: int, width: int, table: tuple[int, ...]) -> int:
    out = 0
    for bit in table:
        out = out << 1 | value >> (width - bit) & 1
    return out


def _subkeys(key: int) -> list[int]:
    chosen = _permute(key, 64, _PC1)
    halves = [chosen >> 28, chosen & 0xFFF_FFFF]
    subkeys = []
    for shift in _SHIFTS:
        halves = [(half << shift | half >> (28 - shift)) & 0xFFF_FFFF for half in halves]
        subkeys.append(_permute(halves[0] << 28 | halves[1], 56, _PC2))
    return subkeys


def _block(block: int, subkeys: list[int]) -> int:
    mixed = _permute(block, 64, _IP)
    left, right = mixed >> 32, mixed & 0xFFFF_FFFF
    for subkey in subkeys:
        left, right = right, left ^ _round(right, subkey)
    return _permute(right << 32 | left, 64, _FP)


def _round(half: int, subkey: int) -> int:
    mixed = _permute(half, 32, _E) ^ subkey
    out = 0
    for box in range(8):
        six = mixed >> (42 - 6 * box) & 0x3F
        row, column = six >> 4 & 2 | six & 1, six >> 1 & 0xF
        out = out << 4 | int(_S[box][16 * row + column], 16)
    return _permute(out, 32, _P)
