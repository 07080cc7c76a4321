"""A program for AdLib cards finds the FM synthesizer, and what it plays is in the WAV file."""

import cmath
import math
import wave
from array import array
from pathlib import Path

import pytest

from guest_terminal import BOOT_TIMEOUT_S
from ring3 import Machine
from video_guest import boot_disk, needs_bios

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S), needs_bios]

SOURCE = Path(__file__).parent / "sound/adlib.asm"
NOTE_HZ = 580 * 2 ** (4 - 20) * 49_716
PEAK = 4084
# Of its multiples 1, 2, 3 and 5: sums of Bessel functions at the modulation's index, 1.12.
EXPECTED = (0.71 + 0.48, 0, 0.48 - 0.14, 0.14 + 0.03)


def strength(samples, rate_hz, frequency_hz):
    turn = -2j * math.pi * frequency_hz / rate_hz
    return 2 / len(samples) * abs(sum(s * cmath.exp(turn * n) for n, s in enumerate(samples)))


def test_a_note_for_an_adlib_card_has_its_pitch_and_its_overtones(tmp_path):
    disk = boot_disk(tmp_path, SOURCE, {})
    wav = tmp_path / "out.wav"
    with Machine(disk=disk, memory="16M", serial="memory", sound="sb16", audio=f"wav:{wav}") as machine:
        assert machine.serial[0].expect("[K?]", timeout_s=BOOT_TIMEOUT_S)[0] == b"K"
    with wave.open(str(wav)) as file:
        rate_hz = file.getframerate()
        samples = array("h", file.readframes(file.getnframes()))[::2]
    assert 0.8 < len(samples) / rate_hz < 1.6
    middle = samples[rate_hz // 5 : rate_hz // 2]
    heard = [strength(middle, rate_hz, n * NOTE_HZ) / PEAK for n in (1, 2, 3, 5)]
    assert heard == pytest.approx(EXPECTED, abs=0.03)
