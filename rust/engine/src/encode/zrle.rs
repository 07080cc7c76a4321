//! ZRLE's tiles (RFC 6143, §7.7.6), before zlib.

use super::Area;
use super::format::Painter;
use super::frame::Frame;

const TILE: usize = 64;
/// Most colours of a tile with run lengths, and of one with packed indices.
const PALETTE_MAX: usize = 127;
const PACKED_MAX: usize = 16;

/// Pixels of one colour that follow each other.
struct Run {
    colour: u32,
    length: usize,
}

/// The colours of a tile in the order they occur, while they are few.
struct Palette {
    colours: Vec<u32>,
    /// Open addressing: colour + 1 (0 is empty) and its index.
    slots: [(u32, u8); 256],
}

impl Palette {
    /// None when there are more than `PALETTE_MAX`.
    fn of(runs: &[Run]) -> Option<Palette> {
        let mut palette = Palette {
            colours: Vec::new(),
            slots: [(0, 0); 256],
        };
        for run in runs {
            palette.add(run.colour)?;
        }
        Some(palette)
    }

    fn slot(&self, colour: u32) -> usize {
        let mut slot = (colour.wrapping_mul(0x9E37_79B1) >> 24) as usize;
        // Ends: 127 colours leave empty slots.
        while self.slots[slot].0 != 0 && self.slots[slot].0 != colour + 1 {
            slot = (slot + 1) % self.slots.len();
        }
        slot
    }

    fn add(&mut self, colour: u32) -> Option<()> {
        let slot = self.slot(colour);
        if self.slots[slot].0 == 0 {
            if self.colours.len() == PALETTE_MAX {
                return None;
            }
            self.slots[slot] = (colour + 1, u8::try_from(self.colours.len()).ok()?);
            self.colours.push(colour);
        }
        Some(())
    }

    fn index(&self, colour: u32) -> u8 {
        self.slots[self.slot(colour)].1
    }

    /// Bits of a packed index.
    fn packed_bits(&self) -> usize {
        match self.colours.len() {
            0..=2 => 1,
            3..=4 => 2,
            _ => 4,
        }
    }

    fn put(&self, painter: &Painter, out: &mut Vec<u8>) {
        for &colour in &self.colours {
            painter.put_compact(colour, out);
        }
    }
}

/// Appends the area's tiles.
pub fn encode(frame: &Frame, area: Area, painter: &Painter, out: &mut Vec<u8>) {
    let mut tile = Vec::with_capacity(TILE * TILE);
    let mut runs = Vec::with_capacity(TILE * TILE);
    for piece in area.pieces(TILE, TILE) {
        tile.clear();
        runs.clear();
        for row in 0..piece.height {
            tile.extend_from_slice(frame.row(piece, row));
        }
        find_runs(&tile, &mut runs);
        encode_tile(&tile, &runs, piece.width, painter, out);
    }
}

fn find_runs(tile: &[u32], runs: &mut Vec<Run>) {
    let mut rest = tile.iter();
    let Some(&first) = rest.next() else { return };
    let mut run = Run {
        colour: first,
        length: 1,
    };
    for &colour in rest {
        if colour == run.colour {
            run.length += 1;
        } else {
            runs.push(std::mem::replace(&mut run, Run { colour, length: 1 }));
        }
    }
    runs.push(run);
}

fn encode_tile(tile: &[u32], runs: &[Run], width: usize, painter: &Painter, out: &mut Vec<u8>) {
    let pixel = painter.compact_bytes();
    let raw_bytes = tile.len() * pixel;
    let length_bytes: usize = runs.iter().map(|run| (run.length - 1) / 255 + 1).sum();
    let plain_bytes = runs.len() * pixel + length_bytes;
    let Some(palette) = Palette::of(runs) else {
        if plain_bytes < raw_bytes {
            put_plain_runs(runs, painter, out);
        } else {
            out.push(0);
            painter.put_all_compact(tile, out);
        }
        return;
    };
    let colours = palette.colours.len();
    if colours == 1 {
        out.push(1);
        return palette.put(painter, out);
    }
    // With a palette, runs of one pixel need no length.
    let singles = runs.iter().filter(|run| run.length == 1).count();
    let palette_bytes = colours * pixel + runs.len() + length_bytes - singles;
    let packed_bytes = if colours <= PACKED_MAX {
        colours * pixel + (width * palette.packed_bits()).div_ceil(8) * (tile.len() / width)
    } else {
        usize::MAX
    };
    let least = raw_bytes
        .min(plain_bytes)
        .min(palette_bytes)
        .min(packed_bytes);
    if least == packed_bytes {
        put_packed(tile, width, &palette, painter, out);
    } else if least == palette_bytes {
        put_palette_runs(runs, &palette, painter, out);
    } else if least == plain_bytes {
        put_plain_runs(runs, painter, out);
    } else {
        out.push(0);
        painter.put_all_compact(tile, out);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the rest of a division by 255"
)]
fn put_length(length: usize, out: &mut Vec<u8>) {
    out.extend(std::iter::repeat_n(255, (length - 1) / 255));
    out.push(((length - 1) % 255) as u8);
}

fn put_plain_runs(runs: &[Run], painter: &Painter, out: &mut Vec<u8>) {
    out.push(128);
    for run in runs {
        painter.put_compact(run.colour, out);
        put_length(run.length, out);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 127 colours")]
fn put_palette_runs(runs: &[Run], palette: &Palette, painter: &Painter, out: &mut Vec<u8>) {
    out.push(128 + palette.colours.len() as u8);
    palette.put(painter, out);
    for run in runs {
        let index = palette.index(run.colour);
        if run.length == 1 {
            out.push(index);
        } else {
            out.push(index | 0x80);
            put_length(run.length, out);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 16 colours")]
fn put_packed(tile: &[u32], width: usize, palette: &Palette, painter: &Painter, out: &mut Vec<u8>) {
    out.push(palette.colours.len() as u8);
    palette.put(painter, out);
    let bits = palette.packed_bits();
    for row in tile.chunks(width) {
        for byte in row.chunks(8 / bits) {
            let mut packed = 0;
            for (place, &colour) in byte.iter().enumerate() {
                packed |= palette.index(colour) << (8 - bits * (place + 1));
            }
            out.push(packed);
        }
    }
}
