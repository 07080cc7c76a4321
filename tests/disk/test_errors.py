"""Hosts that refuse for a while: what `error=report` and `error=pause` make of it."""

import errno
import os
import random
import subprocess
import threading

import pytest

from ring3.cli.main import invoke
from ring3.config import configure
from ring3.disk import DiskWorker, create_image, modes, open_image, tools
from ring3.errors import ConfigError, HostError
from ring3.media import Media

PATIENCE_S = 60


class Moody:
    """An image in memory whose host refuses as long as `error` is set."""

    read_only = False

    def __init__(self, error=errno.ENOSPC):
        self.content = bytearray(4096)
        self.size_bytes = len(self.content)
        self.error = error
        self.tried = 0
        self.closed = False

    def _try(self):
        self.tried += 1
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def read(self, offset, length):
        self._try()
        return bytes(self.content[offset : offset + length])

    def read_now(self, offset, length):
        if self.error:
            raise OSError(self.error, os.strerror(self.error))

    def write(self, offset, data):
        self._try()
        self.content[offset : offset + len(data)] = data

    def flush(self):
        self._try()

    def discard(self, offset, length):
        self.write(offset, bytes(length))

    def close(self):
        self.closed = True


class Stopped:
    """What the machine hears."""

    def __init__(self):
        self.errors = []
        self._heard = threading.Semaphore(0)

    def __call__(self, error):
        self.errors.append(error)
        self._heard.release()

    def wait(self):
        assert self._heard.acquire(timeout=PATIENCE_S)


@pytest.fixture
def stopped():
    return Stopped()


@pytest.fixture
def moody():
    return Moody()


@pytest.fixture
def drive(moody, stopped):
    drive = DiskWorker(moody, threading.RLock(), refused=stopped)
    yield drive
    drive.close()


def test_a_refused_request_stops_the_machine_and_the_guest_hears_nothing(drive, stopped):
    answers = []
    drive.write(0, b"x", answers.append)
    stopped.wait()
    assert [error.errno for error in stopped.errors] == [errno.ENOSPC]
    assert answers == []


def test_a_refused_request_is_tried_again(drive, moody, stopped):
    answers = []
    drive.write(0, b"x", answers.append)
    stopped.wait()
    moody.error = 0
    drive.retry()
    assert drive.drain() is None
    assert answers == [None]
    assert moody.content[:1] == b"x"


def test_it_stops_again_for_what_is_refused_again(drive, stopped):
    drive.flush(lambda _: None)
    for _ in range(3):
        stopped.wait()
        drive.retry()
    assert len(stopped.errors) >= 3


def test_requests_behind_a_refused_one_stay_in_order(drive, moody, stopped):
    answers = []
    drive.write(0, b"x", lambda outcome: answers.append(("write", outcome)))
    drive.read(0, 1, lambda outcome: answers.append(("read", outcome)))
    stopped.wait()
    moody.error = 0
    drive.retry()
    drive.drain()
    assert answers == [("write", None), ("read", b"x")]


def test_draining_says_what_a_request_waits_for(drive, stopped):
    drive.discard(0, 512, lambda _: None)
    assert drive.drain().errno == errno.ENOSPC


def test_a_drive_that_is_closed_gives_up(moody, stopped):
    drive = DiskWorker(moody, threading.RLock(), refused=stopped)
    answers = []
    drive.write(0, b"x", answers.append)
    stopped.wait()
    drive.close()
    assert [answer.errno for answer in answers] == [errno.ENOSPC]
    assert moody.closed


def test_a_write_that_is_the_guests_own_mistake_stops_nothing(drive, moody, stopped):
    moody.error = errno.EROFS
    answers = []
    drive.write(0, b"x", answers.append)
    drive.drain()
    assert [answer.errno for answer in answers] == [errno.EROFS]
    assert stopped.errors == []


