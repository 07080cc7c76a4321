"""The browser console's server, without a browser: who may do what."""

import asyncio
import io
import json
import struct
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
import pytest

from console_fakes import fake_machine
from rfb_viewer import Picture
from ring3.display.rfb.hub import Hub
from ring3.display.screen import Rect
from ring3.display.web import assets
from ring3.display.web.server import BrowserConsole
from ring3.errors import ConfigError

pytestmark = pytest.mark.skipif(
    not (assets.VENDOR / "novnc").is_dir() and not assets.DEBIAN_NOVNC.is_dir(),
    reason="no noVNC: scripts/web fetches it")


@asynccontextmanager
async def serving(**settings):
    hub = Hub(fake_machine())
    console = BrowserConsole(hub, **settings)
    await console.start()
    jar = aiohttp.CookieJar(unsafe=True)        # cookies of an IP address
    async with aiohttp.ClientSession(console.url.partition("?")[0], cookie_jar=jar) as client:
        try:
            yield console, client
        finally:
            await console.stop()
            hub.close()


async def admitted(console, client):
    async with client.get("/", params={"token": console.token}) as answer:
        assert answer.status == 200
        assert "token" not in str(answer.url)


def run(test, **settings):
    async def body():
        async with serving(**settings) as (console, client):
            await test(console, client)
    asyncio.run(body())


@pytest.mark.parametrize("path", [
    "/", "/?token=wrong", "/state", "/screenshot.png", "/page/console.js", "/novnc/core/rfb.js",
    "/socket/screen"])
def test_nothing_without_the_token(path):
    async def test(console, client):
        async with client.get(path) as answer:
            assert answer.status == 403
    run(test)


def test_the_link_admits():
    async def test(console, client):
        await admitted(console, client)
        async with client.get("/state") as answer:
            state = await answer.json()
        assert state["name"] == "test"
        assert state["drives"] == {"cdrom0": "debian.iso", "floppy0": None}
    run(test)


def test_a_password_is_the_token():
    async def test(console, client):
        assert urlsplit(console.url).query == "token=secret"
        await admitted(console, client)
    run(test, password="secret")


def test_the_cookie_is_for_this_console_and_not_for_scripts():
    async def test(console, client):
        async with client.get("/", params={"token": console.token}, allow_redirects=False) as answer:
            cookie = answer.headers["Set-Cookie"]
        assert cookie.startswith(f"ring3-{console.socket.getsockname()[1]}=")
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
    run(test)


@pytest.mark.parametrize("path", [
    "/page/../server.py", "/page/%2e%2e/server.py", "/novnc/../../../../etc/passwd"])
def test_no_files_but_the_page(path):
    async def test(console, client):
        await admitted(console, client)
        reader, writer = await asyncio.open_connection(*console.socket.getsockname()[:2])
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        writer.write(f"{head}Cookie: {console._cookie}={console.token}\r\n\r\n".encode())
        assert (await reader.read()).split()[1] in (b"403", b"404")
        writer.close()
    run(test)


def test_pages_of_others_can_do_nothing():
    async def test(console, client):
        await admitted(console, client)
        evil = {"Origin": "http://evil.example"}
        async with client.post("/do/reset", headers=evil) as answer:
            assert answer.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect("/socket/screen", headers=evil)
        assert console.face.power.calls == []
    run(test)


def test_actions():
    async def test(console, client):
        await admitted(console, client)

        async def do(verb, **body):
            async with client.post(f"/do/{verb}", data=json.dumps(body)) as answer:
                return answer.status

        power, keyboard = console.face.power, console.face.keyboard
        assert [await do(verb) for verb in ("reset", "power_off", "quit", "pause")] == [200] * 4
        assert power.calls == ["reset", "power_off", "quit"]
        assert power.paused
        assert await do("press", keys="ctrl-alt-del") == 200
        assert await do("type", text="hällo") == 200
        assert keyboard.events == [("press", "ctrl-alt-del"), ("type", "hällo")]
        assert await do("insert", drive="floppy0", path="dos.img") == 200
        assert power.media["floppy0"] == "dos.img"
    run(test)


@pytest.mark.parametrize(("verb", "body", "status"), [
    ("reset", "{", 400), ("nonsense", "{}", 409), ("type", "[]", 409), ("type", '{"text": 1}', 409),
    ("type", json.dumps({"text": "x" * 100_001}), 409), ("__class__", "{}", 409),
])
def test_senseless_actions(verb, body, status):
    async def test(console, client):
        await admitted(console, client)
        async with client.post(f"/do/{verb}", data=body) as answer:
            assert answer.status == status
        assert console.face.keyboard.events == []
    run(test)


