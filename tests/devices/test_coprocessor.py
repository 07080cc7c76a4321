"""FERR#, IRQ 13 and IGNNE#."""

import pytest

from ring3.devices.coprocessor import CoprocessorError
from ring3.irq import IrqLine


@pytest.fixture
def edges():
    return []


@pytest.fixture
def ignne():
    return []


@pytest.fixture
def chip(edges, ignne):
    chip = CoprocessorError(IrqLine(edges.append), ignne.append)
    ignne.clear()
    return chip


def test_an_exception_raises_irq_13(chip, edges):
    chip.ferr(True)
    assert edges == [True]


def test_a_write_takes_it_back_and_lets_the_handler_use_the_fpu(chip, edges, ignne):
    chip.ferr(True)
    chip.write(0, 0)
    assert edges == [True, False]
    assert ignne[-1] is True


def test_clearing_the_exception_ends_ignne(chip, ignne):
    chip.ferr(True)
    chip.write(0, 0)
    chip.ferr(False)
    assert ignne[-1] is False


def test_irq_13_stays_until_the_write(chip, edges):
    chip.ferr(True)
    chip.ferr(False)
    assert edges == [True]


def test_a_write_without_exception_ignores_none(chip, ignne):
    chip.write(0, 0)
    assert ignne == [False]


def test_port_f1h_does_nothing(chip, edges):
    chip.ferr(True)
    chip.write(1, 0)
    assert edges == [True]
