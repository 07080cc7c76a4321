"""`--display browser`: HTTP on loopback, for whoever has the link.

The link has a token; it becomes a cookie that scripts can't read and other sites' pages can't send.  Without
it every path is 403.  WebSockets and changes are refused to pages of another origin besides.

Nothing here waits for the guest: what takes the machine's time (pausing, making a PNG) runs in a thread.
"""

import asyncio
import hmac
import io
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from ring3.display.face import Face
from ring3.display.rfb.hub import Hub
from ring3.display.rfb.server import listen as listen_on
from ring3.display.rfb.server import parse_address
from ring3.display.web import assets, sockets
from ring3.errors import ConfigError, VmError

PORTS = range(8700, 8800)               # tried in this order where none is named
TOKEN_BYTES = 24
MESSAGE_MAX = 2 << 20                   # bytes: a viewer's clipboard fits
BODY_MAX = 1 << 20
TEXT_MAX = 100_000                      # characters pasted at once
HEARTBEAT_S = 30.0                      # a browser that doesn't answer for so long is gone
STATE_INTERVAL_S = 1.0                  # for an open page: whether the machine was changed elsewhere
SECURITY_HEADERS = {
    "Content-Security-Policy":
        "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' ws: wss:; worker-src 'self' blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class BrowserConsole:
    def __init__(self, hub: Hub, *, address: str = "", password: str = "", view_only: bool = False) -> None:
        """`password` is the token, where the user wants one of his own."""
        self.hub = hub
        self.face: Face = hub.face
        self.view_only = view_only
        self.token = password or secrets.token_urlsafe(TOKEN_BYTES)
        self._novnc, self._xterm = assets.novnc(), assets.xterm()
        where = parse_address("display browser", address)
        if where.path:
            raise ConfigError("display browser: a browser can't open a Unix socket: give HOST:PORT")
        self.socket = listen_on("display browser", where, PORTS)
        self._runner: web.AppRunner | None = None
        self._open: set[web.WebSocketResponse] = set()

    @property
    def url(self) -> str:
        host, port = self.socket.getsockname()[:2]
        if host in ("0.0.0.0", "::"):
            host = "localhost"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={self.token}"

    def where(self) -> str:
        """What tells the user."""
        return self.url

    async def start(self) -> None:
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.SockSite(self._runner, self.socket).start()

    async def stop(self) -> None:
        for opened in tuple(self._open):
            await opened.close(message=b"the machine has ended")
        if self._runner is not None:
            await self._runner.cleanup()
        self.close()

    def close(self) -> None:
        self.socket.close()

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._guard], client_max_size=BODY_MAX)
        add = application.router
        add.add_get("/", self._page)
        add.add_get("/state", self._state)
        add.add_get("/screenshot.png", self._screenshot)
        add.add_post("/do/{verb}", self._do)
        add.add_get("/socket/screen", self._screen)
        add.add_get("/socket/control", self._control)
        add.add_get("/socket/serial/{port}", self._serial)
        add.add_get("/socket/sound", self._sound)
        add.add_static("/page", assets.PAGE)
        add.add_static("/novnc", self._novnc)
        if self._xterm is not None:
            add.add_static("/xterm", self._xterm)
        return application

    # --- who may ---

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path == "/" and self._is_token(request.query.get("token", "")):
            return self._admit()
        if not self._is_token(request.cookies.get(self._cookie, "")):
            raise web.HTTPForbidden(text="Open the link that ring3 printed: it has the token.\n")
        if (request.method != "GET" or request.path.startswith("/socket/")) and not same_origin(request):
            raise web.HTTPForbidden(text="Another site's page may not do this.\n")
        response = await handler(request)
        if not response.prepared:
            response.headers.update(SECURITY_HEADERS)
        return response

    @property
    def _cookie(self) -> str:
        """Cookies are a host's, not a port's: each console has a name of its own."""
        return f"ring3-{self.socket.getsockname()[1]}"

    def _is_token(self, said: str) -> bool:
        return hmac.compare_digest(said.encode(), self.token.encode())

    def _admit(self) -> web.Response:
        """The token leaves the address bar."""
        response = web.Response(status=303, headers={"Location": "/"} | SECURITY_HEADERS)
        response.set_cookie(self._cookie, self.token, httponly=True, samesite="Strict", path="/")
        return response

    # --- pages and pictures ---

    async def _page(self, request: web.Request) -> web.StreamResponse:
        return web.FileResponse(assets.PAGE / "index.html")

    async def _state(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._state_now())

    def _state_now(self) -> dict[str, object]:
        return sockets.state_of(self.face, view_only=self.view_only, serial=self._xterm is not None)

    async def _screenshot(self, request: web.Request) -> web.StreamResponse:
        data = await asyncio.to_thread(png_of, self.face)
        return web.Response(body=data, content_type="image/png")

    # --- what the buttons do ---

    async def _do(self, request: web.Request) -> web.StreamResponse:
        if self.view_only:
            raise web.HTTPForbidden(text="This console is for looking only.\n")
        try:
            body = json.loads(await request.text() or "{}")
        except ValueError:
            raise web.HTTPBadRequest(text="The body is no JSON.\n") from None
        try:
            await asyncio.to_thread(self._act, request.match_info["verb"], body)
        except (VmError, OSError) as error:
            raise web.HTTPConflict(text=f"{error}\n") from error
        return web.json_response(self._state_now())

    def _act(self, verb: str, body: Any) -> None:
        """In a thread."""
        power, keyboard = self.face.power, self.face.keyboard
        plain = {"reset": power.reset, "power_off": power.power_off, "quit": power.quit,
                 "pause": power.pause, "resume": power.resume}
        match (verb, body):
            case (str(), _) if verb in plain:
                plain[verb]()
            case ("press", {"keys": str(keys)}):
                keyboard.press(keys, wait=False)
            case ("type", {"text": str(text)}) if len(text) <= TEXT_MAX:
                keyboard.type(text, wait=False)
            case ("insert", {"drive": str(drive), "path": str(path)}):
                power.insert(drive, path)
            case ("eject", {"drive": str(drive)}):
                power.eject(drive)
            case _:
                raise ConfigError(f"{verb}: no such action, or not like this")

    # --- sockets ---

    async def _connect(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=("binary",), heartbeat=HEARTBEAT_S, compress=False,
                                       max_msg_size=MESSAGE_MAX)
        await socket.prepare(request)
        self._open.add(socket)
        return socket

    async def _screen(self, request: web.Request) -> web.StreamResponse:
        socket = await self._connect(request)
        wire = sockets.ScreenWire(self.hub, socket, local=is_local(request), view_only=self.view_only)
        return await self._carry(socket, wire.run())

    async def _serial(self, request: web.Request) -> web.StreamResponse:
        number = request.match_info["port"]
        lines = self.face.serial_lines
        if not number.isdecimal() or not 1 <= int(number) <= len(lines):
            raise web.HTTPNotFound(text="There is no such port.\n")
        socket = await self._connect(request)
        return await self._carry(
            socket, sockets.carry_serial(lines[int(number) - 1], socket, view_only=self.view_only))

    async def _sound(self, request: web.Request) -> web.StreamResponse:
        if self.face.sound is None:
            raise web.HTTPNotFound(text="This machine has no sound.\n")
        socket = await self._connect(request)
        return await self._carry(socket, sockets.carry_sound(self.face.sound, socket))

    async def _control(self, request: web.Request) -> web.StreamResponse:
        """The machine's state whenever it changes; a captured mouse's movements."""
        socket = await self._connect(request)
        return await self._carry(socket, self._converse(socket))

    async def _carry(self, socket: web.WebSocketResponse, talk: Awaitable[None]) -> web.StreamResponse:
        try:
            await talk
        finally:
            self._open.discard(socket)
        return socket

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        news = asyncio.create_task(self._tell_news(socket))
        try:
            async for message in socket:
                if message.type == WSMsgType.TEXT and not self.view_only:
                    try:
                        sockets.move_mouse(self.face.mouse, json.loads(message.data))
                    except ValueError:
                        return
        finally:
            news.cancel()

    async def _tell_news(self, socket: web.WebSocketResponse) -> None:
        told = None
        while not socket.closed:
            state = self._state_now()
            if state != told:
                told = state
                await socket.send_json(state)
            await asyncio.sleep(STATE_INTERVAL_S)


def same_origin(request: web.Request) -> bool:
    """Programs without an Origin have the token from the user; pages have to be ours."""
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def is_local(request: web.Request) -> bool:
    return request.remote in ("127.0.0.1", "::1")


def png_of(face: Face) -> bytes:
    from PIL import Image

    size = face.screen.size
    image = Image.frombytes("RGB", size, face.screen.pixels(), "raw", "BGRX")
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


