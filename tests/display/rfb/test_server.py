"""The server on real sockets, with clients that behave and clients that don't."""

import asyncio
import os
import random
import socket
import stat
import struct
from contextlib import asynccontextmanager

import pytest

from console_fakes import fake_machine
from rfb_viewer import Picture
from ring3.display.rfb import server as rfb_server
from ring3.display.rfb.des import vnc_response
from ring3.display.rfb.hub import Hub
from ring3.display.rfb.server import Address, Gate, RfbServer, parse_address
from ring3.display.screen import Rect
from ring3.errors import ConfigError


@asynccontextmanager
async def serving(**settings):
    hub = Hub(fake_machine())
    server = RfbServer(hub, **settings)
    await server.start()
    server.clients = []
    try:
        yield server
    finally:
        await server.stop()
        hub.close()
        for writer in server.clients:
            writer.transport.abort()
        await asyncio.sleep(0)          # a turn of the loop: transports close their sockets in it


async def connect(server):
    if server.address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(server.address[5:])
    else:
        reader, writer = await asyncio.open_connection(*server.socket.getsockname()[:2])
    server.clients.append(writer)
    return reader, writer


async def join(server):
    reader, writer = await connect(server)
    assert await reader.readexactly(12) == b"RFB 003.008\n"
    writer.write(b"RFB 003.008\n\x01\x01")
    await reader.readexactly(2 + 4 + 24 + 4)
    return reader, writer


async def first_picture(reader, writer, width=64, height=48):
    writer.write(struct.pack(">BxHi", 2, 1, 16) + struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
    picture = Picture(width, height)
    while ("update",) not in picture.messages:
        picture.feed(await reader.read(1 << 16))
    return picture


async def until_closed(reader):
    """The connection's end, however it comes."""
    try:
        while await reader.read(1 << 16):
            pass
    except ConnectionError:
        return


@pytest.mark.parametrize(("text", "address"), [
    ("", Address()),
    ("5901", Address(port=5901)),
    (":5901", Address(port=5901)),
    ("0.0.0.0:5901", Address("0.0.0.0", 5901)),
    ("example.org", Address("example.org")),
    ("[::1]:5901", Address("::1", 5901)),
    ("unix:/run/vnc", Address(path="/run/vnc")),
])
def test_addresses(text, address):
    assert parse_address("vnc", text) == address


@pytest.mark.parametrize("text", ["unix:", "host:port", "1.2.3.4:70000", "::1", "a b", "unix:" + "x" * 200])
def test_addresses_that_are_none(text):
    with pytest.raises(ConfigError, match="vnc: "):
        parse_address("vnc", text)


def test_only_loopback_and_unix_sockets_are_private():
    assert all(Address(host).private for host in ("127.0.0.1", "::1", "localhost"))
    assert not any(Address(host).private for host in ("0.0.0.0", "example.org"))
    assert Address(path="/x").private


def test_a_taken_port_is_a_config_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: Address already in use: give another"):
            RfbServer(Hub(fake_machine()), address=f":{port}")


def test_a_long_password_is_a_config_error():
    with pytest.raises(ConfigError, match="at most 8 characters"):
        RfbServer(Hub(fake_machine()), password="123456789")


def test_a_public_server_without_a_password_makes_one():
    server = RfbServer(Hub(fake_machine()), address="0.0.0.0")
    said = server.where()
    server.close()
    assert len(server.password) == 8
    assert said.endswith(f" (password {server.password})")


def test_a_password_of_the_users_is_not_shown():
    server = RfbServer(Hub(fake_machine()), password="secret")
    said = server.where()
    server.close()
    assert "secret" not in said


def test_a_picture_over_tcp_and_over_a_unix_socket(tmp_path):
    async def body(address):
        async with serving(address=address) as server:
            server.hub.face.screen.draw(Rect(5, 5, 9, 9), 0x00FF7F)
            picture = await first_picture(*await join(server))
            assert picture.pixels() == bytes(server.hub.face.screen.data)

    asyncio.run(body(""))
    asyncio.run(body(f"unix:{tmp_path}/vnc"))
    assert not os.path.exists(tmp_path / "vnc")


def test_a_unix_socket_is_the_users_own_and_replaces_a_dead_one(tmp_path):
    path = str(tmp_path / "vnc")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    server = RfbServer(Hub(fake_machine()), address=f"unix:{path}")
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(ConfigError, match="Address already in use"):
        RfbServer(Hub(fake_machine()), address=f"unix:{path}")
    server.close()


def test_a_socket_path_that_is_a_file_is_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="in use"):
        RfbServer(Hub(fake_machine()), address=f"unix:{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize("garbage", [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100,
    b"RFB 003.008\n\x01\x01" + random.Random(5).randbytes(5000) + b"\x07" * 16,
    b"RFB 003.008\n\x01\x01\x06\0\0\0\x40\0\0\0" + bytes(100_000),
    b"RFB 003.008\n\x01\x01\0\0\0\0" + bytes(16),
])
def test_garbage_closes_that_connection_only(garbage):
    async def body():
        async with serving() as server:
            good = await join(server)
            reader, writer = await connect(server)
            writer.write(garbage)
            await until_closed(reader)
            assert await first_picture(*good)

    asyncio.run(body())


