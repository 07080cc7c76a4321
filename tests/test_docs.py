"""The documents' Python examples run as they stand, each in a process and a directory of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUESTS = ROOT / "build/guests"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)

# Files the examples name, and the guest's file that stands for each.
MEDIA = {"vmlinuz": "linux-installer-amd64", "initrd.gz": "initrd-installer-amd64.gz"}


def examples() -> list[object]:
    found = []
    for document in DOCUMENTS:
        for number, match in enumerate(EXAMPLE.finditer(document.read_text()), 1):
            code = match[1]
            runs = "Machine(" in code or "ring3.start(" in code
            marks = [pytest.mark.guest, pytest.mark.timeout(600)] if runs else []
            found.append(pytest.param(code, id=f"{document.name}-{number}", marks=marks))
    return found


@pytest.mark.parametrize("code", examples())
def test_example_runs(code, tmp_path):
    for name, guest in MEDIA.items():
        if f'"{name}"' in code:
            if not (GUESTS / guest).exists():
                pytest.skip(f"no {guest}: scripts/guests fetches it where a Debian mirror can be reached")
            (tmp_path / name).symlink_to(GUESTS / guest)
    process = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=False,
                             capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert process.returncode == 0, process.stderr


def test_links_between_documents_lead_somewhere():
    for document in [*DOCUMENTS, *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
