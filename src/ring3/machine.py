"""A whole machine: build, start, pause, reset, stop; devices by name.

    with Machine(kernel="vmlinuz", initrd="initrd.gz", append="console=ttyS0 rdinit=/bin/sh") as vm:
        vm.serial[0].expect("# ")
        vm.serial[0].send("poweroff -f\\n")
        assert vm.wait(timeout_s=60).reason is ExitReason.POWER_OFF

Threads.  The vCPU's runs guest code and, under the machine lock, devices.  The timer's waits for the clock's
next deadline: not the event loop, because asyncio's timers are a millisecond late and a PC's must not be.
The event loop's takes the host's input.  Whoever calls these methods is a fourth.

1. What others ask of the vCPU (pause, reset, end) is noted under `_changed`, then the vCPU is kicked; it
   carries it out in `attend`, between two runs of guest code.
2. The first reason to end counts; `_result` is set once.
3. Lock order: machine lock, then `_changed`.  Nobody waits for `_changed` while holding the machine lock.
"""

import dataclasses
import io
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ring3 import vcpu as vcpu_loop
from ring3.audio import AudioSink, NoAudio, open_sink
from ring3.audio.stream import Broadcast, Tee
from ring3.boards import pc
from ring3.bus import Bus, Pins
from ring3.char import CharBackend, open_backend
from ring3.char.memory import MemoryBackend
from ring3.char.printer import open_printer
from ring3.char.tap import Tap
from ring3.checkpoint import listing
from ring3.checkpoint import machine as checkpoint
from ring3.checkpoint.family import Basis
from ring3.checkpoint.format import SUFFIX
from ring3.checkpoint.listing import Listed
from ring3.checkpoint.machine import Moment, Restorer, Saved, SavedFile
from ring3.clock import HostClock
from ring3.config import DisplayConfig, File, MachineConfig, configure, replace
from ring3.config.machine import settings
from ring3.config.places import Place
from ring3.devices.video.source import VgaSource
from ring3.display import fontfile
from ring3.display.glyphs import find_fonts, fonts_in_memory
from ring3.display.input import Keyboard, Mouse
from ring3.display.open import Consoles, face_of
from ring3.display.screen import Screen
from ring3.errors import ConfigError, EngineError, HostError, VmError
from ring3.firmware import acpi, boot, e820, find, initrd, post, rom, text_mode
from ring3.firmware.handover import Boot, Kernel, Target
from ring3.media import Media
from ring3.report import triple_fault_report
from ring3.result import ExitReason, Result
from ring3.roms import Roms
from ring3.threads import EventLoopThread, TimerThread

if TYPE_CHECKING:
    from ring3 import _native

SWITCH_INTERVAL_S = 1e-4                # CPython's default lets a busy Python thread starve the vCPU for 5 ms
EMBEDDED_GUEST = "embedded_guest.bin"
TEXT_SCREEN = (720, 400)                # pixels
STOP_PATIENCE_S = 10.0                  # the longest `stop` waits for the vCPU's thread
MTRR = 1 << 12                          # CPUID.1:EDX
LONG_MODE = 1 << 29                     # CPUID.80000001h:EDX
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
THUMBNAIL = (320, 240)                  # pixels


class Attempt:
    """A block of `Machine.speculate`."""

    def __init__(self, go_back: Callable[[], None]) -> None:
        self._go_back = go_back

    def rollback(self) -> None:
        """The machine is as it was when the block began, and runs on from there; as often as one likes."""
        self._go_back()


