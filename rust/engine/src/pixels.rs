//! Video memory as pixels: the VGA's formats and linear frame buffers to 32 bits of BGRX.
//!
//! IBM VGA/XGA Technical Reference (1992): CRT controller (addresses of a line), attribute controller
//! (text, panning), and of the graphics controller the shift register's modes.
//!
//! A picture is the whole of what the registers say, made by the chip; its lines are the monitor's, so
//! doubled lines and dots appear as they do on glass.  Video memory is read while the guest may write:
//! what is torn now is drawn anew after the next look.
//!
//! Not here: shift register loads every second or fourth clock, cursor skew, the overscan border.

use std::collections::HashMap;

/// How bytes become pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Blank,
    Text,
    /// A bit from each of four planes.
    Planar,
    /// Two bits from each of two planes, the CGA's.
    Interleaved,
    /// A byte from each plane in turn, each pixel two dots wide.
    Chained,
    /// A frame buffer: 8 bits with palette, 5:5:5, 5:6:5, 24 and 32 bits.
    Linear8,
    Linear15,
    Linear16,
    Linear24,
    Linear32,
}

impl Format {
    pub fn from_number(number: u32) -> Format {
        use Format::*;
        let all = [
            Blank,
            Text,
            Planar,
            Interleaved,
            Chained,
            Linear8,
            Linear15,
            Linear16,
            Linear24,
            Linear32,
        ];
        all.get(number as usize).copied().unwrap_or(Blank)
    }

    /// Bytes of a pixel; None: not a linear frame buffer.
    fn linear_bytes(self) -> Option<usize> {
        match self {
            Format::Linear8 => Some(1),
            Format::Linear15 | Format::Linear16 => Some(2),
            Format::Linear24 => Some(3),
            Format::Linear32 => Some(4),
            _ => None,
        }
    }
}

pub const COLORS: usize = 256;

/// What is shown, and how.
#[derive(Clone, Debug)]
pub struct Picture {
    pub format: Format,
    pub width: u32,
    /// Lines of the monitor.
    pub height: u32,
    /// First address: bytes in linear formats, else the CRTC's character counter.
    pub start: u32,
    /// From row to row, in the same unit.
    pub pitch: u32,
    /// Bits of the counter that count.
    pub address_mask: u32,
    /// Left shift of the counter: 0 byte mode, 1 word, 2 doubleword.
    pub address_shift: u32,
    /// Bit of the counter that word mode brings in as bit 0.
    pub wrap_bit: u32,
    /// Address bits 13 and 14 that the row scan counter replaces: a bit each.
    pub row_scan_bits: u32,
    /// Lines of a character row, or of a pixel.
    pub row_lines: u32,
    pub double_scan: bool,
    /// The first row starts at this line of it.
    pub preset_row: u32,
    /// The last line before the screen's second part, which starts at address 0.
    pub line_compare: u32,
    /// Dots that the picture is moved to the left.
    pub pan: u32,
    pub byte_pan: u32,
    /// The second part isn't panned.
    pub split_unpanned: bool,
    /// A dot is two pixels wide: half the dot clock.
    pub double_dots: bool,
    /// Dots of a character: 8 or 9.
    pub cell_width: u32,
    /// Word addresses of the fonts for attribute bit 3 clear and set.
    pub fonts: [u32; 2],
    /// Counter of the cell with the cursor; None: no cursor now.
    pub cursor: Option<u32>,
    pub cursor_lines: (u32, u32),
    /// Attribute bit 7 is for blinking rather than a bright background.
    pub blink: bool,
    /// Blinking characters are hidden now.
    pub blink_hides: bool,
    pub underline: u32,
    /// The ninth dot of codes C0h–DFh repeats the eighth.
    pub line_graphics: bool,
    /// BGRX.
    pub palette: [u32; COLORS],
}

/// Video memory.
#[derive(Clone, Copy)]
pub struct Vram {
    start: *const u8,
    bytes: usize,
}

// SAFETY: an address range; whoever makes a Vram keeps it mapped.
unsafe impl Send for Vram {}
// SAFETY: as above.
unsafe impl Sync for Vram {}

