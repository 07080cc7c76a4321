//! The VGA's window at A0000h–BFFFFh: four planes, latches, and the data path between them.
//!
//! IBM VGA/XGA Technical Reference (1992), "VGA function", sequencer and graphics controller.  Bits
//! and registers have its names.  The four planes' bytes at one address lie in one 32-bit word of video
//! memory, plane 0 lowest.
//!
//! With chain 4 an address's low bits choose the plane and the others, shifted right, the word: video
//! memory is then linear, as on later chips (the IBM VGA uses every fourth word only).  Bits 16 and
//! up of an address come from the bank register of the Bochs extension.

use crate::io::{Device, open_bus};
use crate::memory::Memory;
use std::sync::{Arc, Mutex};

/// What the window's behaviour depends on, as the registers have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    pub misc_output: u8,
    pub sequencer: [u8; 5],
    pub graphics: [u8; 9],
    /// Added to addresses inside the window (bytes).
    pub bank: u32,
}

/// The window's size: A0000h–BFFFFh (bytes).
pub const WINDOW_BYTES: u64 = 0x2_0000;

/// Where an address leads: the word, and which planes.
struct Place {
    word: u32,
    planes: u8,
}

const fn spread_planes() -> [u32; 16] {
    let mut table = [0; 16];
    let mut planes = 0;
    while planes < 16 {
        let mut plane = 0;
        while plane < 4 {
            if planes >> plane & 1 != 0 {
                table[planes] |= 0xFF << (8 * plane);
            }
            plane += 1;
        }
        planes += 1;
    }
    table
}

/// FFh in the byte of each plane.
static PLANES: [u32; 16] = spread_planes();

impl Registers {
    fn chain4(&self) -> bool {
        self.sequencer[4] & 8 != 0
    }

    /// The offset inside the memory map that is selected; None: nothing is decoded there.
    fn decode(&self, address: u64) -> Option<u32> {
        let (first, bytes) = match self.graphics[6] >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        };
        let offset = address.wrapping_sub(first);
        (offset < bytes && self.misc_output & 2 != 0).then_some(offset as u32)
    }

    /// The word of an address without chain 4; `odd_even`: bit 0 chooses planes.
    fn word(&self, offset: u32, odd_even: bool) -> u32 {
        let chained = odd_even && self.graphics[6] & 2 != 0;
        let offset = if !chained {
            offset
        } else if self.graphics[6] & 0xC == 0 {
            offset & !1 | offset >> 16 & 1
        } else {
            offset & !1 | (self.misc_output & 0x20 == 0) as u32
        };
        if self.bank == 0 {
            return offset & 0xFFFF;
        }
        offset + self.bank
    }

    fn for_write(&self, offset: u32) -> Place {
        let mask = self.sequencer[2] & 15;
        if self.chain4() {
            return Place {
                word: (offset + self.bank) >> 2,
                planes: mask & 1 << (offset & 3),
            };
        }
        let odd_even = self.sequencer[4] & 4 == 0;
        let half = match (odd_even, offset & 1) {
            (false, _) => 0b1111,
            (true, 0) => 0b0101,
            (true, _) => 0b1010,
        };
        Place {
            word: self.word(offset, odd_even),
            planes: mask & half,
        }
    }

    /// The word, and the plane that is read.
    fn for_read(&self, offset: u32) -> (u32, u32) {
        if self.chain4() {
            return ((offset + self.bank) >> 2, offset & 3);
        }
        let odd_even = self.graphics[5] & 0x10 != 0;
        let plane = (self.graphics[4] & 3) as u32;
        let plane = if odd_even {
            plane & 2 | offset & 1
        } else {
            plane
        };
        (self.word(offset, odd_even), plane)
    }

    /// Bits where the planes that count have the colour of the compare register.
    fn compare(&self, latch: u32) -> u8 {
        let different = latch ^ PLANES[(self.graphics[2] & 15) as usize];
        let different = different & PLANES[(self.graphics[7] & 15) as usize];
        let [a, b, c, d] = different.to_le_bytes();
        !(a | b | c | d)
    }

    /// What the data path makes of a byte that is written.
    fn modify(&self, value: u8, latch: u32) -> u32 {
        let rotated = value.rotate_right((self.graphics[3] & 7) as u32);
        let every = |byte: u8| byte as u32 * 0x0101_0101;
        let mut mask = every(self.graphics[8]);
        let data = match self.graphics[5] & 3 {
            0 => {
                let replaced = PLANES[(self.graphics[1] & 15) as usize];
                let set = PLANES[(self.graphics[0] & 15) as usize];
                every(rotated) & !replaced | set & replaced
            }
            1 => return latch,
            2 => PLANES[(value & 15) as usize],
            _ => {
                mask &= every(rotated);
                PLANES[(self.graphics[0] & 15) as usize]
            }
        };
        let data = match self.graphics[3] >> 3 & 3 {
            0 => data,
            1 => data & latch,
            2 => data | latch,
            _ => data ^ latch,
        };
        data & mask | latch & !mask
    }
}

