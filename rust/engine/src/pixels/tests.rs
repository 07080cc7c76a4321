use super::*;

const RED: u32 = 0xFF_0000;

/// Video memory of words, and a picture of it with a palette of its numbers.
struct Screen {
    words: Vec<u32>,
    picture: Picture,
}

fn screen(format: Format, width: u32, height: u32) -> Screen {
    let mut palette = [0; COLORS];
    for (n, color) in palette.iter_mut().enumerate() {
        *color = n as u32;
    }
    Screen {
        words: vec![0; 0x1_0000],
        picture: Picture {
            format,
            width,
            height,
            start: 0,
            pitch: width / 8,
            address_mask: 0xFFFF,
            address_shift: 0,
            wrap_bit: 15,
            row_scan_bits: 0,
            row_lines: 1,
            double_scan: false,
            preset_row: 0,
            line_compare: 0x3FF,
            pan: 0,
            byte_pan: 0,
            split_unpanned: false,
            double_dots: false,
            cell_width: 8,
            fonts: [0x4000, 0x4000],
            cursor: None,
            cursor_lines: (14, 15),
            blink: false,
            blink_hides: false,
            underline: 31,
            line_graphics: true,
            palette,
        },
    }
}

impl Screen {
    fn vram(&self) -> Vram {
        // SAFETY: the words outlive what the tests do with it.
        unsafe { Vram::new(self.words.as_ptr().cast(), self.words.len() * 4) }
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let shift = 8 * (at % 4);
            self.words[at / 4] = self.words[at / 4] & !(0xFF << shift) | (*byte as u32) << shift;
        }
    }

    fn area(&self, x: u32, y: u32, width: u32, height: u32) -> Vec<u32> {
        let mut out = vec![0; (width * height * 4) as usize];
        let area = Area {
            x,
            y,
            width,
            height,
        };
        render(self.vram(), &self.picture, area, &mut out);
        let words = out.chunks_exact(4);
        words
            .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    fn row(&self, y: u32, pixels: u32) -> Vec<u32> {
        self.area(0, y, pixels, 1)
    }
}

#[test]
fn planes_are_the_bits_of_a_colour() {
    let mut s = screen(Format::Planar, 16, 2);
    s.words[0] = 0xC0A0_9080;
    s.words[3] = 0x01;
    assert_eq!(s.row(0, 8), [15, 8, 4, 2, 0, 0, 0, 0]);
    assert_eq!(s.area(14, 1, 2, 1), [0, 1]);
}

#[test]
fn interleaved_pixels_take_two_bits_of_two_planes() {
    let mut s = screen(Format::Interleaved, 8, 1);
    s.words[0] = 0x00_40_1B_E4;
    assert_eq!(s.row(0, 8), [3 | 4, 2, 1, 0, 0, 1, 2, 3]);
}

