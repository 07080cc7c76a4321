//! Tight's rectangles (rfbproto, "Tight Encoding"), before zlib: fill, palette and copy filters.

use super::Area;
use super::format::Painter;
use super::frame::Frame;

/// Pieces small enough that a plain background among them becomes a fill.
const PIECE: usize = 128;
const PALETTE_MAX: usize = 256;

/// Compression control bytes: bits 7:4; a basic rectangle has its zlib stream in bits 5:4 and
/// bit 6 set when a filter is named.
const FILL: u8 = 0x80;
const COPY: u8 = 0x00;
const INDEXED_STREAM_1: u8 = 0x50;
const INDEXED_STREAM_2: u8 = 0x60;
const FILTER_PALETTE: u8 = 1;

/// One rectangle: control byte and what follows it uncompressed, then what the stream compresses.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub area: Area,
    pub head: Vec<u8>,
    /// Which of the viewer's zlib streams takes the body; None: a fill, without a body.
    pub stream: Option<u8>,
    pub body: Vec<u8>,
}

pub fn encode(frame: &Frame, area: Area, painter: &Painter) -> Vec<Piece> {
    area.pieces(PIECE, PIECE)
        .map(|piece| encode_piece(frame, piece, painter))
        .collect()
}

/// The piece's colours as the viewer's pixels, in the order of their values; None when they are many.
fn palette_of(frame: &Frame, area: Area) -> Option<Vec<u32>> {
    let mut palette: Vec<u32> = Vec::new();
    let mut last = None;
    for colour in frame.colours(area) {
        if last == Some(colour) {
            continue;
        }
        last = Some(colour);
        if let Err(place) = palette.binary_search(&colour) {
            if palette.len() == PALETTE_MAX {
                return None;
            }
            palette.insert(place, colour);
        }
    }
    Some(palette)
}

fn encode_piece(frame: &Frame, area: Area, painter: &Painter) -> Piece {
    let whole = |head, stream, body| Piece {
        area,
        head,
        stream,
        body,
    };
    // A table of many colours isn't worth its bytes in a small piece, nor with 1-byte pixels.
    let most = PALETTE_MAX.min(area.width * area.height / 8).max(2);
    match palette_of(frame, area) {
        Some(palette) if palette.len() == 1 => {
            let mut head = vec![FILL];
            painter.put_tight(palette[0], &mut head);
            whole(head, None, Vec::new())
        }
        Some(palette) if palette.len() == 2 => {
            let head = palette_head(INDEXED_STREAM_1, &palette, painter);
            whole(head, Some(1), bitmap(frame, area, palette[1]))
        }
        Some(palette) if palette.len() <= most && painter.compact_bytes() > 1 => {
            let head = palette_head(INDEXED_STREAM_2, &palette, painter);
            whole(head, Some(2), indices(frame, area, &palette))
        }
        _ => {
            let mut body = Vec::with_capacity(area.width * area.height * 4);
            (0..area.height).for_each(|row| painter.put_row_tight(frame.row(area, row), &mut body));
            whole(vec![COPY], Some(0), body)
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 256 colours")]
fn palette_head(control: u8, palette: &[u32], painter: &Painter) -> Vec<u8> {
    let mut head = vec![control, FILTER_PALETTE, (palette.len() - 1) as u8];
    palette
        .iter()
        .for_each(|&colour| painter.put_tight(colour, &mut head));
    head
}

/// One bit for each pixel, rows padded to bytes, the leftmost pixel in bit 7.
fn bitmap(frame: &Frame, area: Area, set: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(area.width.div_ceil(8) * area.height);
    for row in 0..area.height {
        for byte in frame.row(area, row).chunks(8) {
            let bits = byte.iter().enumerate();
            out.push(bits.fold(0, |packed, (place, &colour)| {
                packed | u8::from(colour == set) << (7 - place)
            }));
        }
    }
    out
}

#[expect(clippy::cast_possible_truncation, reason = "at most 256 colours")]
fn indices(frame: &Frame, area: Area, palette: &[u32]) -> Vec<u8> {
    let mut last = (palette[0], 0);
    frame
        .colours(area)
        .map(|colour| {
            if colour != last.0 {
                let place = palette.binary_search(&colour).unwrap_or_default();
                last = (colour, place as u8);
            }
            last.1
        })
        .collect()
}
