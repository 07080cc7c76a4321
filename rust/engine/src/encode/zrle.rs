//! ZRLE's tiles (RFC 6143, §7.7.6), before zlib.

use super::Area;
use super::format::Painter;
use super::frame::Frame;

const TILE: usize = 64;
/// Most colours of a tile with run lengths, and of one with packed indices.
const PALETTE_MAX: usize = 127;
const PACKED_MAX: usize = 16;

/// The colours of a tile in the order they occur, while they are few.
struct Palette {
    colours: Vec<u32>,
    /// Open addressing: colour + 1 (0 is empty) and its index.
    slots: [(u32, u8); 256],
}

impl Palette {
    /// None when there are more than `PALETTE_MAX`.
    fn of(tile: &[u32]) -> Option<Palette> {
        let mut palette = Palette {
            colours: Vec::new(),
            slots: [(0, 0); 256],
        };
        let mut last = None;
        for &colour in tile {
            if last != Some(colour) {
                palette.add(colour)?;
                last = Some(colour);
            }
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
    for piece in area.pieces(TILE, TILE) {
        tile.clear();
        tile.extend(frame.colours(piece));
        encode_tile(&tile, piece.width, painter, out);
    }
}

fn encode_tile(tile: &[u32], width: usize, painter: &Painter, out: &mut Vec<u8>) {
    let pixel = painter.compact_bytes();
    let raw_bytes = tile.len() * pixel;
    let (runs, run_bytes) = run_costs(tile);
    let plain_bytes = runs * pixel + run_bytes;
    let Some(palette) = Palette::of(tile) else {
        if plain_bytes < raw_bytes {
            put_plain_runs(tile, painter, out);
        } else {
            out.push(0);
            tile.iter()
                .for_each(|&colour| painter.put_compact(colour, out));
        }
        return;
    };
    let colours = palette.colours.len();
    if colours == 1 {
        out.push(1);
        return palette.put(painter, out);
    }
    let singles = singles(tile);
    let palette_bytes = colours * pixel + runs + run_bytes - singles;
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
        put_palette_runs(tile, &palette, painter, out);
    } else if least == plain_bytes {
        put_plain_runs(tile, painter, out);
    } else {
        out.push(0);
        tile.iter()
            .for_each(|&colour| painter.put_compact(colour, out));
    }
}

fn runs(tile: &[u32]) -> impl Iterator<Item = (u32, usize)> {
    tile.chunk_by(|a, b| a == b).map(|run| (run[0], run.len()))
}

/// How many runs there are, and the bytes of their lengths.
fn run_costs(tile: &[u32]) -> (usize, usize) {
    runs(tile).fold((0, 0), |(count, bytes), (_, length)| {
        (count + 1, bytes + (length - 1) / 255 + 1)
    })
}

/// Runs of one pixel: with a palette they need no length.
fn singles(tile: &[u32]) -> usize {
    runs(tile).filter(|&(_, length)| length == 1).count()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the rest of a division by 255"
)]
fn put_length(length: usize, out: &mut Vec<u8>) {
    out.extend(std::iter::repeat_n(255, (length - 1) / 255));
    out.push(((length - 1) % 255) as u8);
}

fn put_plain_runs(tile: &[u32], painter: &Painter, out: &mut Vec<u8>) {
    out.push(128);
    for (colour, length) in runs(tile) {
        painter.put_compact(colour, out);
        put_length(length, out);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 127 colours")]
fn put_palette_runs(tile: &[u32], palette: &Palette, painter: &Painter, out: &mut Vec<u8>) {
    out.push(128 + palette.colours.len() as u8);
    palette.put(painter, out);
    for (colour, length) in runs(tile) {
        let index = palette.index(colour);
        if length == 1 {
            out.push(index);
        } else {
            out.push(index | 0x80);
            put_length(length, out);
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