def test_a_read_at_once_that_meets_damage_is_no_exception_in_the_guests_access(moody):
    drive = DiskWorker(moody, threading.RLock())
    answers = []
    drive.read(0, 512, answers.append)
    drive.drain()
    assert [answer.errno for answer in answers] == [errno.ENOSPC]
    drive.close()


def test_only_report_and_pause_are_ways(tmp_path):
    assert configure({"disk": "x.img,error=pause"}).disks[0].error == "pause"
    with pytest.raises(ConfigError, match="report, pause"):
        configure({"disk": "x.img,error=ignore"})


# --- a small file system ---


@pytest.fixture
def small(tmp_path):
    """A file system of 4 MiB, and how to make it larger."""
    if os.geteuid() != 0:
        pytest.skip("mounts a file system of 4 MiB")
    path = tmp_path / "small"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", path], check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


def larger(path):
    subprocess.run(["mount", "-o", "remount,size=32m", path], check=True)


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
@pytest.mark.parametrize("mode", ["persistent", "undoable", "nonpersistent"])
def test_a_full_host_pauses_and_loses_nothing(small, monkeypatch, mode, kind):
    monkeypatch.setenv("RING3_SCRATCH", str(small))
    path = small / "disk"
    create_image(path, 8 << 20, kind)
    reasons, heard = [], threading.Semaphore(0)

    def pause(reason):
        reasons.append(reason)
        heard.release()

    media = Media(threading.RLock(), lambda error: pytest.fail(repr(error)), pause)
    (disk,) = media.disks(configure({"disk": f"{path},mode={mode},error=pause"}))
    data, answers = random.Random(5).randbytes(8 << 20), []
    for offset in range(0, len(data), 1 << 18):
        disk.drive.write(offset, data[offset : offset + (1 << 18)], answers.append)
        disk.drive.flush(answers.append)
    assert heard.acquire(timeout=PATIENCE_S)
    assert reasons == ["disk0: No space left on device"]
    with pytest.raises(HostError, match="disk0 waits for the host: No space left"):
        media.drain()
    larger(small)
    media.retry()
    media.drain()
    assert answers == [None] * 64
    disk.drive.read(0, len(data), answers.append)
    media.drain()
    assert answers[-1] == data
    media.close()
    if kind == "qcow2" and mode == "persistent":
        assert tools.verify(path).errors == 0
    if mode == "undoable":
        assert tools.verify(modes.undo_path(path)).errors == 0


def test_tables_that_did_not_reach_the_disk_are_written_again(tmp_path):
    path = tmp_path / "disk.qcow2"
    create_image(path, 8 << 20, "qcow2")
    image = open_image(path)
    image.write(0, b"x" * 300_000)
    flush, refused = image.file.flush, [errno.EIO] * 3

    def failing():
        if refused:
            raise OSError(refused.pop(), "I/O error")
        flush()

    image.file.flush = failing
    for _ in range(3):
        with pytest.raises(OSError, match="I/O error"):
            image.flush()
    written = []
    write = image.file.write
    image.file.write = lambda offset, data: (written.append(offset), write(offset, data))
    image.flush()
    block = int.from_bytes(path.read_bytes()[1 << 16 : (1 << 16) + 8], "big")
    assert block in written
    image.close()
    assert tools.verify(path).errors == 0


def test_a_copy_that_finds_no_space_is_one_line_and_leaves_nothing(small, tmp_path, capsys):
    (tmp_path / "source").write_bytes(random.Random(6).randbytes(8 << 20))
    assert invoke(["disk", "convert", str(tmp_path / "source"), str(small / "copy")]) != 0
    assert capsys.readouterr().err == "ring3: disk: No space left on device\n"
    assert list(small.iterdir()) == []


def test_what_a_full_host_does_not_take_at_power_off_is_said(moody):
    media = Media(threading.RLock(), lambda error: pytest.fail(repr(error)), lambda reason: None)
    media.disks(configure({"disk": moody}))

    def close():
        raise OSError(errno.ENOSPC, "No space left on device")

    moody.close = close
    with pytest.raises(HostError, match=r"disk0: No space left on device: .* lost"):
        media.close()