impl Vram {
    /// # Safety
    /// `bytes`, a multiple of 4 and not 0, at `start` (aligned to 4) are mapped as long as this is used.
    pub unsafe fn new(start: *const u8, bytes: usize) -> Vram {
        Vram { start, bytes }
    }

    /// The four planes at a word address.
    fn word(&self, word: u32) -> u32 {
        let at = (word as usize * 4) % self.bytes;
        // SAFETY: aligned, inside the mapping.
        unsafe { self.start.add(at).cast::<u32>().read() }
    }

    /// Fills `out` from a byte offset on, around the end.
    fn copy(&self, offset: usize, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = (offset + done) % self.bytes;
            let n = (self.bytes - at).min(out.len() - done);
            // SAFETY: at + n is at most `bytes`; `out` is ours.
            unsafe {
                self.start
                    .add(at)
                    .copy_to_nonoverlapping(out[done..].as_mut_ptr(), n)
            };
            done += n;
        }
    }
}

/// Part of a picture, in pixels.
#[derive(Clone, Copy, Debug)]
pub struct Area {
    pub x: u32,
    pub y: u32,
    pub width: u32,
    pub height: u32,
}

/// Where a line of the monitor comes from.
struct Line {
    /// Counter of its first character.
    address: u32,
    /// Row scan counter.
    scan: u32,
    pan: u32,
}

const fn spread_bits() -> [u64; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut dot = 0;
        while dot < 8 {
            if byte >> (7 - dot) & 1 != 0 {
                table[byte] |= 1 << (8 * dot);
            }
            dot += 1;
        }
        byte += 1;
    }
    table
}

/// 1 in the byte of each dot that is set, the leftmost lowest.
static SPREAD: [u64; 256] = spread_bits();

impl Picture {
    fn line(&self, y: u32) -> Line {
        let split = y > self.line_compare;
        let (base, y, preset) = if split {
            (0, y - self.line_compare - 1, 0)
        } else {
            (self.start, y, self.preset_row)
        };
        let scans = preset + (y >> self.double_scan as u32);
        let rows = self.row_lines.max(1);
        let panned = !(split && self.split_unpanned);
        Line {
            address: base
                .wrapping_add((scans / rows).wrapping_mul(self.pitch))
                .wrapping_add(if panned { self.byte_pan } else { 0 }),
            scan: scans % rows,
            pan: if panned { self.pan } else { 0 },
        }
    }

    /// The word that the CRTC fetches at a counter.
    fn fetch(&self, counter: u32, scan: u32) -> u32 {
        let counter = counter & self.address_mask;
        let mut address = match self.address_shift {
            0 => counter,
            1 => counter << 1 | counter >> self.wrap_bit & 1,
            _ => counter << 2 | counter >> 12 & 3,
        };
        address &= self.address_mask;
        let replaced = (self.row_scan_bits & 3) << 13;
        address & !replaced | scan << 13 & replaced
    }

    /// Dots of a character on the screen.
    fn cell_dots(&self) -> u32 {
        if self.format == Format::Text {
            self.cell_width.clamp(8, 9)
        } else {
            8
        }
    }

    fn scale(&self) -> u32 {
        1 + self.double_dots as u32
    }

    /// Characters of a line.
    pub fn columns(&self) -> u32 {
        self.width / (self.cell_dots() * self.scale())
    }

    /// Character rows, the last perhaps in part.
    pub fn rows(&self) -> u32 {
        let lines = self.row_lines.max(1) << self.double_scan as u32;
        self.height.div_ceil(lines)
    }
}

/// Fills `out` with the area's pixels: BGRX, rows packed.  `area` lies inside the picture.
pub fn render(vram: Vram, picture: &Picture, area: Area, out: &mut [u8]) {
    let row_bytes = area.width as usize * 4;
    if row_bytes == 0 {
        return;
    }
    let rows = out.chunks_exact_mut(row_bytes).zip(area.y..);
    if let Some(bytes) = picture.format.linear_bytes() {
        let mut source = vec![0; area.width as usize * bytes];
        for (row, y) in rows {
            linear_row(vram, picture, &area, y, &mut source, row);
        }
        return;
    }
    let fonts = match picture.format {
        Format::Text => [0, 1].map(|n| font(vram, picture, n)),
        _ => [Vec::new(), Vec::new()],
    };
    let mut dots = Vec::new();
    for (row, y) in rows {
        dots.clear();
        let line = picture.line(y);
        draw_line(vram, picture, &fonts, &line, &mut dots);
        let scale = picture.scale();
        for (pixel, x) in row.chunks_exact_mut(4).zip(area.x..) {
            let dot = dots.get((x / scale + line.pan) as usize);
            pixel.copy_from_slice(&dot.copied().unwrap_or(0).to_le_bytes());
        }
    }
}

