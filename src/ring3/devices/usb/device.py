"""A USB 1.1 device as its host controller sees it, and the requests that all devices answer.

Universal Serial Bus Specification 1.1, chapters 8 (transactions) and 9 (device framework).  Descriptors are
bytes; requests and their fields have the specification's names.

A controller makes transactions: `setup`, `data_in` and `data_out` for an endpoint.  Data toggles and errors
on the wire don't exist here: every transaction arrives once, or is answered by NAK or STALL.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ring3 import trace


class Handshake(Enum):
    """An answer that isn't data."""

    NAK = "not now"
    STALL = "never"


NAK, STALL = Handshake.NAK, Handshake.STALL


class UsbDevice(Protocol):
    """What a controller needs of a device."""

    @property
    def address(self) -> int: ...

    @property
    def pending(self) -> bool:
        """It has something for an IN transaction other than of endpoint 0."""

    @property
    def remote_wakeup(self) -> bool:
        """The host wants to be woken for that."""

    def bus_reset(self) -> None: ...

    def setup(self, endpoint: int, packet: bytes) -> bytes | Handshake: ...

    def data_in(self, endpoint: int, length_max: int) -> bytes | Handshake: ...

    def data_out(self, endpoint: int, data: bytes) -> bytes | Handshake:
        """Empty bytes: taken."""


class Request:
    GET_STATUS, CLEAR_FEATURE, SET_FEATURE, SET_ADDRESS = 0, 1, 3, 5
    GET_DESCRIPTOR, GET_CONFIGURATION, SET_CONFIGURATION, GET_INTERFACE, SET_INTERFACE = 6, 8, 9, 10, 11


class Descriptor:
    DEVICE, CONFIGURATION, STRING, INTERFACE, ENDPOINT = range(1, 6)


TO_HOST = 0x80                          # bmRequestType
RECIPIENT, TYPE = 0x1F, 0x60
DEVICE, INTERFACE, ENDPOINT = range(3)  # recipients
REMOTE_WAKEUP, ENDPOINT_HALT = 1, 0     # features
LANGUAGE = 0x0409                       # English (United States)
OUT_MAX = 64                            # bytes of data that a request may bring


@dataclass(slots=True)
class ControlState:
    """Endpoint 0 and what the standard requests set, after a bus reset; part of a checkpoint record."""

    address: int = 0
    new_address: int = 0                # holds once the request's status stage is over
    configuration: int = 0
    remote_wakeup: bool = False
    halted: int = 0                     # IN endpoints, a bit each
    request: bytes = b""                # the SETUP packet being carried out
    answer: bytes = b""                 # what is left of its data to the host
    taken: bytearray = field(default_factory=bytearray)     # its data from the host
    stalled: bool = False


