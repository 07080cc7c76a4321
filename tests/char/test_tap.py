"""A serial port with listeners besides its backend."""

import asyncio

from ring3.char.memory import MemoryBackend
from ring3.char.tap import KEPT, Tap


def test_output_goes_to_the_backend_and_to_listeners():
    tap, heard = Tap(MemoryBackend()), []
    tap.write(b"before")
    unlisten = tap.listen(heard.append)
    tap.write(b"now")
    unlisten()
    tap.write(b"after")
    assert heard == [b"now"]
    assert tap.backend.output == tap.history() == b"beforenowafter"


def test_history_is_bounded():
    tap = Tap(MemoryBackend())
    for number in range(200):
        tap.write(bytes((number,)) * 10_000)
    assert len(tap.history()) == KEPT
    assert tap.history()[-1] == 199
    assert len(tap._kept) <= 2 * KEPT


def test_input_comes_from_both_sides():
    async def body():
        taken, tap = bytearray(), Tap(MemoryBackend())

        def receive(data):
            taken.extend(data)
            return len(data)

        tap.attach(asyncio.get_running_loop(), receive)
        tap.send(b"one ")
        tap.backend.send(b"two")
        for _ in range(3):
            await asyncio.sleep(0)
        tap.close()
        return bytes(taken)

    assert asyncio.run(body()) == b"one two"


def test_input_for_a_guest_that_reads_nothing_is_bounded():
    tap = Tap(MemoryBackend())
    for _ in range(100):
        tap.send(bytes(10_000))
    assert tap._inlet.waiting < 2 * 65_536