def test_half_a_handshake_is_dropped_in_time(monkeypatch):
    monkeypatch.setattr(rfb_server, "HANDSHAKE_S", 0.0)

    async def body():
        async with serving() as server:
            reader, writer = await connect(server)
            writer.write(b"RFB 003")
            await until_closed(reader)

    asyncio.run(body())


def test_a_viewer_that_vanishes_is_forgotten():
    async def body():
        async with serving() as server:
            reader, writer = await join(server)
            await first_picture(reader, writer)
            assert len(server.hub.viewers) == 1
            (connection,) = server.connections
            lost = asyncio.Event()
            forget, connection.connection_lost = connection.connection_lost, lambda e: (forget(e), lost.set())
            writer.transport.abort()
            await lost.wait()
            assert server.hub.viewers == []
            assert server.connections == set()

    asyncio.run(body())


def test_a_viewer_that_reads_nothing_holds_no_more_than_an_update():
    async def body():
        async with serving() as server:
            screen = server.hub.face.screen
            screen.resize(512, 512)
            _, writer = await connect(server)
            writer.write(b"RFB 003.008\n\x01\x01" + struct.pack(">BxHi", 2, 1, 0)
                         + struct.pack(">BBHHHH", 150, 1, 0, 0, 512, 512))
            quick = await join(server)
            picture = await first_picture(*quick, 512, 512)
            (connection,) = (c for c in server.connections if c.viewer._continuous)
            for shade in range(1, 30):
                screen.show(bytes((shade, 0, 0, 0)) * (512 * 512))
                quick[1].write(struct.pack(">BBHHHH", 3, 1, 0, 0, 512, 512))
                while picture.messages.count(("update",)) < shade + 1:
                    picture.feed(await quick[0].read(1 << 16))
            assert connection.full
            assert connection._transport.get_write_buffer_size() < 3 * 4 * 512 * 512

    asyncio.run(body())


def test_guessing_passwords_has_to_wait():
    gate = Gate()
    for _ in range(5):
        assert gate.open_for("192.0.2.1", 100.0)
        gate.failed("192.0.2.1", 100.0)
    assert not gate.open_for("192.0.2.1", 109.0)
    assert gate.open_for("192.0.2.2", 109.0)
    assert gate.open_for("192.0.2.1", 110.0)
    gate.passed("192.0.2.1")
    assert gate.open_for("192.0.2.1", 100.0)


def test_guessers_are_remembered_within_bounds():
    gate = Gate()
    for number in range(1000):
        gate.failed(str(number), 0.0)
    assert len(gate._failures) == 256


def test_password():
    async def body():
        async with serving(password="secret") as server:
            for password, result in (("guess", 1), ("secret", 0)):
                reader, writer = await connect(server)
                writer.write(b"RFB 003.008\n\x02")
                challenge = (await reader.readexactly(12 + 2 + 16))[14:]
                writer.write(vnc_response(password, challenge))
                assert struct.unpack(">I", await reader.readexactly(4)) == (result,)
                writer.close()
            assert server.gate._failures["127.0.0.1"][0] == 1

    asyncio.run(body())
