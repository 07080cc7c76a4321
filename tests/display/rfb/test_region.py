"""Damage by tiles."""

import random

from ring3.display.rfb.region import Region
from ring3.display.screen import Rect


def test_nothing_is_nothing():
    region = Region(100, 100)
    region.add(Rect(200, 0, 10, 10))
    region.add(Rect(0, 0, 0, 10))
    assert not region
    assert region.take() == []


def test_a_rectangle_grows_to_tiles():
    region = Region(100, 100)
    region.add(Rect(33, 17, 1, 1))
    assert region
    assert region.take() == [Rect(32, 16, 32, 16)]
    assert not region


def test_tiles_end_at_the_screen():
    region = Region(100, 100)
    region.everything()
    assert region.take() == [Rect(0, 0, 100, 100)]


def test_an_l_is_two_rectangles():
    region = Region(96, 48)
    region.add(Rect(0, 0, 32, 48))
    region.add(Rect(32, 32, 64, 16))
    assert region.take() == [Rect(0, 0, 32, 32), Rect(0, 32, 96, 16)]


def test_rectangles_cover_what_was_added_once():
    rng = random.Random(3)
    for _ in range(200):
        region = Region(320, 200)
        wanted = set()
        for _ in range(rng.randrange(1, 8)):
            rect = Rect(rng.randrange(300), rng.randrange(190), rng.randrange(1, 100), rng.randrange(1, 90))
            region.add(rect)
            inside = rect.within(320, 200)
            wanted |= {(x, y) for x in range(inside.x // 32, (inside.x + inside.width - 1) // 32 + 1)
                       for y in range(inside.y // 16, (inside.y + inside.height - 1) // 16 + 1)}
        rects = region.take()
        tiles = [(x, y) for r in rects for x in range(r.x // 32, -(-(r.x + r.width) // 32))
                 for y in range(r.y // 16, -(-(r.y + r.height) // 16))]
        assert len(tiles) == len(set(tiles))
        assert set(tiles) == wanted
