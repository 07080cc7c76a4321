"""The asynchronous drive over an image.  Its thread is waited for by `drain`, never by sleeping."""

import threading

import pytest

from ring3.disk import DiskWorker


class MemoryImage:
    """An image whose page cache is `cached`, and whose host waits at `gate`."""

    read_only = False

    def __init__(self, cached=False):
        self.content = bytearray(4096)
        self.size_bytes = len(self.content)
        self.cached = cached
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def read(self, offset, length):
        self.gate.wait()
        return bytes(self.content[offset : offset + length])

    def read_now(self, offset, length):
        return bytes(self.content[offset : offset + length]) if self.cached else None

    def write(self, offset, data):
        self.gate.wait()
        if offset == 13:
            raise OSError(28, "No space left on device")
        self.content[offset : offset + len(data)] = data

    def flush(self):
        pass

    def discard(self, offset, length):
        self.write(offset, bytes(length))

    def close(self):
        self.closed = True


@pytest.fixture
def lock():
    return threading.RLock()


def test_a_cached_read_is_done_before_the_call_returns(lock):
    answers = []
    drive = DiskWorker(MemoryImage(cached=True), lock)
    drive.read(0, 4, answers.append)
    assert answers == [bytes(4)]


def test_a_read_sees_the_write_before_it(lock):
    image = MemoryImage(cached=True)
    image.gate.clear()
    drive = DiskWorker(image, lock)
    answers = []
    drive.write(0, b"abcd", answers.append)
    drive.read(0, 4, answers.append)
    assert answers == []
    image.gate.set()
    drive.drain()
    assert answers == [None, b"abcd"]


def test_answers_come_under_the_machine_lock(lock):
    drive = DiskWorker(MemoryImage(), lock)
    owned = []
    drive.flush(lambda error: owned.append(lock._is_owned()))
    drive.drain()
    assert owned == [True]


def test_an_error_of_the_host_is_the_answer(lock):
    drive = DiskWorker(MemoryImage(), lock)
    answers = []
    drive.write(13, b"x", answers.append)
    drive.discard(0, 8, answers.append)
    drive.drain()
    assert [type(answer) for answer in answers] == [OSError, type(None)]


def test_an_answer_may_ask_again(lock):
    drive = DiskWorker(MemoryImage(), lock)
    answers = []

    def again(data):
        answers.append(data)
        if len(answers) < 3:
            drive.read(len(answers), 1, again)

    drive.read(0, 1, again)
    drive.drain()
    assert len(answers) == 3


def test_closing_works_off_the_queue_and_closes_the_image(lock):
    image = MemoryImage()
    drive = DiskWorker(image, lock)
    answers = []
    for at in range(20, 40):
        drive.write(at, b"z", answers.append)
    drive.close()
    assert answers == [None] * 20
    assert image.closed
    assert image.content[20:40] == b"z" * 20


def test_an_exception_out_of_an_answer_is_told(lock):
    failures = []
    drive = DiskWorker(MemoryImage(), lock, failures.append)

    def broken(answer):
        raise RuntimeError("a bug")

    drive.flush(broken)
    drive.drain()
    assert [str(error) for error in failures] == ["a bug"]
