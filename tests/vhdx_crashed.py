"""VHDX images as a crash leaves them."""

import struct

from ring3.disk import vhdx, vhdx_log


def header_at(data):
    """Where the newer header is."""
    return max(vhdx.HEADERS_AT, key=lambda at: struct.unpack_from("<Q", data, at + 8))


def log_of(data):
    """Where the log is, and its length."""
    _, _, length, offset = vhdx_log.LOG.unpack_from(data, header_at(data) + vhdx_log.LOG_AT)
    return offset, length


def with_its_log(data):
    """An image that was written to, whose writer had not yet said that all of the log is in its place."""
    out = bytearray(data)
    log, _ = log_of(out)
    at = header_at(out)
    guid = vhdx_log.ENTRY.unpack_from(out, log)[7]
    out[at + vhdx.LOG_GUID_AT : at + vhdx.LOG_GUID_AT + 16] = guid
    struct.pack_into("<I", out, at + 4, vhdx.checksum(out[at : at + vhdx.HEADER_BYTES]))
    return bytes(out)