class Machine:
    def __init__(
        self,
        config: MachineConfig | None = None,
        *,
        name: str = "ring3",
        menu: Mapping[str, Callable[[], None]] | None = None,
        auto_display: str = "none",
        checkpoints: Path | None = None,
        saved: Saved | None = None,
        **fields: Any,
    ) -> None:
        """From a MachineConfig or from its fields by name.

        `name`: for consoles' titles.  `menu`: see ring3.char.open_backend.  `auto_display`: what display
        "auto" stands for (ring3.display.open.auto_kind); a program's own machines have none.
        `checkpoints`: the directory that holds them.  `saved`: see `restored`.
        """
        if config is not None and fields:
            raise ConfigError("give Machine a MachineConfig or settings, not both")
        self.config = config if config is not None else configure(fields)
        self.name = name
        self.checkpoints = checkpoints
        boots_kernel = self.config.starts_with == "kernel" and saved is None
        kernel = load_kernel(self.config) if boots_kernel else None
        native = import_native()
        self._changed = threading.Condition()
        self._attention = False
        self._want_reset = False
        self._want_pause = False
        self.pause_reason = ""          # where it was not asked to stand: what the host refuses
        self._parked = False
        self._result: Result | None = None
        self._thread: threading.Thread | None = None
        self._timers: TimerThread | None = None
        self._loop: EventLoopThread | None = None
        self._finished = False
        self._closed = False
        self._screen: Screen | None = None
        self._vm, self.vcpu = create_vcpu(native, self.config)
        self.clock = HostClock(saved.contents.clock_ns if saved is not None else 0)
        self.clock.pause()
        self._tsc_at_stop: int | None = None        # the guest's, while it stands
        self._basis: Basis | None = None            # what the next checkpoint may rest on
        self.media: Media | None = None
        self.audio = Broadcast()        # for consoles: `vm.audio.listen(…)`
        self._audio_sink: AudioSink = NoAudio()
        self.serial: list[Any] = open_lines(self.config.serial_ports, menu)
        self._taps = [Tap(backend) for backend in self.serial]
        self.parallel: list[Any] = []
        self.virtio_consoles: list[Any] = []
        self._consoles: Consoles | None = None
        self.firmware_log: list[Any] = []
        self.roms: Roms | None = None
        try:
            self.firmware_log = open_lines([self.config.firmware_log], menu)
            self.parallel = open_printers(self.config.parallel_ports)
            self.virtio_consoles = open_lines(self.config.virtio_consoles, menu)
            self._build(saved)
            if saved is None:
                self._power_on(kernel)
            else:
                self._restore(saved, {})
            self._open_consoles(native, auto_display)
        except BaseException:
            self._close_backends()
            raise
        self._unchecked_initrd = (kernel.initrd, kernel.initrd_name) if kernel is not None else (None, "")

    def _build(self, saved: Saved | None) -> None:
        config = self.config
        pins = Pins(
            intr=self.vcpu.set_intr,
            interrupt_message=self.vcpu.deliver_apic_interrupt,
            reset=self._guest_reset,
            power_off=partial(self._end, Result(ExitReason.POWER_OFF)),
            init=self.vcpu.pulse_init,
            ignne=self.vcpu.set_ignne,
            debug_exit=lambda code: self._end(Result(ExitReason.DEBUG_EXIT, code)),
        )
        start_unix_s = config.rtc_start_unix_s
        self._audio_sink = open_sink(config.audio)
        self.bus = Bus(self._vm, self.clock, pins)
        self.roms = Roms(config, roms_of(saved) if saved is not None else None)
        at = checkpoint.layers(saved.contents, config, saved.path) if saved is not None else {}
        self.media = Media(self.bus.lock, self._device_error, self.pause_for, at)
        self._pc = pc.PcConfig(
            memory=config.memory_bytes,
            serial=self._taps,
            rtc_start_unix_s=int(time.time()) if start_unix_s is None else start_unix_s,
            debug_exit_port=config.debug_exit_port,
            disks=self.media.disks(config),
            cdroms=self.media.cdroms(config),
            floppies=self.media.floppies(config),
            parallel=self.parallel,
            virtio_consoles=self.virtio_consoles,
            virtio_rng=config.virtio_rng,
            boot=config.boot_order,
            firmware_console=self.firmware_log[0],
            boot_menu=config.boot_menu,
            **self.roms.settings,
            tsc_hz=self.vcpu.tsc_hz,
            usb=config.usb_devices,
            sound=config.sound_cards,
            audio=Tee(self.audio, self._audio_sink),
            play_fm=import_native().play_fm,
        )
        self.memory = self.bus.memory
        pc.build(self.bus, self._pc)
        self.devices: Mapping[str, Any] = self.bus.devices
        self.vcpu.set_intr_acknowledge(self.bus.locked(self.devices["pic"].acknowledge))
        self.vcpu.set_eoi_handler(self.bus.locked(self.devices["ioapic"].eoi))
        self._vm.set_io_error_handler(self._device_error)
        self.vcpu.set_ferr_handler(self.bus.locked(self.devices["coprocessor"].ferr))
        if config.starts_with == "kernel":
            self._tables = self._write_rom()
        self._build_screen()
        self._build_input()

    def _build_screen(self) -> None:
        vga = self.devices.get("vga")
        if vga is not None:
            fonts = find_fonts(find.seabios(find.VGA_BIOS) if find.present(find.VGA_BIOS) else b"")
            search = partial(fonts_in_memory, self._vm.search_ram, self._vm.read_physical)
            files = [fontfile.load(os.fspath(path)) for path in self.config.fonts]
            self._screen = Screen(VgaSource(vga, self.bus.lock, fonts, search, files))

    def _open_consoles(self, native: Any, auto_display: str) -> None:
        displays = self.config.displays
        if self._screen is not None or any(display.kind not in ("auto", "none") for display in displays):
            face = face_of(self, self.name, native, self._taps, self.audio)
            self._consoles = Consoles(face, displays, auto=auto_display)

    def _build_input(self) -> None:
        """The first device that the guest uses counts: VMware's pointer before USB before PS/2."""
        clock, lock, devices = self.clock, self.bus.lock, self.devices
        ps2 = devices["ps2"]
        keyboards = [devices[name] for name in ("usb_keyboard",) if name in devices]
        pointers = [devices[name] for name in ("vmmouse", "usb_tablet") if name in devices]
        self.keyboard = Keyboard(clock, lock, [*keyboards, ps2.keyboard], self.config.keyboard)
        self.mouse = Mouse(clock, lock, ps2.mouse, pointers, self._screen_size)

    def _screen_size(self) -> tuple[int, int]:
        return self._screen.size if self._screen is not None else TEXT_SCREEN

    def _write_rom(self) -> acpi.Tables:
        tables = acpi.build(pc.acpi_platform(self._pc), base=e820.SYSTEM_ROM, facs=rom.FACS)
        image = rom.build(tables.image)
        self._vm.map_rom(e820.SYSTEM_ROM, image)
        self._vm.map_rom(e820.UPPER_ROM, image)
        return tables

    def _prepare_boot(self, kernel: Kernel) -> Boot:
        memory = self.config.memory_bytes
        long_mode = bool(self.vcpu.cpuid(0x8000_0001)[3] & LONG_MODE)
        has_vga = "vga" in self.devices
        target = Target(memory, e820.memory_map(memory), self._tables.rsdp, long_mode, has_vga)
        return boot.load(kernel, target)

    def _power_on(self, kernel: Kernel | None) -> None:
        """Power-on or reset.  RAM is left as it is, as on hardware; without a kernel, firmware goes on."""
        handover = self._prepare_boot(kernel) if kernel is not None else None
        self.keyboard.reset()
        self.mouse.reset()
        pc.reset(self.bus, self._pc)
        self.vcpu.reset()
        if handover is not None:
            self._hand_over(handover)

    def _hand_over(self, handover: Boot) -> None:
        """Memory and CPU as firmware leaves them, and the kernel at its entry."""
        ports = tuple(port for port, _ in pc.COM[: len(self.serial)])
        printers = tuple(port for port, _ in pc.fitted_lpt(self._pc))
        self._vm.write_physical(0, rom.interrupt_vectors())
        video = text_mode.COLOR_80 if "vga" in self.devices else 0
        self._vm.write_physical(rom.BIOS_DATA, rom.bios_data_area(ports, printers, video))
        for address, data in text_mode.bios_data() if video else []:
            self._vm.write_physical(address, data)
        self._vm.write_physical(e820.EBDA, rom.extended_bios_data_area())
        self._vm.write_physical(rom.FACS, self._tables.facs)
        for address, data in handover.writes:
            self._vm.write_physical(address, data)
        for offset, value in post.local_apic():
            self.vcpu.write_local_apic(offset, value)
        if self.vcpu.cpuid(1)[3] & MTRR:
            for number, setting in post.mtrrs():
                self.vcpu.write_msr(number, setting)
        self.vcpu.set_registers(dict(handover.registers))

    # --- life ---

    def start(self) -> None:
        """Lets it run; returns at once."""
        if self._thread is not None:
            raise ConfigError("this machine was started before: build a new one")
        sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_INTERVAL_S))
        if self._tsc_at_stop is not None:
            self.vcpu.skip_time(self.vcpu.tsc() - self._tsc_at_stop)
        self.clock.resume()
        self._timers = TimerThread(self.clock, self.bus.lock, self._device_error)
        self._loop = EventLoopThread()
        try:
            self._attach_lines(self._loop)
            if self._screen is not None:
                self._loop.call(self._screen.attach, self._loop.loop)
            if self._consoles is not None:
                self._consoles.start(self._loop.loop)
        except BaseException:
            self._close()
            raise
        data, name = self._unchecked_initrd
        self._unchecked_initrd = (None, "")     # tens of MiB: not kept
        if data is not None:
            arguments = (data, name)
            threading.Thread(target=self._check_initrd, args=arguments, name="initrd", daemon=True).start()
        self._thread = threading.Thread(target=self._vcpu_thread, name="vcpu-0", daemon=True)
        self._thread.start()

    def _attach_lines(self, loop: EventLoopThread) -> None:
        lines: list[tuple[str, CharBackend]] = []
        lines += [(f"com{number}", tap) for number, tap in enumerate(self._taps, start=1)]
        lines += [(f"virtio_console{number}", each) for number, each in enumerate(self.virtio_consoles)]
        lines += [("debugcon", backend) for backend in self.firmware_log]

        def attach() -> None:
            for name, backend in lines:
                backend.attach(loop.loop, self.bus.locked(self.devices[name].receive))

        loop.call(attach)               # at once: each call is a switch of threads

    def run(self) -> Result:
        """Starts it and waits for its end."""
        self.start()
        result = self.wait()
        assert result is not None       # only a timeout makes it None
        return result

    def wait(self, timeout_s: float | None = None) -> Result | None:
        """How it ended; None when it still runs after `timeout_s`.  Raises the error that ended it."""
        if self._thread is None:
            raise ConfigError("this machine was never started: call start() or run()")
        with self._changed:
            if not self._changed.wait_for(lambda: self._finished, timeout_s):
                return None
        self._close()
        assert self._result is not None
        if self._result.error is not None:
            raise self._result.error
        return self._result

    def stop(self) -> None:
        """Pulls the plug; returns when it is off.  From a signal handler or a menu, use `request_stop`."""
        self.request_stop()
        if self._thread is None:
            self._close()
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self._finished, STOP_PATIENCE_S):
                raise EngineError("the virtual CPU did not stop", self._thread.name)
        self._close()

    def request_stop(self) -> None:
        """Has it end soon, and returns at once; from any thread or signal handler."""
        self._end(Result(ExitReason.STOPPED))

    def power_off(self) -> None:
        """Presses the power button: the guest is asked to shut down (ACPI)."""
        with self.bus.lock:
            self.devices["pm"].press_power_button()

    def reset(self) -> None:
        """Presses the reset button."""
        with self._changed:
            self._want_reset = True
        self._kick()

    def pause(self) -> None:
        """Stops the guest and its clock; returns when it stands."""
        with self._changed:
            self._want_pause = True
        self._kick()
        if self._thread is None or self._thread is threading.current_thread():
            return
        with self._changed:
            self._changed.wait_for(lambda: self._parked or self._finished or not self._want_pause)

    def pause_for(self, reason: str) -> None:
        """Has it stand soon, and returns at once.  It says so: nobody has asked for it."""
        with self._changed:
            self._want_pause = True
            self.pause_reason = reason
        self._kick()
        with suppress(OSError):
            line = f"ring3: {self.name} is paused: {reason}: mend that, and resume it"
            print(line, file=sys.stderr, flush=True)

    def resume(self) -> None:
        """It runs on; what the host had refused is tried again."""
        with self._changed:
            self._want_pause = False
            self.pause_reason = ""
            self._changed.notify_all()
        self._opened_media().retry()

    @property
    def paused(self) -> bool:
        return self._want_pause

    def stats(self) -> dict[str, Any]:
        return self.vcpu.stats()

    # --- checkpoints ---

    def checkpoint(self, where: str | os.PathLike[str], *, compress: bool = False) -> Path:
        """Saves all of it; `where`: a tag, or the path of a file.  Returns the path, once it is complete.

        It stands for a moment only, and runs on while the file is written.
        """
        path = self._checkpoint_path(where)
        picture = self._picture()
        with self._opened_media().steady:
            with self._standing(), self.bus.lock:
                now_ns, tsc = self.clock.now(), self._stopped_tsc()
                capture = checkpoint.Capture(self._parts(), path, now_ns, tsc)
            basis = self._basis if isinstance(where, str) else None
            self._basis = capture.write(picture=picture, compress=compress, basis=basis)
        return path

    def restore(self, where: str | os.PathLike[str], *, clock: str = "keep") -> None:
        """Goes back to a checkpoint of this machine: a tag, or the path of a file.

        `clock`: of the real-time clock, "keep" goes on where it stopped, "host" has the host's time.
        """
        with (
            SavedFile(self._checkpoint_path(where), clock) as saved,
            self._opened_media().steady,
            self._standing(),
        ):
            self._restore(saved, checkpoint.layers(saved.contents, self.config, saved.path))

    @classmethod
    def restored(cls, path: str | os.PathLike[str], *, clock: str = "keep", engine: str | None = None,
                 without_terminal: bool = False, **options: Any) -> "Machine":
        """A new machine out of a checkpoint; `start` lets it go on.

        `engine`: another one than it had.  `without_terminal`: lines and displays there come to nothing.
        Options are those of Machine, and settings of the host's side: `serial`, `display`, `audio`, …
        """
        with SavedFile(Path(path), clock) as saved:
            given = {name: options.pop(name) for name in list(options) if name in settings()}
            if engine is not None:
                given["engine"] = engine
            config = checkpoint.config_of(saved.contents, given)
            if without_terminal:
                config = away_from_terminal(config)
            options.setdefault("name", saved.contents.name)
            return cls(config, saved=saved, **options)

    def list_checkpoints(self) -> list[Listed]:
        """Of a machine with a directory for them, the oldest first; each knows its parent."""
        return listing.checkpoints(self.checkpoints) if self.checkpoints is not None else []

    def checkpoint_picture(self, where: str | os.PathLike[str]) -> bytes:
        """The screen as it was, as PNG."""
        return listing.picture(self._checkpoint_path(where))

    def remove_checkpoint(self, where: str | os.PathLike[str]) -> None:
        """Others that rest on it stay whole."""
        checkpoint.remove(self._checkpoint_path(where), [disk.path for disk in self.config.disks])

    # --- copies ---

    def fork(self, count: int = 1) -> "list[Machine]":
        """So many copies that run on from where it is now, each a Machine in this process; it runs on, too.

        They share its RAM copy-on-write.  Places that only one machine can have stay its own, see
        `config_of_copy`.
        """
        if count < 1:
            raise ConfigError(f"count: {count} copies make no sense: give 1 or more")
        made: list[Machine] = []
        with self.moment() as moment:
            config = config_of_copy(moment)
            try:
                for number in range(1, count + 1):
                    made.append(Machine(config, name=f"{self.name}-fork-{number}", saved=moment))
                    made[-1].start()
            except BaseException:
                for each in made:
                    each.stop()
                raise
        return made

    def become(self, saved: Saved, *, name: str, auto_display: str, checkpoints: Path | None) -> None:
        """Before `start`: goes on from another state, of a machine with the same configuration."""
        self.name, self.checkpoints = name, checkpoints
        self._restore(saved, checkpoint.layers(saved.contents, self.config, saved.path))
        if self._consoles is not None:
            self._consoles.close()
        self._open_consoles(import_native(), auto_display)

    def moment(self) -> Moment:
        """What copies go on from: all of it, taken in milliseconds.  Entered and left around making them."""
        import tomlkit  # noqa: F401  (here: not while the guest stands)

        media = self._opened_media()
        with media.steady:
            place = media.place_for_copies()
            with self._standing(), self.bus.lock:
                now_ns, tsc = self.clock.now(), self._stopped_tsc()
                capture = checkpoint.Capture(self._parts(), place, now_ns, tsc)
            return capture.moment()

    @contextmanager
    def speculate(self) -> Iterator["Attempt"]:
        """What the machine does inside is undone if an exception leaves the block, or on `rollback`.

            with vm.speculate() as attempt:
                ...
                attempt.rollback()

        CPU, memory, devices, disks and the clock go back; what the host has seen of it stays seen.
        """
        with self.moment() as moment:
            attempt = Attempt(partial(self._go_back, moment))
            try:
                yield attempt
            except BaseException:
                if self._result is None:        # of one that has ended nothing is left to undo
                    attempt.rollback()
                raise

    def _go_back(self, moment: Moment) -> None:
        with self._opened_media().steady, self._standing():
            self._restore(moment, checkpoint.layers(moment.contents, self.config, moment.path))

    def _checkpoint_path(self, where: str | os.PathLike[str]) -> Path:
        if not isinstance(where, str):
            return Path(where)
        if not TAG.fullmatch(where):
            raise ConfigError(f"{where!r} is no tag: give up to 63 letters, digits, '.', '_' and '-'")
        if self.checkpoints is None:
            raise ConfigError("this machine has no directory for checkpoints: give a Path, not a tag")
        return self.checkpoints / f"{where}{SUFFIX}"

    @contextmanager
    def _standing(self) -> Iterator[None]:
        """The guest stands, nothing is under way in its drives, and it runs on afterwards if it ran."""
        ran = not self._want_pause
        self.pause()
        try:
            if self._result is not None:
                raise ConfigError("this machine has ended")
            self._opened_media().drain()
            yield
        finally:
            if ran:
                self.resume()

    def _stopped_tsc(self) -> int:
        """Sets the guest's TSC to where it stopped: its timers have as much time left as then."""
        if self._tsc_at_stop is None:
            self._tsc_at_stop = self.vcpu.tsc()
        self.vcpu.skip_time(self.vcpu.tsc() - self._tsc_at_stop)
        return self._tsc_at_stop

    def _parts(self) -> "Machine.Parts":
        return Machine.Parts(self)

    class Parts:
        """What checkpoints have to do with."""

        def __init__(self, vm: "Machine") -> None:
            self.name, self.config, self.vcpu, self.devices = vm.name, vm.config, vm.vcpu, vm.devices
            self.vm = vm._vm
            self.media = vm._opened_media()
            self.rom, self.option_roms = vm._pc.rom, vm._pc.option_roms

    def _restore(self, saved: Saved, layers: Mapping[str, Place]) -> None:
        """`layers`: what disks are to go on from, if they don't yet."""
        media = self._opened_media()
        slots = checkpoint.slots(saved.contents, media.slots())
        with media.prepare(slots, layers) as prepared, self.bus.lock:
            restorer = Restorer(saved, self._parts(), prepared)
            self._restore_all(saved, restorer)

    def _restore_all(self, saved: Saved, restorer: Restorer) -> None:
        self.keyboard.reset()
        self.mouse.reset()
        self.clock.set(saved.contents.clock_ns)
        self._tsc_at_stop = restorer.restore()
        self._basis = saved.basis(self._vm.freeze) if self.checkpoints is not None else None
        self.devices["generation_id"].renew()
        flash = self._pc.flash
        if flash is not None:           # what firmware keeps is what it was, in its file, too
            flash.save(0, bytes(self.devices["flash"].state.data))

    def _picture(self) -> bytes:
        """A small PNG of the screen; b"": there is none."""
        if self._screen is None:
            return b""
        picture = self._screen.image()
        picture.thumbnail(THUMBNAIL)
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=1)
        return data.getvalue()

    # --- what a person sees and handles ---

    @property
    def screen(self) -> Screen:
        if self._screen is None:
            raise ConfigError("this machine has no screen")
        return self._screen

    def drives(self) -> dict[str, str | None]:
        """Removable drives by name, and the path of what is in them; None: empty."""
        return self._opened_media().contents()

    def consoles(self) -> list[str]:
        """Where the consoles that run can be reached."""
        return self._consoles.where() if self._consoles is not None else []

    def open_console(self, display: DisplayConfig) -> str:
        """One more, while it runs; where it can be reached."""
        if self._consoles is None:
            raise ConfigError("display: this machine has no screen")
        return self._consoles.open(display)

    def restore_terminal(self) -> None:
        """As a terminal console found it; for a process that ends without `stop`."""
        if self._consoles is not None:
            self._consoles.restore_terminal()

    def insert(self, drive: str, path: str | os.PathLike[str], *, readonly: bool = False) -> None:
        """Puts a medium into a drive, in the place of what is in it."""
        media = self._opened_media()
        media.insert(drive, self.devices.get(drive), path, readonly=readonly)

    def eject(self, drive: str, *, force: bool = False) -> None:
        """Takes the medium out; `force`: though the guest has locked the drive."""
        self._opened_media().eject(drive, self.devices.get(drive), force=force)

    def _opened_media(self) -> Media:
        assert self.media is not None   # from `_build` on
        return self.media

    def __enter__(self) -> "Machine":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self._result is not None and self._result.error is not None:
            raise self._result.error

    # --- the vCPU's side (vcpu.Control) ---

    def attend(self) -> bool:
        if not self._attention:
            return True
        self._attention = False         # before looking: what is asked for from now on sets it again
        if self._want_pause and self._result is None:
            self._park()
        with self._changed:
            reset, self._want_reset = self._want_reset, False
            ended = self._result is not None
        if reset and not ended:
            self._power_on_again()
        return self._result is None

    def _park(self) -> None:
        """Stands until resumed or ended, and the guest's clocks with it."""
        self._tsc_at_stop = self.vcpu.tsc()
        with self.bus.lock:
            self.clock.pause()
        with self._changed:
            self._parked = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._want_pause or self._result is not None)
            self._parked = False
        self.vcpu.skip_time(self.vcpu.tsc() - self._tsc_at_stop)
        self._tsc_at_stop = None
        with self.bus.lock:
            self.clock.resume()
            if self._timers is not None:
                self._timers.wake()

    def _power_on_again(self) -> None:
        """Kernel and initrd are read anew, so that their bytes need not be kept."""
        try:
            self._power_on(load_kernel(self.config) if self.config.starts_with == "kernel" else None)
        except VmError as error:
            self._end(Result(ExitReason.ERROR, error=error))

    def triple_fault(self) -> None:
        if self.config.on_triple_fault == "stop":
            self._end(Result(ExitReason.TRIPLE_FAULT, report=triple_fault_report(self.vcpu)))
        else:
            self._guest_reset()

    def engine_error(self, report: str) -> None:
        first = report.splitlines()[0] if report else "no report"
        self._end(Result(ExitReason.ERROR, error=EngineError(f"the CPU engine failed: {first}", report)))

    def _guest_reset(self) -> None:
        if self.config.reboot:
            self.reset()
        else:
            self._end(Result(ExitReason.RESET))

    def _device_error(self, error: BaseException) -> None:
        """A chip raised: our bug, never the guest's."""
        failure = EngineError(f"a device failed: {error!r}")
        failure.__cause__ = error
        self._end(Result(ExitReason.ERROR, error=failure))

    def _check_initrd(self, data: bytes, name: str) -> None:
        """Beside the guest, which needs seconds until it misses anything."""
        try:
            initrd.check(data, name)
        except ConfigError as error:
            self._end(Result(ExitReason.ERROR, error=error))

    def _end(self, result: Result) -> None:
        with self._changed:
            if self._result is None:
                self._result = result
            self._changed.notify_all()
        self._kick()

    def _kick(self) -> None:
        self._attention = True          # first: the kicked vCPU looks at it
        self.vcpu.kick()

    def _vcpu_thread(self) -> None:
        try:
            vcpu_loop.run(self.vcpu, self)
        except BaseException as error:
            self._device_error(error)
        finally:
            if self._screen is not None and self._loop is not None:
                self._loop.loop.call_soon_threadsafe(self._screen.close)    # who waits for it waits in vain
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    # --- the end ---

    def _close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
        if self._thread is not None:
            self._thread.join()
        if self._timers is not None:
            self._timers.stop()
        if self._loop is not None:
            if self._consoles is not None:
                self._consoles.stop()
            if self._screen is not None:
                self._loop.call(self._screen.close)
            self._loop.stop()
        self._close_backends()

    def _close_backends(self) -> None:
        if self._consoles is not None:
            self._consoles.close()
        printers = [backend for backend in self.parallel if backend is not None]
        lines = (*self._taps, *printers, *self.virtio_consoles, *self.firmware_log)
        for backend in (*lines, self._audio_sink):
            backend.close()
        if self.roms is not None:
            self.roms.close()
        if self.media is not None:
            self.media.close()


