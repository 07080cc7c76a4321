"""One picture for all viewers: what changed, who gets what and when.

Theory.  The Hub keeps a native Frame, the screen as last looked at.  The screen says where the guest drew;
a look takes the pixels there, and the Frame says what really changed.  Each Viewer has the damage it has not
been sent yet; when it can take an update, that is encoded from the Frame as it is now.  So a slow viewer gets
fewer updates, never older ones, and a look is made only when some viewer can take its result.

1. Hub and Viewers live in the event loop's thread.  Looks and encoding run in one worker thread, in the order
   in which they were asked for; they take most of their time without the GIL.
2. What a viewer's picture shows outside its damage is what the Frame held at the end of the last look that
   the loop has heard of.  A scroll is told as such only to viewers without damage and with nothing under way.
3. An update's bytes go out in one run: what else is sent meanwhile waits for its end.
4. For one viewer at most one update is being made; with continuous updates at most FLIGHT are unconfirmed.
5. Nothing runs while nothing changes; without viewers the screen isn't even watched.
"""

import asyncio
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol

from ring3.display import keymap
from ring3.display.face import Face
from ring3.display.rfb import messages
from ring3.display.rfb.encoder import Copy, Encoder, Update
from ring3.display.rfb.messages import Encoding, Fence, Resize
from ring3.display.rfb.region import Region
from ring3.display.rfb.session import (
    RELATIVE_ORIGIN,
    Clipboard,
    Closed,
    ContinuousUpdates,
    EncodingsChanged,
    Event,
    Fenced,
    FormatChanged,
    Joined,
    Key,
    Pointer,
    ResizeRequested,
    Send,
    Session,
    UpdateRequested,
)
from ring3.display.screen import Damage, Rect

LOOK_INTERVAL_S = 0.025                 # the shortest time between two looks
FLIGHT = 2                              # continuous updates sent and not confirmed
LEDS_DELAY_S = 0.1                      # a guest answers a lock key within this time
VIEWERS_MAX = 32
DOT = 3                                 # pixels: the pointer's picture while the guest's may be elsewhere
LOCKS = (keymap.CAPS_LOCK, keymap.NUM_LOCK, 0x46)
# RFB's bits of a pointer event, and those of ring3.display.input.BUTTONS.
BUTTONS = ((0x01, 0x01), (0x02, 0x04), (0x04, 0x02))
WHEEL_UP, WHEEL_DOWN = 0x08, 0x10


class Wire(Protocol):
    """The way to one viewer."""

    local: bool                         # bytes cost nothing: loopback or a Unix socket

    @property
    def full(self) -> bool:
        """Much is still to be carried; `Viewer.pump` is called when that is over."""

    def send(self, data: bytes) -> None: ...

    def close(self, reason: str) -> None: ...


