"""`import ring3` costs little and needs no native module."""

import subprocess
import sys
from importlib import metadata

import pytest

import ring3


def test_every_public_name_is_there():
    for name in ring3.__all__:
        assert getattr(ring3, name).__name__ == name


def test_the_version_is_the_installed_packages():
    assert ring3.__version__ == metadata.version("ring3")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        ring3.nonsense  # noqa: B018


def test_importing_the_package_imports_none_of_its_parts():
    code = "import sys, ring3; print([m for m in sys.modules if m.startswith('ring3.') or m == 'asyncio'])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_a_missing_native_module_tells_how_to_build_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ring3._native", None)
    monkeypatch.delattr(ring3, "_native", raising=False)
    with pytest.raises(ring3.HostError, match="make build"):
        ring3.Machine(kernel=b"x")
