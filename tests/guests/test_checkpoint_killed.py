"""Processes killed while they make, remove and restore checkpoints: those that are there are whole."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoint_killed import machine, number_of
from ring3 import Machine
from ring3.checkpoint import machine as checkpoint
from ring3.checkpoint.listing import checkpoints
from ring3.disk import tools

pytestmark = [pytest.mark.guest, pytest.mark.timeout(120)]

CYCLES = int(os.environ.get("RING3_KILLS", "10"))
KILLED = Path(__file__).parents[1] / "checkpoint_killed.py"
LONGEST_S = 0.6


@pytest.mark.parametrize("seed", range(CYCLES))
def test_every_checkpoint_that_is_there_is_whole_and_nothing_needs_a_hand(tmp_path, seed):
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    with subprocess.Popen([sys.executable, KILLED, tmp_path, str(seed)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"go\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.Random(seed).random() * LONGEST_S)
        process.kill()
    vm = machine(tmp_path)              # the disk can be used at once
    vm.stop()
    for found in checkpoints(tmp_path / "checkpoints"):
        assert not found.error
        vm = Machine.restored(found.path)
        in_memory, on_disk = number_of(vm)
        assert in_memory == on_disk > 0
        vm.stop()
    for image in tmp_path.glob("disk.img.*[ro]"):       # .layer, .undo
        assert tools.verify(image, anywhere=True).errors == 0
    vm = machine(tmp_path)
    vm.checkpoint("last")
    vm.stop()
    for found in checkpoints(tmp_path / "checkpoints"):
        checkpoint.remove(found.path)
    assert os.listdir(tmp_path / "checkpoints") == []
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "disk.img", "disk.img.undo"}
