"""What an unmodified Linux plays through its own drivers arrives sample for sample."""

import random
import wave

import pytest

from guest_modules import root_with
from guest_terminal import BOOT_TIMEOUT_S, image
from ring3 import Machine

pytestmark = [pytest.mark.guest, pytest.mark.timeout(2 * BOOT_TIMEOUT_S)]

# Plays a file of samples through the OSS interface: play FILE RATE CHANNELS BITS.  All volumes to the top.
PLAY = r"""
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/soundcard.h>
#include <unistd.h>

int main(int count, char **words)
{
    int top = 100 | 100 << 8, rate = atoi(words[2]), channels = atoi(words[3]);
    int format = atoi(words[4]) == 8 ? AFMT_U8 : AFMT_S16_LE;
    int mixer = open("/dev/mixer", O_RDWR), sound = open("/dev/dsp", O_WRONLY);
    int file = open(words[1], O_RDONLY);
    if (mixer < 0 || sound < 0 || file < 0)
        return 1;
    ioctl(mixer, SOUND_MIXER_WRITE_VOLUME, &top);
    top = atoi(words[5]) | atoi(words[5]) << 8;
    ioctl(mixer, SOUND_MIXER_WRITE_PCM, &top);
    if (ioctl(sound, SNDCTL_DSP_SETFMT, &format) || ioctl(sound, SNDCTL_DSP_CHANNELS, &channels) ||
        ioctl(sound, SNDCTL_DSP_SPEED, &rate))
        return 2;
    char data[4096];
    for (int length; (length = read(file, data, sizeof data)) > 0;)
        if (write(sound, data, length) != length)
            return 3;
    ioctl(sound, SNDCTL_DSP_SYNC, 0);
    printf("rate %d channels %d\n", rate, channels);
    return 0;
}
"""

CARDS = {
    "sb16": ("snd-sb16 isapnp=0 port=0x220 irq=5 dma8=1 dma16=5 mpu_port=0x330",),
    "es1371": ("snd-ens1371",),
}
"""The modules each card needs beyond those of OSS."""

PCM_AT_0_DB = {"sb16": 100, "es1371": 74}       # per cent of the mixer's scale


@pytest.mark.parametrize("form", [(44_100, 2, 16), (11_025, 1, 8)], ids=["44100-stereo-16", "11025-mono-8"])
@pytest.mark.parametrize("card", CARDS)
def test_what_is_played_arrives_sample_for_sample(card, form, tmp_path):
    rate, channels, bits = form
    samples = random.Random(7).randbytes(rate * channels * bits // 8 // 2)      # half a second
    (tmp_path / "initrd").write_bytes(
        root_with((*CARDS[card], "snd-pcm-oss", "snd-mixer-oss"), {"play": PLAY}, files={"/sound": samples})
    )
    with Machine(kernel=image("linux-686-pae"), initrd=str(tmp_path / "initrd"), append="console=ttyS0",
                 memory="256M", serial="memory", sound=card, audio=f"wav:{tmp_path}/out.wav") as machine:
        machine.serial[0].expect("# ", timeout_s=BOOT_TIMEOUT_S)
        arguments = f"/sound {rate} {channels} {bits} {PCM_AT_0_DB[card]}"
        machine.serial[0].send(f"/bin/play {arguments}; echo st''atus $?\n")
        machine.serial[0].expect("status 0")
    with wave.open(f"{tmp_path}/out.wav") as file:
        assert (file.getframerate(), file.getnchannels()) == (rate, channels)
        if 8 * file.getsampwidth() > bits:      # the driver of the SB16 prefers its 16-bit channel
            samples = b"".join(bytes((0, sample ^ 0x80)) for sample in samples)
        assert samples in file.readframes(1 << 24)
