from ring3.devices.debug_exit import DebugExit
from ring3.devices.debugcon import DebugCon, PostCodes


def test_post_code_reads_back():
    port = PostCodes()
    port.write(0, 0x55)
    assert port.read(0) == 0x55


def test_debug_console_passes_bytes_on_and_reads_as_present(sink):
    port = DebugCon(sink)
    port.write(0, 0x41)
    assert sink.sent == b"A"
    assert port.read(0) == 0xE9


def test_debug_exit_status_is_odd():
    statuses = []
    port = DebugExit(statuses.append)
    port.write(0, 0x10)
    port.write(1, 0x00)  # the rest of a wider write
    assert statuses == [0x21]
