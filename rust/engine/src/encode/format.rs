//! The viewer's pixel format (RFC 6143, §7.4), and colours in it.

/// True colour only: who wants a colour map is given one of fixed colours by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PixelFormat {
    /// 8, 16 or 32 bits for each pixel.
    pub bits: u8,
    pub depth: u8,
    pub big_endian: bool,
    /// Highest value and place of the lowest bit: red, green, blue.
    pub max: [u16; 3],
    pub shift: [u8; 3],
}

/// Which bytes of a 4-byte pixel ZRLE sends (RFC 6143, §7.7.5: CPIXEL).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compact {
    Whole,
    /// The three bytes from this one of the pixel as it is sent.
    Three(usize),
}

/// Makes pixels of one format.
pub struct Painter {
    tables: [Box<[u32; 256]>; 3],
    bytes: usize,
    big_endian: bool,
    compact: Compact,
    /// Tight's TPIXEL: red, green and blue as bytes.
    rgb: bool,
    /// The frame's own format.
    same: bool,
}

impl PixelFormat {
    /// Whether the numbers make sense together: a viewer sent them.
    pub fn is_valid(&self) -> bool {
        matches!(self.bits, 8 | 16 | 32)
            && (0..3).all(|i| {
                let shift = u32::from(self.shift[i]);
                shift < 32
                    && u64::from(self.max[i]) << shift < 1 << self.bits
                    && (u32::from(self.max[i]) + 1).is_power_of_two()
            })
    }

    /// None when it isn't valid.
    pub fn painter(&self) -> Option<Painter> {
        if !self.is_valid() {
            return None;
        }
        let table = |i: usize| {
            let max = u32::from(self.max[i]);
            let mut table = Box::new([0; 256]);
            for (value, entry) in (0..).zip(table.iter_mut()) {
                *entry = ((value * max + 127) / 255) << self.shift[i];
            }
            table
        };
        let bytes_used =
            |mask: u32| (0..3).all(|i| u32::from(self.max[i]) << self.shift[i] & !mask == 0);
        let compact = match (self.bits == 32 && self.depth <= 24, self.big_endian) {
            (true, false) if bytes_used(0x00FF_FFFF) => Compact::Three(0),
            (true, true) if bytes_used(0x00FF_FFFF) => Compact::Three(1),
            (true, false) if bytes_used(0xFFFF_FF00) => Compact::Three(1),
            (true, true) if bytes_used(0xFFFF_FF00) => Compact::Three(0),
            _ => Compact::Whole,
        };
        Some(Painter {
            tables: [table(0), table(1), table(2)],
            bytes: usize::from(self.bits / 8),
            big_endian: self.big_endian,
            compact,
            rgb: self.bits == 32 && self.depth == 24 && self.max == [255; 3],
            same: self.bits == 32
                && !self.big_endian
                && self.max == [255; 3]
                && self.shift == [16, 8, 0],
        })
    }
}

impl Painter {
    /// The frame's colour as the viewer's pixel value.
    pub fn value(&self, colour: u32) -> u32 {
        if self.same {
            return colour & 0x00FF_FFFF;
        }
        let [blue, green, red, _] = colour.to_le_bytes();
        self.tables[0][usize::from(red)]
            | self.tables[1][usize::from(green)]
            | self.tables[2][usize::from(blue)]
    }

    fn bytes_of(&self, colour: u32) -> [u8; 4] {
        let value = self.value(colour);
        if self.big_endian {
            (value << (32 - 8 * self.bytes)).to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    /// PIXEL.
    pub fn put(&self, colour: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes_of(colour)[..self.bytes]);
    }

    /// PIXELs of a whole row.
    pub fn put_row(&self, row: &[u32], out: &mut Vec<u8>) {
        match (self.bytes, self.big_endian) {
            (4, false) => out.extend(row.iter().flat_map(|&c| self.value(c).to_le_bytes())),
            (4, true) => out.extend(row.iter().flat_map(|&c| self.value(c).to_be_bytes())),
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a valid format's value fits its bits"
            )]
            (1, _) => out.extend(row.iter().map(|&c| self.value(c) as u8)),
            _ => row.iter().for_each(|&c| self.put(c, out)),
        }
    }

    /// CPIXEL, as ZRLE has it.
    pub fn put_compact(&self, colour: u32, out: &mut Vec<u8>) {
        match self.compact {
            Compact::Whole => self.put(colour, out),
            Compact::Three(from) => out.extend_from_slice(&self.bytes_of(colour)[from..from + 3]),
        }
    }

    /// CPIXELs of a whole tile.
    pub fn put_all_compact(&self, colours: &[u32], out: &mut Vec<u8>) {
        match self.compact {
            Compact::Whole => self.put_row(colours, out),
            Compact::Three(from) => out.extend(colours.iter().flat_map(|&colour| {
                let bytes = self.bytes_of(colour);
                [bytes[from], bytes[from + 1], bytes[from + 2]]
            })),
        }
    }

    /// TPIXELs of a whole row.
    pub fn put_row_tight(&self, row: &[u32], out: &mut Vec<u8>) {
        if self.rgb {
            out.extend(row.iter().flat_map(|&colour| {
                let [blue, green, red, _] = colour.to_le_bytes();
                [red, green, blue]
            }));
        } else {
            self.put_row(row, out);
        }
    }

    /// TPIXEL, as Tight has it.
    pub fn put_tight(&self, colour: u32, out: &mut Vec<u8>) {
        if self.rgb {
            let [blue, green, red, _] = colour.to_le_bytes();
            out.extend_from_slice(&[red, green, blue]);
        } else {
            self.put(colour, out);
        }
    }

    /// Bytes of a CPIXEL.
    pub fn compact_bytes(&self) -> usize {
        if self.compact == Compact::Whole {
            self.bytes
        } else {
            3
        }
    }
}