fn linear_row(vram: Vram, p: &Picture, area: &Area, y: u32, source: &mut [u8], out: &mut [u8]) {
    let bytes = p.format.linear_bytes().unwrap_or(1);
    let first = p.start as usize + y as usize * p.pitch as usize + area.x as usize * bytes;
    if bytes == 4 {
        return vram.copy(first, out);
    }
    vram.copy(first, source);
    let pixels = out.chunks_exact_mut(4);
    // A loop for each format, so that each becomes vector code.
    match p.format {
        Format::Linear15 => convert(pixels, source, |[low, high]: [u8; 2]| {
            let v = u16::from_le_bytes([low, high]) as u32;
            wide5(v) | wide5(v >> 5) << 8 | wide5(v >> 10) << 16
        }),
        Format::Linear16 => convert(pixels, source, |[low, high]: [u8; 2]| {
            let v = u16::from_le_bytes([low, high]) as u32;
            let green = v >> 5 & 63;
            wide5(v) | (green << 2 | green >> 4) << 8 | wide5(v >> 11) << 16
        }),
        Format::Linear24 => convert(pixels, source, |[b, g, r]: [u8; 3]| {
            u32::from_le_bytes([b, g, r, 0])
        }),
        _ => convert(pixels, source, |[index]: [u8; 1]| p.palette[index as usize]),
    }
}

/// The low five bits as eight.
fn wide5(value: u32) -> u32 {
    (value & 31) << 3 | (value & 31) >> 2
}

#[inline(always)]
fn convert<const N: usize>(
    pixels: std::slice::ChunksExactMut<u8>,
    source: &[u8],
    color: impl Fn([u8; N]) -> u32,
) {
    let (raw, _) = source.as_chunks::<N>();
    for (pixel, raw) in pixels.zip(raw) {
        pixel.copy_from_slice(&color(*raw).to_le_bytes());
    }
}

/// The dots of one line, from before panning on and a character beyond the end.
fn draw_line(vram: Vram, p: &Picture, fonts: &[Vec<u8>; 2], line: &Line, dots: &mut Vec<u32>) {
    for column in 0..=p.columns() {
        let counter = line.address.wrapping_add(column) & p.address_mask;
        let word = vram.word(p.fetch(counter, line.scan));
        match p.format {
            Format::Text => draw_cell(p, fonts, counter, word, line.scan, dots),
            Format::Planar => {
                let bits = word.to_le_bytes().map(|byte| SPREAD[byte as usize]);
                let colors = bits[0] | bits[1] << 1 | bits[2] << 2 | bits[3] << 3;
                dots.extend(colors.to_le_bytes().map(|c| p.palette[c as usize]));
            }
            Format::Interleaved => {
                for (low, high) in [(0, 16), (8, 24)] {
                    dots.extend([6, 4, 2, 0].map(|shift| {
                        let color = word >> (low + shift) & 3 | (word >> (high + shift) & 3) << 2;
                        p.palette[color as usize]
                    }));
                }
            }
            Format::Chained => {
                let colors = word.to_le_bytes().map(|c| p.palette[c as usize]);
                dots.extend(colors.into_iter().flat_map(|color| [color; 2]));
            }
            _ => dots.extend([0; 8]),
        }
    }
}