#[derive(Default)]
struct State {
    registers: Registers,
    latch: u32,
}

/// The window, as the I/O map knows it.
pub struct Window {
    memory: Arc<Memory>,
    /// Video memory: offset into guest memory, bytes.
    offset: u64,
    bytes: u32,
    state: Mutex<State>,
    /// Called after a store over translated code: the vCPUs must look at it.
    attend: Box<dyn Fn() + Send + Sync>,
}

impl Window {
    /// Of the video memory at `offset` (as from `Memory::add_extra`).
    pub fn new(
        memory: Arc<Memory>,
        offset: u64,
        bytes: u32,
        attend: Box<dyn Fn() + Send + Sync>,
    ) -> Window {
        Window {
            memory,
            offset,
            bytes,
            state: Mutex::default(),
            attend,
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub fn set_registers(&self, registers: Registers) {
        self.state().registers = registers;
    }

    pub fn latch(&self) -> u32 {
        self.state().latch
    }

    pub fn set_latch(&self, latch: u32) {
        self.state().latch = latch;
    }

    fn at(&self, word: u32) -> u64 {
        self.offset + (word as u64 * 4) % (self.bytes as u64 & !3)
    }

    fn load(&self, word: u32) -> u32 {
        // SAFETY: `at` is an aligned offset inside video memory.
        unsafe { self.memory.ram_at(self.at(word)).cast::<u32>().read() }
    }

    fn store(&self, word: u32, value: u32) {
        if self.memory.write_extra(self.at(word), &value.to_le_bytes()) {
            (self.attend)();
        }
    }

    fn read_byte(&self, state: &mut State, address: u64) -> u8 {
        let Some(offset) = state.registers.decode(address) else {
            return 0xFF;
        };
        let (word, plane) = state.registers.for_read(offset);
        state.latch = self.load(word);
        if state.registers.graphics[5] & 8 != 0 {
            return state.registers.compare(state.latch);
        }
        (state.latch >> (8 * plane)) as u8
    }

    fn write_byte(&self, state: &State, address: u64, value: u8) {
        let registers = &state.registers;
        let Some(offset) = registers.decode(address) else {
            return;
        };
        let place = registers.for_write(offset);
        let planes = PLANES[place.planes as usize];
        if planes == 0 {
            return;
        }
        let new = registers.modify(value, state.latch);
        self.store(place.word, self.load(place.word) & !planes | new & planes);
    }
}

impl Device for Window {
    fn read(&self, offset: u64, size: u8) -> u64 {
        let mut state = self.state();
        let value = (0..size).fold(0, |value, i| {
            value | (self.read_byte(&mut state, offset + i as u64) as u64) << (8 * i as u32)
        });
        value & open_bus(size)
    }

    fn write(&self, offset: u64, size: u8, value: u64) {
        let state = self.state();
        for i in 0..size {
            self.write_byte(&state, offset + i as u64, (value >> (8 * i as u32)) as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::PAGE;

    const BYTES: u32 = 1 << 20;

    /// Mode 12h: planar, A0000h–AFFFFh, every plane written.
    const PLANAR: Registers = Registers {
        misc_output: 0xE3,
        sequencer: [3, 1, 15, 0, 6],
        graphics: [0, 0, 0, 0, 0, 0, 5, 15, 0xFF],
        bank: 0,
    };

    fn window(registers: Registers) -> Window {
        let memory = Arc::new(Memory::new(PAGE, PAGE).unwrap());
        let offset = memory.add_extra(BYTES as u64).unwrap();
        let w = Window::new(memory, offset, BYTES, Box::new(|| ()));
        w.set_registers(registers);
        w
    }

    fn set(registers: &mut Registers, graphics: &[(usize, u8)]) {
        for &(index, value) in graphics {
            registers.graphics[index] = value;
        }
    }

    #[test]
    fn the_map_mask_chooses_planes() {
        let mut r = PLANAR;
        r.sequencer[2] = 0b0101;
        let w = window(r);
        w.write(2, 1, 0xA5);
        assert_eq!(w.load(2), 0x00A5_00A5);
    }

    #[test]
    fn reads_come_from_the_plane_selected_and_fill_the_latches() {
        let mut r = PLANAR;
        set(&mut r, &[(4, 2)]);
        let w = window(r);
        w.store(7, 0x4433_2211);
        assert_eq!(w.read(7, 1), 0x33);
        assert_eq!(w.latch(), 0x4433_2211);
    }

    #[test]
    fn read_mode_1_compares_colours() {
        let mut r = PLANAR;
        set(&mut r, &[(5, 8), (2, 0b0001), (7, 0b0011)]);
        let w = window(r);
        // Plane 0: 1100, plane 1: 1010: the colour is 1 where plane 0 is set and plane 1 is not.
        w.store(0, 0xFFFF_0A0C);
        assert_eq!(w.read(0, 1) & 15, 0b0100);
    }

    #[test]
    fn write_mode_0_sets_resets_rotates_and_masks() {
        let mut r = PLANAR;
        set(&mut r, &[(0, 0b0010), (1, 0b0011), (3, 1), (8, 0x0F)]);
        let w = window(r);
        w.store(0, 0x1111_1111);
        w.read(0, 1);
        w.write(0, 1, 0x06);
        assert_eq!(w.load(0), 0x1313_1F10);
    }

    #[test]
    fn write_mode_1_copies_latches() {
        let mut r = PLANAR;
        set(&mut r, &[(5, 1)]);
        let w = window(r);
        w.store(0, 0x1234_5678);
        w.read(0, 1);
        w.write(9, 1, 0xFF);
        assert_eq!(w.load(9), 0x1234_5678);
    }

    #[test]
    fn write_mode_2_writes_a_colour() {
        let mut r = PLANAR;
        set(&mut r, &[(5, 2), (8, 0x80)]);
        let w = window(r);
        w.read(0, 1);
        w.write(0, 1, 0b1010);
        assert_eq!(w.load(0), 0x8000_8000);
    }

    #[test]
    fn write_mode_3_masks_by_the_data() {
        let mut r = PLANAR;
        set(&mut r, &[(5, 3), (0, 0b1001), (8, 0xF0)]);
        let w = window(r);
        w.read(0, 1);
        w.write(0, 1, 0x3C);
        assert_eq!(w.load(0), 0x3000_0030);
    }

    #[test]
    fn data_is_combined_with_the_latches() {
        for (function, expected) in [(0, 0x0F), (1, 0x05), (2, 0x5F), (3, 0x5A)] {
            let mut r = PLANAR;
            set(&mut r, &[(3, function << 3)]);
            let w = window(r);
            w.store(0, 0x5555_5555);
            w.read(0, 1);
            w.write(0, 1, 0x0F);
            assert_eq!(w.load(0) & 0xFF, expected, "function {function}");
        }
    }

    #[test]
    fn chain_4_is_linear() {
        let mut r = PLANAR;
        r.sequencer[4] = 0x0E;
        let w = window(r);
        w.write(1, 4, 0x0403_0201);
        assert_eq!((w.load(0), w.load(1)), (0x0302_0100, 4));
        assert_eq!(w.read(2, 2), 0x0302);
    }

    /// Mode 3.
    const TEXT: Registers = Registers {
        misc_output: 0x67,
        sequencer: [3, 0, 3, 0, 2],
        graphics: [0, 0, 0, 0, 0, 0x10, 0x0E, 0, 0xFF],
        bank: 0,
    };

    #[test]
    fn odd_even_puts_codes_and_attributes_side_by_side() {
        let w = window(TEXT);
        w.write(0x1_8000, 2, 0x0741);
        w.write(0x1_8002, 2, 0x0842);
        assert_eq!((w.load(0), w.load(2)), (0x0741, 0x0842));
        assert_eq!(w.read(0x1_8002, 2), 0x0842);
    }

    #[test]
    fn nothing_is_decoded_outside_of_the_map_selected() {
        let w = window(TEXT);
        w.write(0, 1, 0x55);
        w.write(0x1_7FFF, 1, 0x55);
        assert_eq!((w.read(0, 1), w.read(0x1_7FFE, 2)), (0xFF, 0xFFFF));
        let mut off = TEXT;
        off.misc_output &= !2;
        w.set_registers(off);
        assert_eq!(w.read(0x1_8000, 1), 0xFF);
    }

    #[test]
    fn banks_reach_all_of_video_memory_and_wrap() {
        let mut r = PLANAR;
        r.sequencer[4] = 0x0E;
        r.bank = BYTES - 0x1_0000;
        let w = window(r);
        w.write(0xFFFC, 4, 0x1234_5678);
        assert_eq!(w.load(BYTES / 4 - 1), 0x1234_5678);
        r.bank = BYTES;
        w.set_registers(r);
        w.write(0, 1, 0x77);
        assert_eq!(w.load(0) & 0xFF, 0x77);
    }

    #[test]
    fn no_registers_and_accesses_reach_outside_of_video_memory() {
        let mut seed = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 24) as u32
        };
        let w = window(PLANAR);
        for _ in 0..20_000 {
            if next() % 8 == 0 {
                let mut r = Registers {
                    misc_output: next() as u8,
                    bank: next() % (2 * BYTES),
                    ..PLANAR
                };
                r.sequencer = r.sequencer.map(|_| next() as u8);
                r.graphics = r.graphics.map(|_| next() as u8);
                w.set_registers(r);
            }
            let (at, size) = ((next() as u64) % WINDOW_BYTES, 1 << (next() % 4));
            if next() % 2 == 0 {
                assert!(w.read(at, size) <= open_bus(size));
            } else {
                w.write(at, size, next() as u64);
            }
        }
    }
}
