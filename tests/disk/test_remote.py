"""Images on a web server: fetched in ranges, each block once, whatever the server does."""

import errno
import itertools
import random
import shutil
import subprocess
import threading
from functools import partial

import pytest

from kills import CYCLES, killed
from range_server import RangeServer
from ring3.cli.main import invoke
from ring3.config import configure, toml
from ring3.config.places import Url
from ring3.disk import DiskWorker, create_image, modes, open_image, qcow2, worker
from ring3.disk.remote import cache, source
from ring3.errors import ConfigError

SIZE = 3 << 20
BLOCK = cache.BLOCK_BYTES
PATH = "/disk.img"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("RING3_HOME", str(tmp_path / "home"))


@pytest.fixture
def server(content):
    server = RangeServer({PATH: content})
    yield server
    server.close()


class Time:
    """Passes only in pauses."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture
def quick(monkeypatch):
    time = Time()
    monkeypatch.setattr(source, "time", time)
    return time


def opened(server, name="disk.img", **options):
    return open_image(server.url(name), read_only=True, **options)


# --- reading ---


def test_it_reads_as_the_file_does(server, content):
    image = opened(server)
    assert image.size_bytes == SIZE
    rng = random.Random(1)
    for _ in range(40):
        offset = rng.randrange(SIZE)
        length = rng.randrange(min(200_000, SIZE - offset))
        assert image.read(offset, length) == content[offset : offset + length]
    image.close()


def test_only_blocks_that_are_read_are_fetched(server):
    image = opened(server)
    image.read(1 << 20, 512)
    image.close()
    assert server.asked == [(PATH, 0, 1), (PATH, 0, BLOCK), (PATH, 1 << 20, (1 << 20) + BLOCK)]


def test_a_block_is_fetched_once_for_all_processes_and_times(server, content):
    for _ in range(2):
        image = opened(server)
        assert image.read(100_000, 300_000) == content[100_000:400_000]
        image.close()
    assert [asked for asked in server.asked if asked[1]] == [(PATH, BLOCK, 7 * BLOCK)]


def test_what_was_read_before_needs_no_waiting(server, content):
    image = opened(server)
    assert image.read_now(BLOCK, 512) is None
    image.read(BLOCK, 512)
    assert image.read_now(BLOCK, 512) == content[BLOCK : BLOCK + 512]
    image.close()


def test_a_read_in_sequence_takes_few_requests_and_one_connection(server, content):
    image = opened(server)
    assert b"".join(image.read(at, BLOCK) for at in range(0, SIZE, BLOCK)) == content
    image.close()
    assert len(server.asked) < 8
    assert server.connections == 1


def test_a_file_whose_size_is_no_whole_number_of_blocks_ends_right(server, content):
    server.files["/odd"] = content[: 2 * BLOCK + 1000]
    image = opened(server, "odd")
    assert image.size_bytes == 2 * BLOCK + 1024
    assert image.read(2 * BLOCK, 1024) == content[2 * BLOCK : 2 * BLOCK + 1000] + bytes(24)
    image.close()


@pytest.mark.parametrize("known", ["qcow2", "vmdk", "vdi", "vpc", "vhdx"])
def test_images_of_all_formats_are_read(server, content, tmp_path, known):
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed: scripts/setup test installs it")
    (tmp_path / "raw").write_bytes(content)
    command = ["qemu-img", "convert", "-O", known, "raw", "image"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    server.files["/image"] = (tmp_path / "image").read_bytes()
    image = opened(server, "image")
    assert known == image.FORMAT
    assert image.read(0, SIZE) == content
    image.close()


# --- what is kept on the host ---


def files_of(server):
    return cache.directory_of(Url(server.url()))


def test_a_block_that_was_torn_is_fetched_again(server, content):
    image = opened(server)
    image.read(0, SIZE)
    image.close()
    with (files_of(server) / "image").open("r+b") as file:
        file.seek(5 * BLOCK + 77)
        file.write(b"torn")
    server.asked.clear()
    image = opened(server)
    assert image.read(0, SIZE) == content
    image.close()
    assert server.asked[1:] == [(PATH, 5 * BLOCK, 6 * BLOCK)]


@pytest.mark.parametrize("seed", range(CYCLES))
def test_killed_while_fetching_no_block_is_torn(server, content, tmp_path, seed):
    killed("fetch", tmp_path, seed, server.url())
    image = opened(server)
    assert image.read(0, SIZE) == content
    image.close()


def test_a_host_without_space_for_blocks_reads_all_the_same(server, content, monkeypatch):
    image = opened(server)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(cache.os, "pwrite", full)
    assert image.read(0, SIZE) == content
    assert image.read(0, SIZE) == content
    image.close()


def test_blocks_of_another_version_are_never_mixed_in(server):
    opened(server).close()
    server.etag = '"two"'
    with pytest.raises(ConfigError, match=r"changed on the server.*ring3 disk cache --clear http"):
        opened(server)
    assert invoke(["disk", "cache", "--clear", server.url()]) == 0
    opened(server).close()


def test_an_image_that_changes_in_use_is_the_drives_error(server):
    image = opened(server)
    server.etag = '"two"'
    with pytest.raises(OSError, match="changed on the server"):
        image.read(BLOCK, 512)
    image.close()


def test_a_date_does_where_there_is_no_etag(server):
    server.etag = None
    date = "Sun, 06 Nov 1994 08:49:37 GMT"

    def dated(handler, start, stop):
        server.send_part(handler, start, server.files[PATH][start:stop], SIZE, Last_Modified=date)
        return True

    server.trouble = dated
    opened(server).close()
    date = "Sun, 06 Nov 1994 08:49:38 GMT"
    with pytest.raises(ConfigError, match="changed on the server"):
        opened(server)


def test_what_is_kept_is_listed_and_forgotten(server, capsys):
    image = opened(server)
    image.read(0, 1 << 20)
    image.close()
    assert invoke(["disk", "cache"]) == 0
    assert server.url() in capsys.readouterr().out
    assert invoke(["disk", "cache", "--clear"]) == 0
    assert invoke(["disk", "cache"]) == 0
    assert capsys.readouterr().out == ""


# --- servers ---


@pytest.mark.parametrize(("headers", "message"), [
    ({"status": 200}, "does not answer range requests"),
    ({"status": 404}, "answers 404"),
    ({"status": 403}, "answers 403"),
    ({"status": 416}, "empty"),
    ({"Content_Range": None}, "wrongly"),
    ({"Content_Range": "bytes 5-5/100"}, "wrongly"),
    ({"Content_Range": "bytes 0-1048576/3145728"}, "wrongly"),
    ({"Content_Range": "bytes 0-0/*"}, "wrongly"),
    ({"Content_Range": "bytes 0-0/0"}, "wrongly"),
    ({"Content_Range": "bytes 0-0/" + "9" * 400}, "wrongly"),
    ({"length": 5_000_000_000}, "wrongly"),
    ({"Content_Encoding": "gzip"}, "wrongly"),
    ({"ETag": None}, "neither ETag nor Last-Modified"),
    ({"status": 302}, "leads to"),
    ({"status": 302, "Location": "file:///etc/passwd"}, "leads to"),
    ({"status": 302, "Location": "http://[/"}, "leads to"),
    ({"status": 302, "Location": PATH}, "in circles"),
    ({"Content_Range": "bytes 0-0/9000000000000000000"}, "64T"),
])
def test_a_server_that_will_not_do_is_one_clear_line(server, quick, headers, message):
    def trouble(handler, start, stop):
        server.send_part(handler, start, server.files[PATH][start:stop], SIZE, **headers)
        return True

    server.trouble = trouble
    with pytest.raises(ConfigError, match=message) as raised:
        opened(server)
    assert "\n" not in str(raised.value)
    assert server.url() in str(raised.value)


def test_nobody_at_the_address_is_one_clear_line(server, quick):
    url = server.url()
    server.close()
    server.close = lambda: None
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1 does not deliver: .*refused"):
        open_image(url, read_only=True)


@pytest.mark.parametrize("location", ["http://example.org/disk.img", "ftp://example.org/x"])
def test_a_redirect_from_https_to_less_is_not_followed(location):
    with pytest.raises(OSError, match="not followed"):
        source.follow("https://example.org/disk.img", location)


def test_redirects_are_followed_and_remembered(server, content):
    def trouble(handler, start, stop):
        if handler.path == "/latest":
            server.send_part(handler, 0, b"", 0, status=302, Location="disk.img?signed=1")
            return True
        return False

    server.trouble = trouble
    image = opened(server, "latest")
    assert image.read(0, BLOCK) == content[:BLOCK]
    assert [path for path, _, _ in server.asked] == ["/latest", PATH, PATH]
    image.close()


def test_where_a_redirect_led_once_may_not_hold(server, content, quick):
    signed = itertools.count()
    valid = []

    def trouble(handler, start, stop):
        if handler.path == "/latest":
            valid[:] = [f"/disk.img?{next(signed)}"]
            server.send_part(handler, 0, b"", 0, status=302, Location=valid[0])
            return True
        if handler.path not in valid:
            server.send_part(handler, 0, b"", 0, status=403)
            return True
        return False

    server.trouble = trouble
    image = opened(server, "latest")
    valid.clear()
    assert image.read(BLOCK, BLOCK) == content[BLOCK : 2 * BLOCK]
    image.close()


def test_the_environments_proxy_is_asked(server, content, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url(""))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.files["http://nowhere.invalid/disk.img"] = content
    image = open_image("http://nowhere.invalid/disk.img", read_only=True)
    assert image.read(0, BLOCK) == content[:BLOCK]
    image.close()


def failing(server, times, fail):
    left = itertools.count(-times)

    def trouble(handler, start, stop):
        if stop == 1 or next(left) >= 0:
            return False
        fail(handler, start, stop)
        return True

    return trouble


def cut_off(server):
    def fail(handler, start, stop):
        values = {"Content_Range": f"bytes {start}-{stop - 1}/{SIZE}", "length": stop - start}
        server.send_part(handler, start, b"", SIZE, **values)
        handler.close_connection = True

    return fail


def busy(server):
    return lambda handler, start, stop: server.send_part(handler, start, b"", SIZE, status=503)


def hung_up(server):
    def fail(handler, start, stop):
        handler.close_connection = True

    return fail


@pytest.mark.parametrize("kind", [cut_off, busy, hung_up])
def test_what_fails_for_a_while_is_tried_again(server, content, quick, kind):
    image = opened(server)
    server.trouble = failing(server, 5, kind(server))
    assert image.read(0, 300_000) == content[:300_000]
    assert quick.now_s > 0
    image.close()


@pytest.mark.parametrize("kind", [cut_off, busy, hung_up])
def test_what_fails_for_long_is_the_drives_error_in_time(server, quick, kind):
    image = opened(server)
    server.trouble = failing(server, 1000, kind(server))
    drive, answers = DiskWorker(image, threading.Lock()), []
    drive.read(0, 300_000, answers.append)
    drive.drain()
    assert [type(each) for each in answers] == [TimeoutError]
    assert quick.now_s <= source.LIMIT_S
    server.trouble = lambda *_: False
    drive.read(0, 512, answers.append)
    drive.drain()
    assert isinstance(answers[1], bytes)
    drive.close()


@pytest.fixture
def silence(server, monkeypatch):
    """The server does not answer until the end, and nobody's patience with it ends before."""
    monkeypatch.setattr(source, "SILENCE_S", 1e6)
    monkeypatch.setattr(worker, "CLOSING_S", 0)
    asked, over = threading.Event(), threading.Event()

    def silent(handler, start, stop):
        if start:                       # else it is being opened
            asked.set()
            over.wait()

    server.trouble = silent
    yield asked
    over.set()


