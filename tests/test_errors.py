import pytest

from ring3 import errors


@pytest.mark.parametrize("name", ["ConfigError", "ImageError", "HostError", "CheckpointError", "EngineError"])
def test_every_error_is_a_vm_error(name):
    assert issubclass(getattr(errors, name), errors.VmError)
    assert name in errors.__doc__


def test_engine_error_carries_its_report():
    error = errors.EngineError("unknown exit 17", report="rip=...")
    assert (str(error), error.report) == ("unknown exit 17", "rip=...")
