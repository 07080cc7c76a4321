//! The screen as the viewers know it, and what a newer one changes.
//!
//! A guest's writes are noticed by pages, and many change nothing; comparing finds the rectangles
//! that did change.  A text screen that scrolls changes everywhere, but is the old picture moved:
//! rows are hashed, and rows that occur once vote for the distance.

use super::Area;
use super::format::Painter;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// Widest and highest picture: more than any card we have makes.
pub const MAX_SIDE: usize = 8192;
/// Changes are found to this many pixels.
const TILE_WIDTH: usize = 32;
const TILE_HEIGHT: usize = 16;
/// Rows that must have moved, and the votes they need, for a scroll to be worth telling.
const SCROLL_MIN_ROWS: usize = 64;
const SCROLL_MIN_VOTES: usize = 4;
const COLOUR: u32 = 0x00FF_FFFF;

/// Rows `from`… moved to `to`…, `height` of them, between the columns of the area looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scroll {
    pub from: usize,
    pub to: usize,
    pub height: usize,
}

pub struct Frame {
    width: usize,
    height: usize,
    /// 0x00RRGGBB.
    pixels: Vec<u32>,
}

impl Frame {
    /// Black.  None for a size beyond `MAX_SIDE`.
    pub fn new(width: usize, height: usize) -> Option<Frame> {
        (width <= MAX_SIDE && height <= MAX_SIDE).then(|| Frame {
            width,
            height,
            pixels: vec![0; width * height],
        })
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// Takes newer pixels of `area`, and says what moved and then what else changed.
    ///
    /// None when the data isn't one of that area's, or the area isn't on the frame.
    pub fn update(
        &mut self,
        area: Area,
        data: &[u8],
        find_scroll: bool,
    ) -> Option<(Option<Scroll>, Vec<Area>)> {
        if area.within(self.width, self.height) != area
            || data.len() != area.width * area.height * 4
        {
            return None;
        }
        if area.is_empty() {
            return Some((None, Vec::new()));
        }
        let new: Vec<u32> = data
            .as_chunks::<4>()
            .0
            .iter()
            .map(|pixel| u32::from_le_bytes(*pixel) & COLOUR)
            .collect();
        let scroll = if find_scroll {
            self.find_scroll(area, &new)
        } else {
            None
        };
        if let Some(scroll) = scroll {
            self.scroll(area, scroll);
        }
        let changed = self.take(area, &new);
        Some((scroll, changed))
    }

    fn span(&self, area: Area, row: usize) -> std::ops::Range<usize> {
        let start = (area.y + row) * self.width + area.x;
        start..start + area.width
    }

    /// The row of `area`, counted from its top.
    pub fn row(&self, area: Area, row: usize) -> &[u32] {
        &self.pixels[self.span(area, row)]
    }

    /// The area's colours, row by row.
    pub fn colours(&self, area: Area) -> impl Iterator<Item = u32> {
        (0..area.height).flat_map(move |row| self.row(area, row).iter().copied())
    }

    /// Raw encoding (RFC 6143, §7.7.1).
    pub fn raw(&self, area: Area, painter: &Painter, out: &mut Vec<u8>) {
        for row in 0..area.height {
            painter.put_row(self.row(area, row), out);
        }
    }

    /// Stores `new` and returns the tiles that differed, joined where they touch.
    fn take(&mut self, area: Area, new: &[u32]) -> Vec<Area> {
        let mut changed: Vec<Area> = Vec::new();
        let mut open: Vec<usize> = Vec::new(); // those of `changed` that end where the next band begins
        for band in area.pieces(area.width, TILE_HEIGHT) {
            let mut runs: Vec<Area> = Vec::new();
            for tile in band.pieces(TILE_WIDTH, TILE_HEIGHT) {
                if !self.take_tile(area, tile, new) {
                    continue;
                }
                match runs.last_mut() {
                    Some(run) if run.x + run.width == tile.x => run.width += tile.width,
                    _ => runs.push(tile),
                }
            }
            let mut still_open = Vec::new();
            for run in runs {
                let above = open
                    .iter()
                    .copied()
                    .find(|&i| changed[i].x == run.x && changed[i].width == run.width);
                if let Some(i) = above {
                    changed[i].height += run.height;
                    still_open.push(i);
                } else {
                    still_open.push(changed.len());
                    changed.push(run);
                }
            }
            open = still_open;
        }
        changed
    }

    fn take_tile(&mut self, area: Area, tile: Area, new: &[u32]) -> bool {
        let mut differs = false;
        for row in 0..tile.height {
            let from = (tile.y - area.y + row) * area.width + tile.x - area.x;
            let new = &new[from..from + tile.width];
            let span = self.span(tile, row);
            let old = &mut self.pixels[span];
            if old != new {
                old.copy_from_slice(new);
                differs = true;
            }
        }
        differs
    }

    // --- scrolling ---

    fn find_scroll(&self, area: Area, new: &[u32]) -> Option<Scroll> {
        if area.height < SCROLL_MIN_ROWS || area.width < SCROLL_MIN_ROWS {
            return None;
        }
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let old_rows: Vec<u64> = (0..area.height)
            .map(|row| hasher.hash_one(self.row(area, row)))
            .collect();
        let new_rows: Vec<u64> = new
            .chunks_exact(area.width)
            .map(|row| hasher.hash_one(row))
            .collect();
        let distance = most_votes(&old_rows, &new_rows)?;
        let moved = |to: usize| -> bool {
            let from = to.checked_add_signed(-distance);
            from.and_then(|from| old_rows.get(from)) == Some(&new_rows[to])
        };
        let (to, height) = longest_run(area.height, moved);
        let changed = (to..to + height)
            .filter(|&row| old_rows[row] != new_rows[row])
            .count();
        if height < SCROLL_MIN_ROWS || changed < SCROLL_MIN_ROWS / 4 {
            return None;
        }
        Some(Scroll {
            from: area.y + to.checked_add_signed(-distance)?,
            to: area.y + to,
            height,
        })
    }

    fn scroll(&mut self, area: Area, scroll: Scroll) {
        let mut copy = |row: usize| {
            let from = (scroll.from + row) * self.width + area.x;
            let to = (scroll.to + row) * self.width + area.x;
            self.pixels.copy_within(from..from + area.width, to);
        };
        if scroll.to < scroll.from {
            (0..scroll.height).for_each(&mut copy);
        } else {
            (0..scroll.height).rev().for_each(&mut copy);
        }
    }
}

/// The distance that most rows which occur once, and differ from the old row in their place, moved by.
fn most_votes(old: &[u64], new: &[u64]) -> Option<isize> {
    let mut places: HashMap<u64, Option<usize>> = HashMap::with_capacity(old.len());
    for (row, &hash) in old.iter().enumerate() {
        match places.entry(hash) {
            Entry::Vacant(entry) => {
                entry.insert(Some(row));
            }
            Entry::Occupied(mut entry) => {
                entry.insert(None);
            }
        }
    }
    let mut votes: HashMap<isize, usize> = HashMap::new();
    for (row, hash) in new.iter().enumerate() {
        if let Some(&Some(from)) = places.get(hash)
            && from != row
        {
            *votes
                .entry(row.cast_signed() - from.cast_signed())
                .or_default() += 1;
        }
    }
    let (&distance, &count) = votes
        .iter()
        .max_by_key(|&(&distance, &count)| (count, distance))?;
    (count >= SCROLL_MIN_VOTES).then_some(distance)
}

/// Where the longest run of rows for which `holds` starts, and its length.
fn longest_run(rows: usize, holds: impl Fn(usize) -> bool) -> (usize, usize) {
    let (mut best, mut start) = ((0, 0), 0);
    for row in 0..rows {
        if !holds(row) {
            start = row + 1;
        } else if row + 1 - start > best.1 {
            best = (start, row + 1 - start);
        }
    }
    best
}
