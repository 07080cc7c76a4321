"""Input that waits for a device (ring3.char.inlet)."""

import threading

from ring3.char.inlet import LIMIT, Inlet


def test_bytes_put_before_attach_are_offered_after_it(loop, device):
    inlet = Inlet()
    inlet.put(b"early")
    inlet.attach(loop, device.receive)
    loop.run()
    assert device.got == b"early"


def test_receive_is_called_only_by_the_loop(loop, device):
    inlet = Inlet()
    inlet.attach(loop, device.receive)
    inlet.put(b"x")
    assert device.got == b""
    loop.run()
    assert device.got == b"x"


def test_what_does_not_fit_waits_for_room(loop, device):
    device.room = 3
    inlet = Inlet()
    inlet.attach(loop, device.receive)
    inlet.put(b"abcdef")
    loop.run()
    assert device.got == b"abc"
    device.room = 10
    inlet.room()
    loop.run()
    assert device.got == b"abcdef"


def test_room_asks_the_loop_only_once(loop, device):
    device.room = 0
    inlet = Inlet()
    inlet.attach(loop, device.receive)
    inlet.put(b"a")
    inlet.room()
    inlet.room()
    assert len(loop.calls) == 1


def test_room_costs_the_loop_nothing_when_nothing_waits(loop, device):
    inlet = Inlet()
    inlet.attach(loop, device.receive)
    inlet.room()
    assert loop.calls == []


def test_a_device_may_report_room_while_it_receives(loop, device):
    inlet = Inlet()

    def receive(data: bytes) -> int:
        inlet.room()
        return device.receive(data)

    inlet.attach(loop, receive)
    inlet.put(b"abc")
    loop.run()
    assert device.got == b"abc"


def test_a_reader_waits_while_the_limit_is_reached(loop, device):
    device.room = 0
    inlet = Inlet()
    inlet.attach(loop, device.receive)
    inlet.put(bytes(LIMIT))
    answers: list[bool] = []
    reader = threading.Thread(target=lambda: answers.append(inlet.wait_for_space()))
    reader.start()
    assert answers == []
    device.room = LIMIT
    loop.run()
    reader.join()
    assert answers == [True]


def test_close_releases_a_waiting_reader(loop, device):
    inlet = Inlet()
    inlet.put(bytes(LIMIT))
    inlet.close()
    assert not inlet.wait_for_space()