@pytest.mark.timeout(60)
def test_a_drive_whose_server_is_silent_can_be_closed(server, silence):
    drive, answers = DiskWorker(opened(server), threading.Lock()), []
    for n in range(1, 5):
        drive.read(n << 18, 512, answers.append)
    silence.wait()
    drive.close()
    assert [type(each) for each in answers] == [TimeoutError] * 4


@pytest.mark.timeout(60)
def test_what_a_closed_drive_was_to_write_is_written_though_the_server_is_silent(server, silence, tmp_path):
    create_image(tmp_path / "top.qcow2", SIZE, "qcow2", backing=server.url(), backing_format="raw")
    overlay = partial(open_image, tmp_path / "top.qcow2", backing_anywhere=True)
    drive = DiskWorker(overlay(), threading.Lock())
    drive.read(1 << 20, 512, lambda _: None)
    drive.write(0, b"\xa5" * BLOCK, lambda _: None)
    silence.wait()
    drive.close()
    image = overlay()
    assert image.read(0, BLOCK) == b"\xa5" * BLOCK
    image.close()


@pytest.mark.timeout(15)                # shorter than a read may take
def test_a_drive_whose_server_has_gone_can_be_closed(server, monkeypatch):
    monkeypatch.setattr(worker, "CLOSING_S", 0)
    image = opened(server)
    server.trouble = failing(server, 1000, hung_up(server))
    drive, answers = DiskWorker(image, threading.Lock()), []
    drive.read(1 << 20, 512, answers.append)
    drive.close()
    assert [type(each) for each in answers] == [TimeoutError]