fn draw_cell(
    p: &Picture,
    fonts: &[Vec<u8>; 2],
    counter: u32,
    word: u32,
    scan: u32,
    dots: &mut Vec<u32>,
) {
    let [code, attribute, ..] = word.to_le_bytes();
    let glyph = &fonts[(attribute >> 3 & 1) as usize];
    let mut bits = glyph
        .get(code as usize * FONT_STRIDE + (scan % 32) as usize)
        .copied()
        .unwrap_or(0);
    if scan == p.underline && attribute & 0x77 == 1 {
        bits = 0xFF;
    }
    let hidden = p.blink && p.blink_hides && attribute & 0x80 != 0;
    let (first, last) = p.cursor_lines;
    let mut ninth = p.line_graphics && code & 0xE0 == 0xC0 && bits & 1 != 0;
    if hidden {
        (bits, ninth) = (0, false);
    }
    if p.cursor == Some(counter) && (first..=last).contains(&scan) {
        (bits, ninth) = (0xFF, true);
    }
    let background = if p.blink {
        attribute >> 4 & 7
    } else {
        attribute >> 4
    };
    let colors = [
        p.palette[background as usize],
        p.palette[(attribute & 15) as usize],
    ];
    let spread = SPREAD[bits as usize].to_le_bytes();
    dots.extend(spread.map(|dot| colors[dot as usize]));
    if p.cell_dots() == 9 {
        dots.push(colors[ninth as usize]);
    }
}

/// Bytes of a glyph in plane 2.
const FONT_STRIDE: usize = 32;

/// The font for attribute bit 3 = `number`: 256 glyphs of 32 bytes.
pub fn font(vram: Vram, picture: &Picture, number: usize) -> Vec<u8> {
    let first = picture.fonts.get(number).copied().unwrap_or(0);
    (0..256 * FONT_STRIDE as u32)
        .map(|at| (vram.word(first.wrapping_add(at) & 0xFFFF) >> 16) as u8)
        .collect()
}

/// Codes and attributes of a text screen, row by row.
pub fn cells(vram: Vram, picture: &Picture) -> (Vec<u8>, Vec<u8>) {
    let (columns, rows) = (picture.columns(), picture.rows());
    let lines = picture.row_lines.max(1) << picture.double_scan as u32;
    let words = (0..rows).flat_map(|row| {
        let line = picture.line(row * lines);
        (0..columns).map(move |column| {
            vram.word(picture.fetch(line.address.wrapping_add(column), line.scan))
        })
    });
    words.map(|word| (word as u8, (word >> 8) as u8)).unzip()
}

/// A font to look for on a graphics screen: 256 glyphs of `height` bytes.
pub struct Font<'a> {
    pub height: usize,
    pub glyphs: &'a [u8],
    /// Where its first cell is, in pixels.
    pub origin: (usize, usize),
}

/// Text found in a picture.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub columns: u32,
    pub rows: u32,
    pub codes: Vec<u8>,
    /// Cells with a glyph.
    pub drawn: usize,
    /// Cells of two colours: perhaps text.
    pub plain: usize,
}

const BLANK: u8 = b' ';
/// Dots of the highest glyph.
type Glyph = [u8; FONT_STRIDE];

/// Text drawn exactly in one of the fonts, at multiples of its size from its origin, in any two colours; of several
/// fonts the one that most cells are drawn in (or the first that nearly all are).  `scale`: pixels of
/// a dot, across and down.
pub fn find_text(
    vram: Vram,
    picture: &Picture,
    scale: (usize, usize),
    fonts: &[Font],
) -> Option<Found> {
    let scale = (scale.0.max(1), scale.1.max(1));
    let mut best: Option<Found> = None;
    let usable = |f: &&Font| (1..=FONT_STRIDE).contains(&f.height);
    for font in fonts.iter().filter(usable) {
        let found = find_in(vram, picture, scale, font);
        // All that may be text on the whole screen is: no other font fits as well.
        let clear = font.origin == (0, 0) && found.drawn * 50 > found.plain * 49;
        if best.as_ref().is_none_or(|b| found.drawn > b.drawn) {
            best = Some(found);
        }
        if clear {
            break;
        }
    }
    best
}

