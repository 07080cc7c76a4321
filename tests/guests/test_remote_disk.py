"""A guest that boots from a web server."""

import pytest

from guest_terminal import image
from range_server import RangeServer
from ring3.disk.remote import cache
from ring3.firmware import find
from ring3.machine import Machine

pytestmark = [
    pytest.mark.guest,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not find.present(find.BIOS), reason="SeaBIOS is not there: apt install seabios"),
]
BOOT_S = 120                            # on a machine that is busy with other tests


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("RING3_HOME", str(tmp_path))
    with open(image("grub-rescue-cdrom.iso"), "rb") as file:
        server = RangeServer({"/grub.iso": file.read()})
    yield server
    server.close()


@pytest.mark.parametrize("drive", ["cdrom", "disk"])
def test_grub_boots_from_a_url_and_only_what_it_reads_is_fetched(server, drive):
    place = server.url("grub.iso") + (",mode=nonpersistent" if drive == "disk" else "")
    with Machine(firmware="bios", memory="64M", **{drive: place}) as vm:
        vm.screen.wait("highlighted entry will be executed", timeout_s=BOOT_S)
    (kept,) = cache.kept()
    assert kept.host_bytes < kept.size_bytes
