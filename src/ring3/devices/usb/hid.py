"""USB human interface devices: what keyboards and pointers have in common.

USB-IF, "Device Class Definition for Human Interface Devices (HID)", 1.11, chapters 6 (descriptors) and 7
(requests).  One interface, one interrupt IN endpoint, input reports of one kind.

`Hid` answers polls of its endpoint with what `next_report` has, and repeats the last one at the idle rate
if the host wants that.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ring3.clock import Clock
from ring3.devices.usb.device import NAK, STALL, ControlEndpoint, ControlState, Descriptor, Handshake

INTERRUPT_IN = 1                        # endpoint
INTERVAL_MS = 8
HID, REPORT = 0x21, 0x22                # descriptors
IDLE_UNIT_NS = 4_000_000


class Request:
    GET_REPORT, GET_IDLE, GET_PROTOCOL, SET_REPORT, SET_IDLE, SET_PROTOCOL = 1, 2, 3, 9, 10, 11


REPORT_PROTOCOL = 1
VENDOR, MAKER = 0x0627, "Ring3"         # of what other virtual machines have, so systems know its quirks


@dataclass(slots=True)
class HidState:
    """Part of a device's state."""

    control: ControlState = field(default_factory=ControlState)
    idle: int = 0                       # 4 ms each; 0: report only changes
    protocol: int = REPORT_PROTOCOL
    polled: bool = False                # since it was configured: a driver listens
    reported_ns: int = 0


class Hid(ControlEndpoint):
    def __init__(
        self,
        clock: Clock,
        product: tuple[int, str],
        subclass: tuple[int, int],
        report_length: int,
        report_map: bytes,
    ) -> None:
        """`product`: number and name; `subclass`: boot interface and its protocol, or (0, 0)."""
        device = bytes((18, Descriptor.DEVICE, 0x10, 0x01, 0, 0, 0, 8))
        device += b"".join(n.to_bytes(2, "little") for n in (VENDOR, product[0], 0)) + bytes((1, 2, 0, 1))
        self._hid = bytes((9, HID, 0x11, 0x01, 0, 1, REPORT)) + len(report_map).to_bytes(2, "little")
        interface = bytes((9, Descriptor.INTERFACE, 0, 0, 1, 3, *subclass, 0))
        endpoint = bytes(
            (7, Descriptor.ENDPOINT, 0x80 | INTERRUPT_IN, 3, report_length, 0, INTERVAL_MS)
        )
        parts = interface + self._hid + endpoint
        configuration = bytes((9, Descriptor.CONFIGURATION, 9 + len(parts), 0, 1, 1, 0, 0xA0, 50)) + parts
        super().__init__(device, configuration, (MAKER, product[1]))
        self.on_data: Callable[[], None] = lambda: None     # the controller's `kick`
        self._clock = clock
        self._map = report_map
        self._boot = bool(subclass[0])
        self.hid = HidState(control=self.control)

    # --- for derived classes ---

    @property
    def pending(self) -> bool:
        """The host hasn't seen all changes."""
        raise NotImplementedError

    def bus_reset(self) -> None:
        raise NotImplementedError

    def next_report(self) -> bytes:
        """The report for the oldest change that the host hasn't seen (or, without one, how it is now)."""
        raise NotImplementedError

    def set_report(self, data: bytes) -> None:
        """An output report: LEDs."""

    def adopt(self, state: HidState) -> None:
        self.hid = state
        self.control = state.control

    # --- transactions ---

    @property
    def in_use(self) -> bool:
        return self.configured and self.hid.polled

    def data_in(self, endpoint: int, length_max: int) -> bytes | Handshake:
        if endpoint == 0:
            return self.control_in(length_max)
        if endpoint != INTERRUPT_IN or not self.configured or self.control.halted >> INTERRUPT_IN & 1:
            return STALL
        h = self.hid
        h.polled = True
        now_ns = self._clock.now()
        repeat = h.idle and now_ns - h.reported_ns >= h.idle * IDLE_UNIT_NS
        if not self.pending and not repeat:
            return NAK
        h.reported_ns = now_ns
        return self.next_report()[:length_max]

    def data_out(self, endpoint: int, data: bytes) -> bytes | Handshake:
        return self.control_out(data) if endpoint == 0 else STALL

    # --- requests ---

    def configuration_set(self) -> None:
        self.hid.polled = False

    def class_descriptor(self, kind: int) -> bytes | None:
        return {HID: self._hid, REPORT: self._map}.get(kind)

    def class_request(self, request: int, value: int) -> bytes | None:
        match request:
            case Request.GET_REPORT:
                return self.next_report()
            case Request.GET_IDLE:
                return bytes((self.hid.idle,))
            case Request.GET_PROTOCOL if self._boot:
                return bytes((self.hid.protocol,))
        return None

    def class_data(self, request: int, value: int, data: bytes) -> bool:
        match request:
            case Request.SET_REPORT:
                self.set_report(data)
            case Request.SET_IDLE:
                self.hid.idle = value >> 8
            case Request.SET_PROTOCOL if self._boot:
                self.hid.protocol = value & 1
            case _:
                return False
        return True
