"""What is built for a copy before there is an order (ring3.control.zygote)."""

import msgspec
import pytest

from ring3.checkpoint.contents import Contents, Medium
from ring3.control.zygote import built_alike

CONTENTS = Contents(
    ring3="1", name="debian", created_unix_s=0.0, config='memory = "16M"\n', kernel=None, initrd=None,
    initrd_path="", clock_ns=0, memory_bytes=16 << 20, video_bytes=16 << 20, processors=[], devices={},
    media=[], rom=None, option_roms={})
DISK = Medium(drive="disk0", path="disk.img", size_bytes=512, head_hash=b"")


def with_changes(**changes):
    return msgspec.structs.replace(CONTENTS, **changes)


def test_a_later_state_of_the_same_machine_fits():
    assert built_alike(CONTENTS, with_changes(clock_ns=10**9, created_unix_s=5.0, devices={"pit": {}}))


@pytest.mark.parametrize("changes", [
    {"config": 'memory = "16M"\ncdrom = "other.iso"\n'},
    {"kernel": b"another"},
    {"rom": b"\xEA"},
    {"memory_bytes": 32 << 20},
    {"media": [DISK]},
])
def test_a_machine_that_is_another_does_not_fit(changes):
    assert not built_alike(CONTENTS, with_changes(**changes))


def test_machines_with_disks_are_built_for_the_order():
    one = with_changes(media=[DISK])
    assert not built_alike(one, one)
