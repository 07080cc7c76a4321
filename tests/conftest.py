"""Fixtures for tests that need the native module's face but not the module: see fakes.py."""

import sys

import pytest

import fakes


@pytest.fixture
def native(monkeypatch):
    """`ring3._native` is the fake for the time of a test."""
    import ring3

    monkeypatch.setitem(sys.modules, "ring3._native", fakes)
    monkeypatch.setattr(ring3, "_native", fakes, raising=False)
    return fakes