def test_a_server_that_drips_does_not_hold_a_read_for_ever(server, quick, monkeypatch):
    image = opened(server)
    some = image.file._source._some

    def drip(offset, length, ahead):
        quick.now_s += 9
        return some(offset, 1, ahead)

    monkeypatch.setattr(image.file._source, "_some", drip)
    with pytest.raises(TimeoutError):
        image.read(BLOCK, 512)
    image.close()


def test_a_server_that_sends_less_than_asked_is_asked_for_the_rest(server, content):
    def trouble(handler, start, stop):
        part = server.files[PATH][start : min(stop, start + 1000)]
        server.send_part(handler, start, part, SIZE)
        return True

    server.trouble = trouble
    image = opened(server)
    assert image.read(0, 70_000) == content[:70_000]
    image.close()


# --- names ---


@pytest.mark.parametrize("name", ["base.img", "/base.img", "/etc/shadow", "http://x/", "../base.img"])
def test_names_in_a_remote_image_are_not_followed(server, name):
    server.files["/evil.qcow2"] = qcow2.create(1 << 20, backing=name, backing_format="raw")
    with pytest.raises(ConfigError, match="only files are followed"):
        opened(server, "evil.qcow2")


def test_names_in_a_trusted_remote_image_lead_to_its_server(server, content):
    server.files["/dir/top.qcow2"] = qcow2.create(SIZE, backing="../disk.img", backing_format="raw")
    image = opened(server, "dir/top.qcow2", backing_anywhere=True)
    assert image.read(0, SIZE) == content
    image.close()