class ControlEndpoint:
    """Endpoint 0 of a device with one configuration and one interface.

    A device derives from it, gives descriptors, and overrides `class_request`, `class_data` and what its
    other endpoints do.
    """

    def __init__(self, device: bytes, configuration: bytes, strings: tuple[str, ...]) -> None:
        self._device = device
        self._configuration = configuration
        self._strings = strings
        self.control = ControlState()

    @property
    def address(self) -> int:
        return self.control.address

    @property
    def remote_wakeup(self) -> bool:
        return self.control.remote_wakeup

    @property
    def configured(self) -> bool:
        return self.control.configuration != 0

    def setup(self, endpoint: int, packet: bytes) -> bytes | Handshake:
        c = self.control
        if endpoint != 0 or len(packet) != 8:
            return STALL
        c.request, c.answer, c.stalled = bytes(packet), b"", False
        c.taken.clear()
        length = int.from_bytes(packet[6:8], "little")
        if packet[0] & TO_HOST:
            answer = self._answer(packet)
            c.stalled = answer is None
            c.answer = (answer or b"")[:length]
        elif length == 0:
            c.stalled = not self._perform(packet, b"")
        elif length > OUT_MAX:
            c.stalled = True
        return b""

    def control_in(self, length_max: int) -> bytes | Handshake:
        """The data stage of a request that reads, or the status stage of one that writes."""
        c = self.control
        if c.stalled:
            return STALL
        if c.request and not c.request[0] & TO_HOST:
            c.address, c.request = c.new_address, b""
            return b""
        part, c.answer = c.answer[:length_max], c.answer[length_max:]
        return part

    def control_out(self, data: bytes) -> bytes | Handshake:
        """The data stage of a request that writes, or the status stage of one that reads."""
        c = self.control
        if c.stalled:
            return STALL
        if c.request and not c.request[0] & TO_HOST:
            wanted = int.from_bytes(c.request[6:8], "little")
            c.taken += data[: wanted - len(c.taken)]
            if len(c.taken) == wanted:
                c.stalled = not self._perform(c.request, bytes(c.taken))
                return STALL if c.stalled else b""
        return b""

    # --- for derived classes ---

    def class_request(self, request: int, value: int) -> bytes | None:
        """The data that a request of the device's class reads; None: no such request."""
        return None

    def class_data(self, request: int, value: int, data: bytes) -> bool:
        """A request of the device's class that writes; False: no such request."""
        return False

    def class_descriptor(self, kind: int) -> bytes | None:
        """A descriptor asked of the interface."""
        return None

    def configuration_set(self) -> None:
        """The host has chosen a configuration (or none)."""

    # --- standard requests (9.4) ---

    def _answer(self, packet: bytes) -> bytes | None:
        kind, request, value, index = packet[0], packet[1], _word(packet, 2), _word(packet, 4)
        recipient = kind & RECIPIENT
        if kind & TYPE:
            return self.class_request(request, value) if recipient == INTERFACE else None
        c = self.control
        match request:
            case Request.GET_DESCRIPTOR if recipient == DEVICE:
                return self._descriptor(value >> 8, value & 0xFF)
            case Request.GET_DESCRIPTOR if recipient == INTERFACE:
                return self.class_descriptor(value >> 8)
            case Request.GET_STATUS if recipient == DEVICE:
                return bytes((c.remote_wakeup << 1, 0))
            case Request.GET_STATUS:
                return bytes((recipient == ENDPOINT and c.halted >> (index & 0x0F) & 1, 0))
            case Request.GET_CONFIGURATION:
                return bytes((c.configuration,))
            case Request.GET_INTERFACE:
                return b"\0"
        trace.odd("usb", "unknown request %s", packet.hex())
        return None

    def _perform(self, packet: bytes, data: bytes) -> bool:
        kind, request, value, index = packet[0], packet[1], _word(packet, 2), _word(packet, 4)
        recipient = kind & RECIPIENT
        if kind & TYPE:
            return recipient == INTERFACE and self.class_data(request, value, data)
        c = self.control
        match request:
            case Request.SET_ADDRESS:
                c.new_address = value & 0x7F
            case Request.SET_CONFIGURATION if value in (0, 1):
                c.configuration, c.halted = value, 0
                self.configuration_set()
            case Request.SET_INTERFACE if value == 0:
                c.halted = 0
            case Request.SET_FEATURE | Request.CLEAR_FEATURE:
                return self._set_feature(recipient, value, index, request == Request.SET_FEATURE)
            case _:
                trace.odd("usb", "unknown request %s", packet.hex())
                return False
        return True

    def _set_feature(self, recipient: int, feature: int, index: int, on: bool) -> bool:
        c = self.control
        if recipient == DEVICE and feature == REMOTE_WAKEUP:
            c.remote_wakeup = on
        elif recipient == ENDPOINT and feature == ENDPOINT_HALT:
            bit = 1 << (index & 0x0F)
            c.halted = c.halted | bit if on else c.halted & ~bit
        else:
            return False
        return True

    def _descriptor(self, kind: int, index: int) -> bytes | None:
        if kind == Descriptor.DEVICE:
            return self._device
        if kind == Descriptor.CONFIGURATION and index == 0:
            return self._configuration
        if kind == Descriptor.STRING and index == 0:
            return bytes((4, Descriptor.STRING)) + LANGUAGE.to_bytes(2, "little")
        if kind == Descriptor.STRING and index <= len(self._strings):
            text = self._strings[index - 1].encode("utf-16-le")
            return bytes((2 + len(text), Descriptor.STRING)) + text
        return None


def _word(packet: bytes, at: int) -> int:
    return int.from_bytes(packet[at : at + 2], "little")
