"""WAV file, broadcast to consoles, and the buffer in front of the host's device."""

import wave

import pytest

from ring3.audio import NoAudio, open_sink
from ring3.audio.host import HostStream
from ring3.audio.stream import Broadcast, Chunk, Tee
from ring3.audio.wav import WavFile
from ring3.errors import ConfigError, HostError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sound.wav"


@pytest.fixture
def wav(path):
    sink = WavFile(path)
    yield sink
    sink.close()


def contents(path):
    with wave.open(str(path)) as file:
        return file.getframerate(), file.getnchannels(), file.getsampwidth(), file.readframes(1 << 20)


def test_a_wav_file_has_the_samples_as_they_are(wav, path):
    stream = wav.open(22_050, 2, 2)
    stream.write(b"\x01\x02\x03\x04")
    stream.write(b"\x05\x06\x07\x08")
    wav.close()
    assert contents(path) == (22_050, 2, 2, bytes(range(1, 9)))


def test_without_sound_a_wav_file_has_no_samples(wav, path):
    wav.close()
    assert contents(path)[3] == b""


def test_a_second_stream_takes_the_files_format(wav, path):
    wav.open(8_000, 1, 2).close()
    first = wav.open(8_000, 1, 2)
    first.write(b"\x00\x10")
    first.close()
    second = wav.open(16_000, 2, 1)
    second.write(bytes((0x80, 0x82, 0, 0, 0x90, 0x90, 0, 0)))
    wav.close()
    assert contents(path) == (8_000, 1, 2, b"\x00\x10\x00\x01\x00\x10")


def test_streams_that_play_at_once_are_added_up(wav, path):
    left, right = wav.open(8_000, 1, 2), wav.open(8_000, 1, 2)
    left.write(b"\x01\x00\x02\x00")
    right.write(b"\x10\x00\x20\x00")
    wav.close()
    assert contents(path)[3] == b"\x11\x00\x22\x00"


def test_a_stream_that_plays_nothing_is_not_waited_for_without_end(wav, path):
    wav.open(8_000, 1, 1)
    stream = wav.open(8_000, 1, 1)
    stream.write(b"\x55" * 20_000)
    assert path.stat().st_size == 44 + 12_000


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(HostError, match=r"audio: .*nowhere.*give a path"):
        WavFile(tmp_path / "nowhere" / "x.wav")


def test_an_unknown_sink_is_refused():
    with pytest.raises(ConfigError, match="audio: 'mp3' is none of host, wav:PATH, none"):
        open_sink("mp3")
    assert isinstance(open_sink("none"), NoAudio)


def test_listeners_come_and_go():
    sink, heard = Broadcast(), []
    stream = sink.open(8_000, 1, 1)
    stream.write(b"nobody hears")
    stop = sink.listen(heard.append)
    stream.write(b"abc")
    stop()
    stream.write(b"nobody hears")
    assert heard == [Chunk(1, 8_000, 1, 1, b"abc")]


def test_the_end_of_a_stream_is_told():
    sink, heard = Broadcast(), []
    sink.listen(heard.append)
    sink.open(8_000, 1, 1).close()
    assert heard[0].frames == b""


def test_two_sinks_as_one(wav, path):
    other, heard = Broadcast(), []
    other.listen(heard.append)
    stream = Tee(wav, other).open(8_000, 1, 1)
    stream.write(b"abc")
    stream.close()
    wav.close()
    assert contents(path)[3] == b"abc"
    assert [chunk.frames for chunk in heard] == [b"abc", b""]


class Device:
    def __init__(self):
        self.samples = None

    def start(self, samples):
        self.samples = samples

    def stop(self):
        pass

    def close(self):
        self.samples = None


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def stream(device):
    return HostStream(lambda *form: device, 8_000, 1, 1)


def test_the_host_begins_to_play_once_there_is_enough(stream, device):
    stream.write(b"\x01" * 100)
    assert device.samples is None
    stream.write(b"\x02" * 400)
    assert device.samples.send(200) == b"\x01" * 100 + b"\x02" * 100


def test_what_is_missing_is_silence(stream, device):
    stream.write(b"\x01" * 500)
    assert device.samples.send(600) == b"\x01" * 500 + b"\x80" * 100


def test_what_the_host_does_not_play_is_dropped(stream, device):
    stream.write(b"\x01" * 500)
    for _ in range(100):
        stream.write(b"\x02" * 500)
    assert device.samples.send(8_000).count(b"\x80") == 4_000
