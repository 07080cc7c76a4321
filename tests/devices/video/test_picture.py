"""From pages of video memory that were stored to, to rectangles of the screen."""

import pytest

from ring3.devices.video.picture import Format, Picture
from ring3.display.screen import Rect

MIB = 1 << 20


def lfb(width=1024, height=768, **more):
    return Picture(Format.LINEAR32, width, height, pitch=4 * width, **more)


def test_a_page_is_a_line_of_1024_pixels():
    assert lfb().damage([(0x3000, 0x4000)], 16 * MIB) == (Rect(0, 3, 1024, 1),)


def test_runs_over_lines_take_them_whole():
    assert lfb(800).damage([(0x1000, 0x3000)], 16 * MIB) == (Rect(0, 1, 800, 3),)


def test_part_of_a_long_line_is_not_all_of_it():
    assert lfb(2560).damage([(0x1000, 0x2000)], 16 * MIB) == (Rect(1024, 0, 1024, 1),)


def test_neighbours_below_one_another_are_joined():
    assert lfb().damage([(0x1000, 0x2000), (0x2000, 0x3000)], 16 * MIB) == (Rect(0, 1, 1024, 2),)


def test_memory_that_is_not_shown_is_no_damage():
    assert lfb(start=MIB).damage([(0, 0x1000), (8 * MIB, 9 * MIB)], 16 * MIB) == ()


def test_a_picture_around_the_end_of_memory_is_damaged_whole():
    picture = lfb(start=15 * MIB)
    assert picture.damage([(0, 0x1000)], 16 * MIB) == (Rect(0, 0, 1024, 768),)


def test_rows_of_planar_pictures():
    picture = Picture(Format.PLANAR, 640, 480, pitch=80)
    assert picture.damage([(0x1000, 0x2000)], MIB) == (Rect(0, 12, 640, 14),)
    assert picture.damage([(40 * 0x1000, 41 * 0x1000)], MIB) == ()


def test_doubled_rows():
    picture = Picture(Format.CHAINED, 640, 400, pitch=80, row_lines=2)
    assert picture.damage([(0, 0x1000)], MIB) == (Rect(0, 0, 640, 26),)


@pytest.mark.parametrize("picture", [
    Picture(Format.INTERLEAVED, 640, 400, pitch=40, address_shift=1, row_scan_bits=1, row_lines=2),
    Picture(Format.PLANAR, 640, 480, pitch=80, line_compare=99),
])  # fmt: skip
def test_what_is_not_simply_laid_out_is_damaged_whole(picture):
    assert picture.damage([(0, 0x1000)], MIB) == (Rect(0, 0, picture.width, picture.height),)
    assert picture.damage([], MIB) == ()
