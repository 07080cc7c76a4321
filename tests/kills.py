"""Processes that are killed at random moments of their work."""

import os
import random
import subprocess
import sys
from pathlib import Path

CYCLES = int(os.environ.get("RING3_KILLS", "10"))       # of each kind; `make soak` has many
LONGEST_S = 0.08
DISK_KILLED = Path(__file__).parent / "disk_killed.py"


def killed(what, directory, seed, *more, script=DISK_KILLED, longest_s=LONGEST_S):
    """Runs a piece of work and kills it a moment after it said `go`; whether it had ended before."""
    command = [sys.executable, str(script), what, str(directory), str(seed), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"go\n"
        try:
            process.wait(random.Random(seed).random() * longest_s)
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait()
    return process.returncode == 0
