"""The report of `--stats` (ring3.cli.stats)."""

import pytest

from ring3.cli.stats import quantity, report


@pytest.mark.parametrize(("key", "value", "text"), [
    ("blocks", 1234, "1234"),
    ("instructions", 12_345_678, "12.35 M"),
    ("translate_ns", 1_500_000_000, "1.500 s"),
    ("ns_translating", 2_500_000, "2.500 ms"),
    ("cache_bytes", 3 << 20, "3.00 MiB"),
    ("cache_bytes", 100, "100 B"),
    ("engine", "translate", "translate"),
])
def test_a_number_has_the_unit_of_its_name(key, value, text):
    assert quantity(key, value) == text


def test_groups_are_indented_and_columns_aligned():
    lines = report({"exits": {"halt": 3, "port_read": 20}, "run_ns": 10**9}).splitlines()
    assert lines == ["exits",
                     "  halt                  3",
                     "  port read            20",
                     "run               1.000 s"]


def test_a_machine_without_counters_has_an_empty_report():
    assert report({}) == ""