fn find_in(vram: Vram, picture: &Picture, scale: (usize, usize), font: &Font) -> Found {
    let glyphs = index(font);
    let (left, top) = font.origin;
    let width = (picture.width as usize).saturating_sub(left);
    let height = (picture.height as usize).saturating_sub(top);
    let lines = font.height * scale.1;
    let (columns, rows) = (width / (8 * scale.0), height / lines);
    // A row of cells at a time stays in the cache.
    let mut pixels = vec![0; width * lines * 4];
    let mut found = Found {
        columns: columns as u32,
        rows: rows as u32,
        codes: Vec::with_capacity(columns * rows),
        drawn: 0,
        plain: 0,
    };
    for row in 0..rows {
        let area = Area {
            x: left as u32,
            y: (top + row * lines) as u32,
            width: width as u32,
            height: lines as u32,
        };
        render(vram, picture, area, &mut pixels);
        for column in 0..columns {
            let code = match cell(&pixels, width, column, scale, font.height) {
                Cell::Empty | Cell::Colored => BLANK,
                Cell::Dots(glyph) => {
                    found.plain += 1;
                    let code = look_up(&glyphs, glyph, font.height);
                    found.drawn += code.is_some() as usize;
                    code.unwrap_or(BLANK)
                }
            };
            found.codes.push(code);
        }
    }
    found
}

fn index(font: &Font) -> HashMap<Glyph, u8> {
    let mut glyphs = HashMap::new();
    for (code, rows) in font.glyphs.chunks_exact(font.height).take(256).enumerate() {
        let mut glyph = [0; FONT_STRIDE];
        let n = rows.len().min(FONT_STRIDE);
        glyph[..n].copy_from_slice(&rows[..n]);
        // Of equal glyphs the ASCII one, else the first.
        let ascii = (0x20..0x7F).contains(&code);
        if ascii || !glyphs.contains_key(&glyph) {
            glyphs.insert(glyph, code as u8);
        }
    }
    glyphs.insert([0; FONT_STRIDE], BLANK);
    glyphs
}

/// What is in a cell.
enum Cell {
    Empty,
    /// More than two colours: no text.
    Colored,
    /// The dots that differ from the first one.
    Dots(Glyph),
}

const COLOR: u32 = 0x00FF_FFFF;

/// Looks at the dots of one cell in a row of them.
fn cell(pixels: &[u8], width: usize, column: usize, scale: (usize, usize), height: usize) -> Cell {
    let left = column * 8 * scale.0;
    let (mut ground, mut ink) = (None, None);
    let mut glyph = [0; FONT_STRIDE];
    for (row, bits) in glyph.iter_mut().take(height).enumerate() {
        let start = row * scale.1 * width + left;
        let line = pixels.get(start * 4..(start + 8 * scale.0) * 4);
        let dots = dots(line.unwrap_or_default(), scale.0);
        let ground = *ground.get_or_insert(dots[0]);
        *bits = different(&dots, ground);
        if *bits != 0 {
            let ink = *ink.get_or_insert(dots[bits.leading_zeros() as usize]);
            if different(&dots, ink) != !*bits {
                return Cell::Colored;
            }
        }
    }
    match ink {
        None => Cell::Empty,
        Some(_) => Cell::Dots(glyph),
    }
}

/// Every `scale`th pixel of a line, eight in all.
#[inline(always)]
fn dots(line: &[u8], scale: usize) -> [u32; 8] {
    let mut dots = [0; 8];
    let (pixels, _) = line.as_chunks::<4>();
    if scale == 1 {
        // The common case, without a multiplication for each.
        for (dot, pixel) in dots.iter_mut().zip(pixels) {
            *dot = u32::from_le_bytes(*pixel) & COLOR;
        }
    } else {
        for (dot, pixel) in dots.iter_mut().zip(pixels.iter().step_by(scale)) {
            *dot = u32::from_le_bytes(*pixel) & COLOR;
        }
    }
    dots
}

/// A bit for each dot of another colour, the leftmost in bit 7.
#[inline(always)]
fn different(dots: &[u32; 8], color: u32) -> u8 {
    let mut bits = 0;
    for (n, dot) in dots.iter().enumerate() {
        bits |= ((*dot != color) as u8) << (7 - n);
    }
    bits
}

fn look_up(glyphs: &HashMap<Glyph, u8>, mut cell: Glyph, height: usize) -> Option<u8> {
    if let Some(code) = glyphs.get(&cell) {
        return Some(*code);
    }
    for bits in cell.iter_mut().take(height) {
        *bits = !*bits;
    }
    glyphs.get(&cell).copied()
}

#[cfg(test)]
mod tests;