# --- building blocks ---


def away_from_terminal(config: MachineConfig) -> MachineConfig:
    """Lines on stdio go to memory, and there is no terminal display."""
    lines = tuple("memory" if line == "stdio" else line for line in config.serial_ports)
    displays = tuple(display for display in config.displays if display.kind != "terminal")
    return replace(config, {"serial": lines, "display": displays or ("none",)})


def config_of_copy(moment: Moment) -> MachineConfig:
    """Of a copy beside its machine: it touches no place of the host that only one of the two can have.

    Lines to the terminal, files and sockets go to memory, print and sound nowhere; displays have their own
    place; what is written to disks, or by UEFI firmware to its variables, is gone with the copy.
    """
    def own(lines: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(line if line in ("memory", "none", "pty") else "memory" for line in lines)

    config = checkpoint.config_of(moment.contents, {})
    printers = tuple(line if line == "none" else "file:/dev/null" for line in config.parallel_ports)
    disks = tuple(disk if disk.readonly else dataclasses.replace(disk, mode="nonpersistent")
                  for disk in config.disks)
    displays = tuple(each for each in config.displays if not each.address and each.kind != "terminal")
    changes = {"serial": own(config.serial_ports), "virtio_console": own(config.virtio_consoles),
               "parallel": printers, "audio": "none", "firmware_log": "none", "uefi_variables": "",
               "display": displays or ("none",), "disk": disks}
    return replace(config, changes)


def roms_of(saved: Saved) -> dict[str, Any]:
    return {"rom": saved.contents.rom, "option_roms": saved.contents.option_roms}


def import_native() -> Any:
    """The extension module, or how to get it."""
    try:
        from ring3 import _native
    except ImportError as error:
        raise HostError(f"the native module ring3._native is missing ({error}): run `make build`") from error
    return _native


def create_vcpu(native: Any, config: MachineConfig) -> "tuple[_native.Vm, _native.Vcpu]":
    memory = config.memory_bytes
    models = native.cpu_models()
    if config.cpu not in models:
        raise ConfigError(f"cpu: {config.cpu!r} is no CPU model: give one of {', '.join(models)}")
    try:
        vm = native.Vm(memory, e820.split(memory)[0])
        engine = "translate" if config.engine == "auto" else config.engine
        return vm, native.Vcpu(vm, engine=engine, cpu=config.cpu, hypervisor=config.hypervisor)
    except (MemoryError, OSError) as error:
        raise HostError(f"the host cannot give {memory >> 20} MiB to the machine: {error}") from error


def open_lines(specs: Sequence[Any], menu: Mapping[str, Callable[[], None]] | None) -> list[Any]:
    """A backend for each line: COM ports, virtio consoles."""
    backends: list[CharBackend] = []
    try:
        for spec in specs:
            if spec == "memory":
                backends.append(MemoryBackend())
            elif isinstance(spec, str):
                backends.append(open_backend(spec, menu))
            else:
                backends.append(spec)
    except BaseException:
        for backend in backends:
            backend.close()
        raise
    return list(backends)


def open_printers(specs: Sequence[Any]) -> list[Any]:
    """A backend for each parallel port, or None."""
    backends: list[CharBackend | None] = []
    try:
        for spec in specs:
            backends.append(open_printer(spec) if isinstance(spec, str) else spec)
    except BaseException:
        for backend in backends:
            if backend is not None:
                backend.close()
        raise
    return list(backends)


def load_kernel(config: MachineConfig) -> Kernel:
    """Reads the files that the configuration names."""
    if config.kernel is None:
        from importlib import resources  # here: it costs what most machines don't need

        data = resources.files("ring3.firmware").joinpath(EMBEDDED_GUEST)
        if not data.is_file():
            raise ConfigError("kernel: the embedded guest is not built: run `make build`, or give --kernel")
        return Kernel(data.read_bytes(), name="ring3", command_line=config.append)
    kernel, name = read_file("kernel", config.kernel)
    if config.initrd is None:
        return Kernel(kernel, name, command_line=config.append)
    initrd_data, initrd_name = read_file("initrd", config.initrd)
    return Kernel(kernel, name, initrd_data, initrd_name, config.append)


def read_file(setting: str, file: File) -> tuple[bytes, str]:
    """Contents and a name for messages."""
    if isinstance(file, bytes):
        return file, setting
    try:
        path = Path(file)
        if path.exists() and not path.is_dir() and not path.is_file():
            raise ConfigError(f"{setting}: {file} is no regular file: give the path of one")
        return path.read_bytes(), str(file)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{setting}: {file}: {reason}: give the path of a readable file") from error
    except ValueError as error:         # a NUL in the path
        raise ConfigError(f"{setting}: {file!r} is no path ({error})") from error