@pytest.mark.parametrize("name", ["file:///etc/passwd", "nbd:localhost:1", "json:{}"])
def test_names_in_a_trusted_remote_image_lead_to_no_other_protocol(server, name):
    server.files["/evil.qcow2"] = qcow2.create(1 << 20, backing=name, backing_format="raw")
    with pytest.raises(ConfigError, match="not followed"):
        opened(server, "evil.qcow2", backing_anywhere=True)


def test_a_local_overlay_on_a_remote_image_is_used_if_it_is_trusted(server, content, tmp_path):
    create_image(tmp_path / "top.qcow2", SIZE, "qcow2", backing=server.url(), backing_format="raw")
    with pytest.raises(ConfigError, match="backing_anywhere"):
        open_image(tmp_path / "top.qcow2")
    image = open_image(tmp_path / "top.qcow2", backing_anywhere=True)
    image.write(512, b"\xa5" * 512)
    assert image.read(0, 2048) == content[:512] + b"\xa5" * 512 + content[1024:2048]
    image.close()


@pytest.mark.parametrize("url", ["https://u:p@example.org/x", "http:///x", "http://h:0/x", "http://h/a b"])
def test_what_is_no_url_is_said(url):
    with pytest.raises(ConfigError, match="URL"):
        configure({"disk": f"{url},readonly"})