def test_a_body_without_end_is_refused():
    async def test(console, client):
        await admitted(console, client)
        async with client.post("/do/type", data=io.BytesIO(bytes(2 << 20))) as answer:
            assert answer.status == 413
    run(test)


def test_a_failed_insertion_is_told():
    async def test(console, client):
        await admitted(console, client)

        def insert(drive, path):
            raise ConfigError(f"{path}: no such file: give another")

        console.face.power.insert = insert
        async with client.post("/do/insert", data='{"drive": "cdrom0", "path": "x.iso"}') as answer:
            assert (answer.status, await answer.text()) == (409, "x.iso: no such file: give another\n")
    run(test)


def test_looking_only():
    async def test(console, client):
        await admitted(console, client)
        async with client.post("/do/reset") as answer:
            assert answer.status == 403
        async with client.ws_connect("/socket/serial/1") as socket:
            await socket.receive_bytes()
            await socket.send_bytes(b"rm -rf /\n")
            await socket.close()
        assert console.face.serial_lines[0].sent == []
    run(test, view_only=True)


def test_the_screen_over_a_websocket():
    async def test(console, client):
        await admitted(console, client)
        console.face.screen.draw(Rect(3, 3, 9, 9), 0x12AB34)
        async with client.ws_connect("/socket/screen", protocols=["binary"]) as socket:
            assert await socket.receive_bytes() == b"RFB 003.008\n"
            await socket.send_bytes(b"RFB 003.008\n\x01\x01")
            data = b""
            while len(data) < 2 + 4 + 24 + 4:
                data += await socket.receive_bytes()
            await socket.send_bytes(struct.pack(">BxHi", 2, 1, 7))
            await socket.send_bytes(struct.pack(">BBHHHH", 3, 0, 0, 0, 64, 48))
            picture = Picture(64, 48)
            while ("update",) not in picture.messages:
                picture.feed(await socket.receive_bytes())
            assert picture.pixels() == bytes(console.face.screen.data)
    run(test)


@pytest.mark.parametrize("garbage", [
    b"GET / HTTP/1.1\r\n\r\n", b"RFB 003.008\n\x01\x01\x06\0\0\0\x40\0\0\0", bytes(3 << 20)])
def test_garbage_closes_that_socket_only(garbage):
    async def test(console, client):
        await admitted(console, client)
        async with client.ws_connect("/socket/screen") as socket:
            await socket.receive_bytes()
            await socket.send_bytes(garbage)
            while (await socket.receive()).type not in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                pass
        assert console.hub.viewers == []
        async with client.get("/state") as answer:
            assert answer.status == 200
    run(test)


def test_a_serial_port_over_a_websocket():
    async def test(console, client):
        await admitted(console, client)
        line = console.face.serial_lines[0]
        async with client.ws_connect("/socket/serial/1") as socket:
            assert await socket.receive_bytes() == b"earlier\r\n"
            line.say(b"lo")
            line.say(b"gin: ")
            assert await socket.receive_bytes() == b"login: "
            await socket.send_bytes(b"root\r")
            await socket.close()
        assert line.sent == [b"root\r"]
        assert line.listeners == []
        for port in ("0", "2", "x"):
            async with client.get(f"/socket/serial/{port}") as answer:
                assert answer.status == 404
    run(test)


def test_movements_of_a_captured_mouse():
    async def test(console, client):
        await admitted(console, client)
        async with client.ws_connect("/socket/control") as socket:
            assert (await socket.receive_json())["paused"] is False
            senseless = ({"by": [1 << 40, 0]}, {"by": "x"}, 5)
            for message in ({"by": [3, -4]}, {"buttons": 1}, {"wheel": 99}, *senseless):
                await socket.send_json(message)
            await socket.close()
        assert console.face.mouse.events == [("by", 3, -4), ("buttons", 1), ("scroll", 8)]
    run(test)


def test_a_unix_socket_is_no_address_for_a_browser():
    with pytest.raises(ConfigError, match="give HOST:PORT"):
        BrowserConsole(Hub(fake_machine()), address="unix:/tmp/x")


def test_novnc_that_is_missing_is_a_config_error(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "VENDOR", tmp_path)
    monkeypatch.setattr(assets, "DEBIAN_NOVNC", tmp_path)
    with pytest.raises(ConfigError, match="run scripts/web, or apt-get install novnc"):
        BrowserConsole(Hub(fake_machine()))