class Hub:
    def __init__(self, face: Face, *, loop: asyncio.AbstractEventLoop | None = None,
                 worker: Executor | None = None) -> None:
        """`loop`: the one that runs at the first `join`, if not given.  `worker`: for tests."""
        self.face = face
        self.viewers: list[Viewer] = []
        self.frame: Any = None
        self.size = (0, 0)
        self.ready = False              # the frame has been filled
        self._loop = loop
        self._stale = Region(0, 0)      # drawn to since the last look
        self._looking = False
        self._due: asyncio.TimerHandle | None = None
        self._looked_s = float("-inf")
        self._unwatch: Callable[[], None] | None = None
        self._worker = worker

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop or asyncio.get_running_loop()

    def join(self, viewer: "Viewer") -> None:
        """From now on it is told of changes, first of everything."""
        self.viewers.append(viewer)
        if self._unwatch is None:
            self._loop = self._loop or asyncio.get_running_loop()
            self._worker = self._worker or ThreadPoolExecutor(1, "consoles")
            self._resize()
            self._unwatch = self.face.screen.watch(self._damaged)

    def leave(self, viewer: "Viewer") -> None:
        if viewer in self.viewers:
            self.viewers.remove(viewer)
        if not self.viewers and self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
            self._cancel_look()

    def close(self) -> None:
        """The machine has ended."""
        for viewer in tuple(self.viewers):
            viewer.close("the machine has ended")
        self._cancel_look()
        if self._worker is not None:
            self._worker.shutdown(wait=False, cancel_futures=True)
            self._worker = None

    def work(self, function: Callable[..., Any], *arguments: Any, done: Callable[..., None]) -> None:
        """Runs `function` in the worker, then `done` with its result in the loop."""
        worker, loop = self._worker, self.loop
        if worker is None:
            return

        def job() -> None:
            try:
                result = function(*arguments)
            except Exception as error:
                loop.call_soon_threadsafe(
                    loop.call_exception_handler, {"message": "a console failed", "exception": error})
                return
            try:
                loop.call_soon_threadsafe(done, result)
            except RuntimeError:        # the loop is closed: the machine has ended
                return

        worker.submit(job)

    def pump(self) -> None:
        """Sends what can be sent, and looks at the screen if somebody waits for it."""
        for viewer in tuple(self.viewers):
            viewer.advance()
        self._look_if_wanted()

    def share_clipboard(self, text: str, source: "Viewer") -> None:
        """What is cut in one viewer can be pasted in the others."""
        for viewer in self.viewers:
            if viewer is not source and not viewer.view_only:
                viewer.offer_clipboard(text)

    # --- looking ---

    def _damaged(self, damage: Damage) -> None:
        if damage.resized or self.face.screen.size != self.size:
            self._resize()
        self._stale.add_all(damage.rects)
        self._look_if_wanted()

    def _resize(self) -> None:
        self.size = self.face.screen.size
        self.frame = self.face.codec.Frame(*self.size)
        self.ready = False
        self._stale = Region(*self.size)
        self._stale.everything()
        for viewer in self.viewers:
            viewer.resized()

    def _look_if_wanted(self) -> None:
        if self._looking or self._due is not None or not self._stale:
            return
        if not any(viewer.waiting for viewer in self.viewers):
            return
        when_s = self._looked_s + LOOK_INTERVAL_S
        if when_s > self.loop.time():
            self._due = self.loop.call_at(when_s, self._look)
        else:
            self._look()

    def _look(self) -> None:
        self._due = None
        self._looked_s = self.loop.time()
        self._looking = True
        frame = self.frame
        self.work(self._take, frame, self._stale.take(), done=lambda found: self._looked(frame, found))

    def _take(self, frame: Any, rects: Sequence[Rect]) -> list[tuple[Any, list[Any]]]:
        """The worker's: new pixels of `rects`, as Frame.update says what they change."""
        found = []
        for rect in rects:
            pixels = self.face.screen.pixels(rect)
            scrolls = 2 * rect.height > self.size[1]
            found.append(frame.update((rect.x, rect.y, rect.width, rect.height), pixels, scrolls))
        return found

    def _looked(self, frame: Any, found: list[tuple[Any, list[Any]]]) -> None:
        self._looking = False
        if frame is self.frame:         # else the screen has another size now
            self.ready = True
            copies = [Copy(Rect(*copy[2:]), copy[0], copy[1]) for copy, _ in found if copy is not None]
            rects = [Rect(*area) for _, areas in found for area in areas]
            for viewer in self.viewers:
                viewer.changed(copies, rects)
        self.pump()

    def _cancel_look(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


class Viewer:
    """One viewer: its session, what it lacks, and the way to it."""

    def __init__(self, hub: Hub, wire: Wire, *, password: str | None = None, view_only: bool = False) -> None:
        self.hub = hub
        self.wire = wire
        self.view_only = view_only
        self.joined = False
        self.session = Session(*hub.face.screen.size, name=hub.face.name, password=password)
        self._encoder = Encoder(local=wire.local)
        self._format = self._native_format()
        self._damage = Region(*self.session.size)
        self._copy: Copy | None = None
        self._extras: list[bytes] = []
        self._announced: set[int] = set()       # pseudo-encodings whose first rectangle was sent
        self._requested = False
        self._continuous = False
        self._flight = 0
        self._encoding = False
        self._held_back: list[bytes] = []
        self._keys: set[tuple[int, bool]] = set()       # (key or keysym, is a keysym) held down
        self._buttons = 0
        self._shown: tuple[bool, int] | None = None     # pointer is absolute, LEDs: as the viewer knows
        self._closed = False

    def start(self) -> None:
        self.wire.send(self.session.greeting())

    def receive(self, data: bytes) -> None:
        for event in self.session.receive(data):
            if self._closed:
                return
            self._handle(event)

    def close(self, reason: str) -> None:
        """Idempotent; also for when the wire is gone."""
        if self._closed:
            return
        self._closed = True
        self.hub.leave(self)
        self._release()
        self.wire.close(reason)

    def pump(self) -> None:
        """The wire has room again."""
        self.hub.pump()

    def offer_clipboard(self, text: str) -> None:
        self._send(self.session.offer_clipboard(text))

    # --- what the viewer says ---

    def _handle(self, event: Event) -> None:
        match event:
            case Send(data):
                self._send(data)
            case Joined():
                self._join()
            case Closed(reason):
                self.close(reason)
            case FormatChanged():
                self._set_format()
            case EncodingsChanged():
                self._encoder.set_level(self.session.encodings)
                self._announce()
            case UpdateRequested(incremental, rect):
                self._requested = True
                if not incremental:
                    self._damage.add(rect)
                self.hub.pump()
            case ContinuousUpdates(enabled):
                self._set_continuous(enabled)
            case Fenced(payload):
                self._flight -= bool(payload and self._flight)
                self.hub.pump()
            case ResizeRequested():
                self._extras.append(messages.extended_desktop_size(
                    *self.session.size, Resize.CLIENT, Resize.PROHIBITED))
                self.hub.pump()
            case _ if self.view_only:
                return
            case Key():
                self._key(event)
            case Pointer():
                self._point(event)
            case Clipboard(text):
                self.hub.share_clipboard(text, self)

    def _join(self) -> None:
        if len(self.hub.viewers) >= VIEWERS_MAX:
            self.close(f"there are {VIEWERS_MAX} viewers already")
            return
        self.joined = True
        self._damage.everything()
        self.hub.join(self)
        if self.session.size != self.hub.size:
            self.resized()

    def _set_format(self) -> None:
        try:
            self._format = self._native_format()
        except ValueError as error:
            self.close(str(error))
            return
        self._announced.discard(Encoding.CURSOR)        # its picture is in the old format
        self._shown = None

    def _native_format(self) -> Any:
        wanted = self.session.format
        return self.hub.face.codec.PixelFormat(
            wanted.bits, wanted.depth, wanted.big_endian, wanted.max, wanted.shift)

    def _announce(self) -> None:
        """What the viewer is told once when it says that it understands it."""
        size = messages.extended_desktop_size(*self.session.size, Resize.SERVER, Resize.DONE)
        for encoding, rectangle in ((Encoding.QEMU_KEY, messages.qemu_keys()),
                                    (Encoding.EXTENDED_DESKTOP_SIZE, size)):
            if self.session.understands(encoding) and encoding not in self._announced:
                self._announced.add(encoding)
                self._extras.append(rectangle)

    def _set_continuous(self, enabled: bool) -> None:
        if self._continuous and not enabled:
            self._send(messages.end_of_continuous_updates())
        self._continuous = enabled
        self._flight = 0
        self.hub.pump()

    def _key(self, event: Key) -> None:
        keyboard = self.hub.face.keyboard
        code = keymap.qemu_code(event.code) if event.code else None
        held = (event.keysym, True) if code is None else (code, False)
        if event.pressed:
            self._keys.add(held)
        else:
            self._keys.discard(held)
        if code is None:
            keyboard.keysym(event.keysym, event.pressed)
        else:
            keyboard.key(code, event.pressed)
        if code in LOCKS or event.keysym in (0xFFE5, 0xFF7F, 0xFF14):
            self.hub.loop.call_later(LEDS_DELAY_S, self.hub.pump)

    def _point(self, event: Pointer) -> None:
        mouse = self.hub.face.mouse
        if self._relative:
            mouse.move_by(event.x - RELATIVE_ORIGIN, event.y - RELATIVE_ORIGIN)
        else:
            mouse.move(event.x, event.y)
        pressed = event.buttons & ~self._buttons
        if (event.buttons ^ self._buttons) & 0x07:
            mouse.buttons(sum(ours for theirs, ours in BUTTONS if event.buttons & theirs))
        if pressed & WHEEL_UP:
            mouse.scroll(-1)
        if pressed & WHEEL_DOWN:
            mouse.scroll(1)
        self._buttons = event.buttons

    @property
    def _relative(self) -> bool:
        """The viewer has been told to send movements."""
        return bool(self._shown and not self._shown[0] and self.session.understands(Encoding.POINTER_TYPE))

    def _release(self) -> None:
        """Lets go of what a viewer that vanishes holds down."""
        keyboard, mouse = self.hub.face.keyboard, self.hub.face.mouse
        for key, is_keysym in self._keys:
            (keyboard.keysym if is_keysym else keyboard.key)(key, False)
        self._keys.clear()
        if self._buttons & 0x07:
            mouse.buttons(0)

    # --- what the viewer is sent ---

    @property
    def waiting(self) -> bool:
        """Whether it can be sent an update now."""
        if not self.joined or self._closed or self._encoding or self.wire.full:
            return False
        return self._requested or (self._continuous and self._flight < FLIGHT)

    def changed(self, copies: Sequence[Copy], rects: Sequence[Rect]) -> None:
        can_copy = len(copies) == 1 and self.session.understands(Encoding.COPY_RECT)
        if can_copy and self.waiting and not self._damage and self.session.size == self.hub.size:
            self._copy = copies[0]
        else:
            self._damage.add_all(copy.rect for copy in copies)
        self._damage.add_all(rects)

    def resized(self) -> None:
        """The screen has another size; a viewer that can't follow sees its upper left part."""
        extended = self.session.understands(Encoding.EXTENDED_DESKTOP_SIZE)
        self._copy = None
        if extended or self.session.understands(Encoding.DESKTOP_SIZE):
            self.session.size = self.hub.size
            self._extras.append(
                messages.extended_desktop_size(*self.hub.size, Resize.SERVER, Resize.DONE) if extended
                else messages.desktop_size(*self.hub.size))
        self._damage = Region(*self.session.size)
        self._damage.everything()

    def advance(self) -> None:
        """Has an update made, if there is something to send and the viewer can take it."""
        if not self.waiting or not self.hub.ready:
            return
        self._refresh_state()
        if not (self._damage or self._copy or self._extras):
            return
        rects = [rect.within(*self.hub.size) for rect in self._damage.take()]
        update = Update(self.session.encodings, self._format, tuple(self._extras), self._copy,
                        [rect for rect in rects if rect.width and rect.height])
        self._extras, self._copy = [], None
        self._requested, self._encoding = False, True
        loop = self.hub.loop

        def out(data: bytes) -> None:
            loop.call_soon_threadsafe(self._carry, data)

        self.hub.work(self._encoder.send, self.hub.frame, update, out, done=lambda _: self._sent())

    def _refresh_state(self) -> None:
        """Pseudo-rectangles for what the guest changed besides pixels."""
        absolute, leds = self.hub.face.mouse.absolute, self.hub.face.keyboard.leds
        before, self._shown = self._shown, (absolute, leds)
        if before is None or before[0] != absolute:
            if self.session.understands(Encoding.POINTER_TYPE):
                self._extras.append(messages.pointer_type(absolute))
            if self.session.understands(Encoding.CURSOR):
                self._extras.append(self._cursor(absolute))
        if (before is None or before[1] != leds) and self.session.understands(Encoding.QEMU_LEDS):
            self._extras.append(messages.leds(leds))

    def _cursor(self, absolute: bool) -> bytes:
        """The guest draws its pointer itself.  Where that may be elsewhere, a dot shows the user's."""
        if absolute:
            return messages.cursor(0, 0, b"", b"")
        dot = self.hub.face.codec.Frame(DOT, DOT)
        middle = (DOT // 2, DOT // 2, 1, 1)
        dot.update(middle, b"\xff\xff\xff\0", False)
        return messages.cursor(DOT, DOT // 2, dot.raw((0, 0, DOT, DOT), self._format), b"\xe0" * DOT)

    def _carry(self, data: bytes) -> None:
        if not self._closed:
            self.wire.send(data)

    def _sent(self) -> None:
        """An update's last byte is on its way."""
        self._encoding = False
        if self._closed:
            return
        if self._continuous and self.session.understands(Encoding.FENCE):
            self._flight += 1
            payload = struct.pack(">I", self._flight)
            self.wire.send(messages.fence(Fence.REQUEST | Fence.BLOCK_BEFORE, payload))
        held_back, self._held_back = self._held_back, []
        for data in held_back:
            self.wire.send(data)
        self.hub.pump()

    def _send(self, data: bytes) -> None:
        if self._encoding:
            self._held_back.append(data)
        elif not self._closed:
            self.wire.send(data)