def test_a_url_stays_one_in_a_machine_file(tmp_path):
    config = configure({"disk": "https://example.org/d.qcow2,readonly", "cdrom": "http://example.org/c.iso"})
    again = toml.loads(toml.dumps(config, tmp_path), base=tmp_path)
    assert again.disks[0].path == "https://example.org/d.qcow2"
    assert again.cdroms[0].path == "http://example.org/c.iso"


# --- modes ---


def test_it_is_only_read(server):
    with pytest.raises(ConfigError, match=r"only read.*nonpersistent"):
        open_image(server.url())
    with pytest.raises(ConfigError, match=r"only read.*nonpersistent"):
        configure({"disk": server.url()})


def test_nonpersistent_changes_go_nowhere(server, content):
    for _ in range(2):
        disk = modes.open_disk(server.url(), "nonpersistent")
        assert disk.read(0, 512) == content[:512]
        disk.write(0, b"x" * 512)
        assert disk.read(0, 1024) == b"x" * 512 + content[512:1024]
        disk.close()


def test_undoable_changes_stay_until_they_are_discarded(server, content):
    disk = modes.open_disk(server.url(), "undoable")
    disk.write(0, b"x" * 512)
    disk.close()
    disk = modes.open_disk(server.url(), read_only=True)
    assert disk.read(0, 1024) == b"x" * 512 + content[512:1024]
    disk.close()
    with pytest.raises(ConfigError, match=r"only read: discard its changes, or: ring3 disk convert"):
        modes.keep(server.url())
    assert invoke(["disk", "discard", server.url()]) == 0
    disk = modes.open_disk(server.url(), read_only=True)
    assert disk.read(0, 512) == content[:512]
    disk.close()


def test_undoable_changes_of_another_version_are_refused(server):
    modes.open_disk(server.url(), "undoable").close()
    server.etag = '"two"'
    cache.clear()
    with pytest.raises(ConfigError, match=r"changed under its undecided changes: ring3 disk discard"):
        modes.open_disk(server.url(), "undoable")
    modes.discard(server.url())
    modes.open_disk(server.url(), "undoable").close()


def test_a_frozen_overlay_on_a_remote_image_is_read_from_another_directory(server, content, tmp_path):
    disk = modes.open_disk(server.url(), "undoable")
    disk.write(0, b"x" * 512)
    disk.freeze(modes.undo_path(Url(server.url())).parent / "frozen")
    disk.write(512, b"y" * 512)
    disk.close()
    disk = modes.open_disk(server.url(), "undoable")
    assert disk.read(0, 2048) == b"x" * 512 + b"y" * 512 + content[1024:2048]
    disk.close()


# --- tools ---


def test_tools_take_urls(server, content, tmp_path, capsys):
    url, copy = server.url(), tmp_path / "copy.qcow2"
    for arguments in (["info", url], ["map", url], ["check", url], ["convert", url, str(copy)],
                      ["compare", url, str(copy)]):
        assert invoke(["disk", *arguments]) == 0
    assert "the same" in capsys.readouterr().out
    image = open_image(copy, read_only=True)
    assert image.read(0, SIZE) == content
    image.close()


def test_tools_make_an_overlay_on_a_url(server, content, tmp_path):
    path = tmp_path / "over.qcow2"
    assert invoke(["disk", "create", str(path), "--backing", server.url()]) == 0
    image = open_image(path, backing_anywhere=True)
    assert image.read(0, SIZE) == content
    image.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_server_with_a_certificate_of_its_own_making_is_refused(server, tmp_path, quick):
    import ssl

    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=60)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
    url = server.url().replace("http:", "https:")
    with pytest.raises(ConfigError, match="not who it says"):
        open_image(url, read_only=True)