#[test]
fn chained_pixels_are_two_dots_wide() {
    let mut s = screen(Format::Chained, 8, 1);
    s.words[0] = 0x04030201;
    assert_eq!(s.row(0, 8), [1, 1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn word_mode_brings_in_a_high_bit() {
    let mut s = screen(Format::Planar, 8, 1);
    s.picture.address_shift = 1;
    s.picture.start = 0x8001;
    s.words[3] = 0x80;
    assert_eq!(s.row(0, 1), [1]);
}

#[test]
fn the_row_scan_counter_replaces_address_bits() {
    let mut s = screen(Format::Planar, 8, 4);
    s.picture.row_lines = 2;
    s.picture.row_scan_bits = 1;
    s.words[0x2000] = 0x80;
    s.words[0x2001] = 0x8000;
    assert_eq!([s.row(0, 1), s.row(1, 1), s.row(3, 1)], [[0], [1], [2]]);
}

#[test]
fn doubled_lines_show_twice() {
    let mut s = screen(Format::Planar, 8, 6);
    s.picture.double_scan = true;
    s.words[1] = 0x80;
    let column: Vec<u32> = s.area(0, 0, 1, 6);
    assert_eq!(column, [0, 0, 1, 1, 0, 0]);
}

#[test]
fn half_the_dot_clock_doubles_dots() {
    let mut s = screen(Format::Planar, 32, 1);
    s.picture.double_dots = true;
    s.words[0] = 0x40;
    assert_eq!(s.row(0, 6), [0, 0, 1, 1, 0, 0]);
}

#[test]
fn the_second_part_starts_at_address_0_after_line_compare() {
    let mut s = screen(Format::Planar, 8, 4);
    s.picture.start = 100;
    s.picture.line_compare = 1;
    s.words[0] = 0x80;
    s.words[101] = 0x8000;
    assert_eq!(s.area(0, 0, 1, 4), [0, 2, 1, 0]);
}

#[test]
fn panning_moves_dots_and_spares_the_second_part_if_told() {
    let mut s = screen(Format::Planar, 8, 2);
    s.picture.pan = 3;
    s.picture.line_compare = 0;
    s.words[0] = 0x10;
    assert_eq!([s.row(0, 1), s.row(1, 1)], [[1], [1]]);
    s.picture.split_unpanned = true;
    assert_eq!([s.row(0, 1), s.row(1, 1)], [[1], [0]]);
}

#[test]
fn panning_shows_the_character_beyond_the_end() {
    let mut s = screen(Format::Planar, 8, 1);
    s.picture.pan = 4;
    s.words[1] = 0x80;
    assert_eq!(s.row(0, 8), [0, 0, 0, 0, 1, 0, 0, 0]);
}

/// One cell of code DBh, a full block, with attribute 2Ch.
fn text(cell_width: u32) -> Screen {
    let mut s = screen(Format::Text, 2 * cell_width, 16);
    s.picture.cell_width = cell_width;
    s.picture.row_lines = 16;
    s.picture.pitch = 2;
    for line in 0..16 {
        s.words[0x4000 + 0xDB * 32 + line] = 0xF1_0000;
        s.words[0x4000 + 0x41 * 32 + line] = 0xF1_0000;
    }
    (s.words[0], s.words[1]) = (0x2CDB, 0x2C41);
    s
}

#[test]
fn a_cell_is_its_glyph_in_two_colours() {
    assert_eq!(text(8).row(0, 8), [12, 12, 12, 12, 2, 2, 2, 12]);
}

#[test]
fn the_ninth_dot_repeats_the_eighth_of_line_graphics_only() {
    let row = text(9).row(0, 18);
    assert_eq!((row[8], row[17]), (12, 2));
}

#[test]
fn attribute_bit_3_chooses_the_font() {
    let mut s = text(8);
    s.picture.fonts = [0x4000, 0x8000];
    assert_eq!(s.row(0, 2), [2, 2]);
    s.words[0] = 0x24DB;
    assert_eq!(s.row(0, 2), [4, 4]);
}

#[test]
fn the_cursor_fills_its_lines_of_its_cell() {
    let mut s = text(8);
    s.picture.cursor = Some(1);
    assert_eq!(s.row(15, 16)[8..], [12; 8]);
    assert_eq!(s.row(13, 16)[12..15], [2; 3]);
    s.picture.cursor_lines = (15, 14);
    assert_eq!(s.row(15, 16)[12..15], [2; 3]);
}

#[test]
fn blinking_hides_the_glyph_and_takes_a_background_bit() {
    let mut s = text(8);
    s.words[0] = 0xACDB;
    assert_eq!(s.row(0, 5), [12, 12, 12, 12, 10]);
    s.picture.blink = true;
    assert_eq!(s.row(0, 5), [12, 12, 12, 12, 2]);
    s.picture.blink_hides = true;
    assert_eq!(s.row(0, 5), [2; 5]);
}

#[test]
fn attribute_1_underlines() {
    let mut s = text(8);
    s.words[0] = 0x0100 | b' ' as u32;
    s.picture.underline = 12;
    assert_eq!([s.row(12, 1), s.row(11, 1)], [[1], [0]]);
}

#[test]
fn cells_are_read_row_by_row() {
    let mut s = screen(Format::Text, 16, 32);
    s.picture.row_lines = 16;
    s.picture.pitch = 4;
    s.picture.start = 10;
    s.picture.address_shift = 1;
    for (counter, word) in [(10, 0x0141), (11, 0x0242), (14, 0x0343), (15, 0x0444)] {
        s.words[2 * counter] = word;
    }
    let expected = (b"ABCD".to_vec(), vec![1, 2, 3, 4]);
    assert_eq!(cells(s.vram(), &s.picture), expected);
}

#[test]
fn frame_buffers_have_pixels_of_8_to_32_bits() {
    let cases: [(Format, &[u8], u32); 6] = [
        (Format::Linear8, &[7], 7),
        (Format::Linear15, &[0x00, 0x7C], RED),
        (Format::Linear16, &[0x00, 0xF8], RED),
        (Format::Linear16, &[0xE0, 0x07], 0xFF00),
        (Format::Linear24, &[1, 2, 3], 0x03_0201),
        (Format::Linear32, &[1, 2, 3, 0], 0x03_0201),
    ];
    for (format, bytes, color) in cases {
        let mut s = screen(format, 4, 2);
        s.picture.start = 3 * bytes.len() as u32;
        s.picture.pitch = 100;
        s.put(100 + 5 * bytes.len(), bytes);
        assert_eq!(s.area(2, 1, 1, 1), [color], "{format:?}");
    }
}

#[test]
fn a_frame_buffer_goes_around_the_end() {
    let mut s = screen(Format::Linear32, 2, 1);
    s.picture.start = 0x4_0000 - 4;
    (s.words[0xFFFF], s.words[0]) = (1, 2);
    assert_eq!(s.row(0, 2), [1, 2]);
}

/// An 8×8 font in which A is a slash, and B the same lines the other way round.
fn slashes() -> Vec<u8> {
    let mut font = vec![0; 2048];
    for row in 0..8 {
        font[0x41 * 8 + row] = 1 << row;
        font[0x42 * 8 + row] = 0x80 >> row;
    }
    font
}

/// A, B and a blank in colours of their own, each dot `scale` pixels wide and high.
fn drawing(scale: u32) -> Screen {
    let mut s = screen(Format::Linear32, 24 * scale, 8 * scale);
    s.picture.pitch = 4 * s.picture.width;
    for y in 0..8 * scale {
        for x in 0..24 * scale {
            let (column, row) = (x / scale, y / scale);
            let drawn = column == 7 - row || column == 8 + row;
            let color = if drawn {
                0x0100_0909 | (column / 8) << 16
            } else {
                0x0205_0505
            };
            s.words[(y * 24 * scale + x) as usize] = color;
        }
    }
    s
}

fn found(s: &Screen, scale: usize, fonts: &[(usize, &[u8])]) -> Option<Found> {
    let fonts: Vec<Font> = fonts
        .iter()
        .map(|&(height, glyphs)| Font {
            height,
            glyphs,
            origin: (0, 0),
        })
        .collect();
    find_text(s.vram(), &s.picture, (scale, scale), &fonts)
}

#[test]
fn glyphs_are_found_in_any_two_colours() {
    let found = found(&drawing(1), 1, &[(8, &slashes())]).unwrap();
    assert_eq!(
        (found.columns, found.rows, &found.codes[..]),
        (3, 1, &b"AB "[..])
    );
    assert_eq!((found.drawn, found.plain), (2, 2));
}

#[test]
fn glyphs_with_a_third_colour_are_not_text() {
    let mut s = drawing(1);
    s.words[1] = 77;
    let found = found(&s, 1, &[(8, &slashes())]).unwrap();
    assert_eq!(found.codes, b" B ");
    assert_eq!((found.drawn, found.plain), (1, 1));
}

#[test]
fn the_font_that_most_is_drawn_in_is_taken() {
    let (glyphs, other) = (slashes(), vec![0x55; 8 * 256]);
    let fonts: [(usize, &[u8]); 2] = [(8, &other), (8, &glyphs)];
    assert_eq!(found(&drawing(1), 1, &fonts).unwrap().drawn, 2);
    let without = found(&drawing(1), 1, &fonts[..1]).unwrap();
    assert_eq!((without.drawn, without.plain), (0, 2));
}

#[test]
fn cells_are_counted_from_the_fonts_origin() {
    let mut s = drawing(1);
    s.words.rotate_right(3);
    let glyphs = slashes();
    let font = Font {
        height: 8,
        glyphs: &glyphs,
        origin: (3, 0),
    };
    let found = find_text(s.vram(), &s.picture, (1, 1), &[font]).unwrap();
    assert_eq!((found.columns, &found.codes[..]), (2, &b"AB"[..]));
}

#[test]
fn doubled_dots_are_looked_at_once() {
    let found = found(&drawing(2), 2, &[(8, &slashes())]).unwrap();
    assert_eq!(found.codes, b"AB ");
}

/// Xorshift numbers, biased to small and extreme ones.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let value = (self.0 >> 16) as u32;
        match self.0 % 4 {
            0 => value & 0x1F,
            1 => value & 0xFFFF,
            2 => u32::MAX - (value & 3),
            _ => value,
        }
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 != 0
    }
}

#[test]
fn no_picture_that_registers_can_describe_panics() {
    let mut n = Numbers(0x1234_5678_9ABC_DEF1);
    let glyphs = slashes();
    for _ in 0..3000 {
        let format = Format::from_number(n.next() % 11);
        let mut s = screen(format, n.next() % 90, n.next() % 40);
        for word in s.words.iter_mut().take(400) {
            *word = n.next();
        }
        s.picture = Picture {
            start: n.next(),
            pitch: n.next(),
            address_mask: n.next(),
            address_shift: n.next() % 4,
            wrap_bit: n.next() % 32,
            row_scan_bits: n.next() % 4,
            row_lines: n.next() % 33,
            double_scan: n.flag(),
            preset_row: n.next() % 32,
            line_compare: n.next(),
            pan: n.next() % 9,
            byte_pan: n.next() % 4,
            split_unpanned: n.flag(),
            double_dots: n.flag(),
            cell_width: n.next(),
            fonts: [n.next(), n.next()],
            cursor: n.flag().then_some(n.next()),
            cursor_lines: (n.next() % 32, n.next() % 32),
            blink: n.flag(),
            blink_hides: n.flag(),
            underline: n.next() % 32,
            line_graphics: n.flag(),
            ..s.picture
        };
        let (width, height) = (s.picture.width, s.picture.height);
        assert_eq!(s.area(0, 0, width, height).len() as u32, width * height);
        let (codes, attributes) = cells(s.vram(), &s.picture);
        assert_eq!(codes.len(), attributes.len());
        font(s.vram(), &s.picture, 1);
        found(&s, 1 + n.next() as usize % 4, &[(8, &glyphs)]);
    }
}
